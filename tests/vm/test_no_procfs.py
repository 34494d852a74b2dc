"""Checks where conntrack has no files in /proc/net: the default of kernels since 5.15.65."""

from __future__ import annotations

import pytest

from support import features, overflow
from support.commands import NOBODY


@pytest.fixture
def lossy(need):
    """A namespace that has lost packets, on a kernel without the files."""
    need("ip", "nft", "conntrack")
    if features.has_procfs():
        pytest.skip("this kernel has /proc/net/nf_conntrack")
    with overflow.namespace() as namespace:
        overflow.overflow(namespace, datagrams=20)
        yield namespace


@pytest.fixture
def quiet(tmp_path):
    """A log of another host, without losses."""
    tmp_path.chmod(0o755)
    log = tmp_path / "kern.log"
    log.write_text("2020-01-01T00:00:00+00:00 router kernel: all is quiet\n")
    return log


def test_full_counters_of_all_namespaces_come_over_ctnetlink(lossy, full, quiet):
    result = full("--netns", "all", "--log", quiet, "-vvv", user=())
    assert "drop_total" in result.perfdata, result.out
    assert result.value(f"{lossy.name}::drop_total") >= 15
    assert "no privileges" not in result.out


@pytest.mark.parametrize("words", [(), ("--netns", "all")], ids=["own", "all"])
def test_full_counters_come_through_sudo(lossy, full, quiet, sudoers, words):
    inside = lossy.command()
    seen = full("--sudo", "--log", quiet, *words, before=inside)
    assert seen.value("drop_total") >= 15, seen.out


def test_full_says_what_the_counters_need(lossy, full, quiet):
    result = full("--log", quiet, before=lossy.command(), user=NOBODY)
    assert "drop_total" not in result.perfdata
    assert "CAP_NET_ADMIN" in result.out


def test_table_is_read_over_ctnetlink(lossy, table):
    result = table(before=lossy.command(), user=())
    assert result.value("entries") == lossy.count() > 0
    refused = table("--source", "proc", before=lossy.command(), user=())
    assert refused.code == 3
    assert "/proc/net/nf_conntrack" in refused.out
