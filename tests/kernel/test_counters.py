"""The counters of a real namespace, as text and over netlink."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from check_conntrack.kernel import counters as ct
from support import features, overflow
from support.machine import machine_wide


@pytest.fixture
def namespace(need):
    need("ip", "nft", "conntrack")
    with overflow.namespace() as made:
        yield made


def as_text(namespace):
    features.need_procfs()
    return ct.parse_text(namespace.run("cat", ct.PATH).encode())


def over_netlink(namespace):
    return ct.parse_stats_cpu(b"".join(namespace.ask(features.STATS_CPU)))


def test_a_full_table_drops_what_no_failed_insert_explains(namespace):
    before = over_netlink(namespace)
    overflow.overflow(namespace, limit=8, datagrams=100)
    rise = ct.rise(before, over_netlink(namespace), seconds=60)
    assert rise.course is ct.Course.CONTINUED
    assert rise.full_drops == rise.total.drop
    assert rise.full_drops >= 90
    assert rise.total.insert_failed == 0


def test_text_and_netlink_tell_the_same_of_each_cpu(namespace):
    overflow.overflow(namespace, limit=4, datagrams=20)
    text, link = as_text(namespace), over_netlink(namespace)
    assert [cpu.cpu for cpu in text.cpus] == [cpu.cpu for cpu in link.cpus]
    for one, other in zip(text.cpus, link.cpus):
        for name in ct.COUNTERS:
            if getattr(other, name) is not None:
                assert getattr(one, name) == getattr(other, name), name
    assert ct.total(link).drop > 0


def test_entries_are_those_of_the_namespace(namespace):
    overflow.fill_assured(namespace, 5)
    assert as_text(namespace).entries == 5


def test_only_the_namespace_concerned_moves(namespace):
    with overflow.namespace() as other:
        overflow.overflow(namespace, limit=4, datagrams=20)
        assert ct.total(over_netlink(other)).drop == 0


def test_unassured_entries_are_evicted_early_before_anything_is_lost(namespace):
    # With many entries to a bucket the kernel finds one to evict.
    with machine_wide(nf_conntrack_buckets=512, nf_conntrack_max=2048):
        overflow.send(namespace, 0x020001, 0x020001 + 4000)
    assert ct.total(over_netlink(namespace)).early_drop > 0


def test_a_chain_too_long_refuses_inserts_that_no_drop_tells_of(namespace):
    features.need_chain_limit(namespace)
    with machine_wide(nf_conntrack_buckets=512, nf_conntrack_max=262144):
        overflow.send(namespace, 0x020001, 0x020001 + 40000)
        risen = ct.total(over_netlink(namespace))
    assert risen.chaintoolong
    assert risen.insert_failed >= risen.chaintoolong
    assert ct.full_drops(risen) == max(0, risen.drop - (risen.insert_failed - risen.chaintoolong))
    assert ct.full_drops(risen) < risen.chaintoolong


def test_without_the_right_the_kernel_refuses_and_says_why(need):
    need()
    code = (
        "import os,socket,sys;os.setgroups([]);os.setresgid(65534,65534,65534);"
        "os.setresuid(65534,65534,65534);s=socket.socket(16,3,12);s.bind((0,0));"
        f"s.send(bytes.fromhex('{features.STATS_CPU.hex()}'));"
        "sys.stdout.write(s.recv(65536).hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with pytest.raises(ct.NetlinkError) as caught:
        ct.parse_stats_cpu(bytes.fromhex(done.stdout))
    assert caught.value.errno == errno.EPERM
