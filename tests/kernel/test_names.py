"""The names of addresses and namespaces, on a staged node with real namespaces and groups."""

from __future__ import annotations

import gzip
import shutil
import socket

import pytest

from check_conntrack.kernel import ctnetlink as ct
from support.commands import EMULATED, NOBODY, SLOWNESS
from support.entries import new_entry
from support.node import Node, Tenant, crowd, pod

MEASURED = True
pytestmark = pytest.mark.usefixtures("need_tools")


@pytest.fixture(scope="module")
def need_tools(need):
    need("ip", "nft", "nsenter", "unshare", "setpriv", "mount")


# An emulated machine takes too long for all of them.
@pytest.fixture(
    scope="module",
    params=[pytest.param(version, id=f"cgroup v{version}") for version in (1, 2)[EMULATED:]],
)
def node(request, need_tools):
    with Node(request.param) as made:
        yield made


@pytest.fixture(params=["sudo"] if EMULATED else ["sudo", "root"])
def named(request, table, node):
    """Runs check_conntrack_table with --names on the node, by sudo and as root."""
    if request.param == "sudo":
        request.getfixturevalue("sudoers")

    def run(*options):
        how = ("--sudo",) if request.param == "sudo" else ()
        user = {} if how else {"user": ()}
        # On a busy machine: names are left out where no time is left.
        return table(
            "--names", "--timeout", 30 * SLOWNESS, *how, *options, before=node.before(), **user
        )

    return run


def flows(source, destination, number, port=443, **more):
    """Messages that make TCP entries of one source and one destination."""
    packed = [socket.inet_aton(address) for address in (source, destination)]
    more = {"state": ct.TCP_CONNTRACK_ESTABLISHED, "status": ct.IPS_ASSURED | 2, **more}
    return [new_entry(*packed, socket.IPPROTO_TCP, 1024 + n, port, **more) for n in range(number)]


@pytest.fixture
def wild(node):
    """Let one address of the node have most entries of the host's table."""

    def fill(source, destination="203.0.113.9", **more):
        node.host.flush()
        node.host.insert(flows("10.244.0.3", "203.0.113.1", 20))
        node.host.insert(flows(source, destination, 1480, **more))

    return fill


WILD = ("-w", "entries=300")


@pytest.mark.parametrize(
    ("address", "owner", "more"),
    [
        ("10.244.0.17", "pod shop/cart-7d9f-17", ", container app"),
        ("10.244.0.18", "pod shop/cart-7d9f-18", ", container app"),
        ("172.17.0.2", "container 3f2a9c0e12ab", ", docker"),
        ("10.0.3.11", "lxc web1", ""),
        ("10.88.0.5", "container abababababab", ", libpod"),
        ("10.0.4.12", "vm 112", ""),
    ],
)
def test_wild_one_is_named_in_the_status_line(node, named, wild, address, owner, more):
    wild(address, state=ct.TCP_CONNTRACK_CLOSE_WAIT)
    result = named(*WILD, "-v")
    assert f"from {address} ({owner})" in result.status, result.out
    assert any(f"{address} ({owner}{more})" in line for line in result.lines)
    assert any(
        line.split("  ")[1].startswith(owner + more) for line in result.lines if line[:2] == "  "
    )


@pytest.fixture(params=["unit's user is root", "unit has a user of its own"])
def nginx(request, node):
    own = "of its own" in request.param
    with node.temporarily():
        yield node.serve("192.0.2.80", 8080 if own else 80, user=33 if own else 0), own


def test_unit_of_the_host_is_told_by_its_sockets(node, named, wild, nginx):
    pid, own = nginx
    port = 8080 if own else 80
    wild("203.0.113.5", "192.0.2.80", port=port, state=ct.TCP_CONNTRACK_SYN_RECV, status=2)
    result = named("-w", "tcp_syn_recv=300", "-v")
    if node.groups.version == 1 and not own:
        # Version 1 has no mark on a socket, and root has programs in every unit.
        assert "on 192.0.2.80 tcp/80 (this namespace) from 203.0.113.5" in result.status
        return
    assert f"on 192.0.2.80 tcp/{port} (unit nginx.service) from" in result.status, result.out
    holder = f"Unit nginx.service, nginx[{pid}], holds 1 of 1 socket of 192.0.2.80 on tcp/{port}."
    assert holder in result.lines


def test_snapshot_keeps_the_names_for_another_host(node, named, wild, table, state):
    wild("10.244.0.17", state=ct.TCP_CONNTRACK_CLOSE_WAIT)
    folder = state / "snapshots"
    folder.mkdir()
    shutil.chown(folder, 65534, 65534)
    named(*WILD, "--save", folder)
    (file,) = folder.iterdir()
    result = table("--source", file, "-v")
    assert "from 10.244.0.17 (pod shop/cart-7d9f-17)" in result.status
    assert any(
        "172.17.0.2" not in line and "pod shop/cart-7d9f-03" in line for line in result.lines
    )
    kept = gzip.decompress(file.read_bytes()).decode()
    line = (
        "# check-conntrack owner address=172.17.0.2 kind=container name=3f2a9c0e12ab engine=docker"
    )
    assert line in kept.splitlines()


AMBIENT = [*NOBODY, "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]


def test_without_its_privileges_an_address_stays_one_and_a_line_says_so(node, table, wild):
    wild("10.244.0.17", state=ct.TCP_CONNTRACK_CLOSE_WAIT)
    result = table("--names", *WILD, "-v", before=node.before(), user=AMBIENT)
    assert "from 10.244.0.17," in result.status
    assert "10.244.0.17 (" not in result.out
    assert any("Names of owners are missing: permission denied" in line for line in result.lines)
    assert "Names" not in table(*WILD, "-v", before=node.before(), user=AMBIENT).out


@pytest.fixture
def second(node):
    """Add another namespace to the node, with an address that one of its pods has."""
    with node.temporarily():
        yield node.add


def test_address_of_two_pods_is_named_after_both(node, named, wild, second):
    second(pod(0x77, "other/twin", "10.244.0.17", systemd=True))
    wild("10.244.0.17", state=ct.TCP_CONNTRACK_CLOSE_WAIT)
    result = named(*WILD, "-v")
    either = {"pod shop/cart-7d9f-17, container app", "pod other/twin, container app"}
    (line,) = [line for line in result.lines if line.startswith("  10.244.0.17 (")]
    words = line[line.index("(") + 1 : line.index(")")]
    assert set(words.split(" or ")) == either
    # Nobody can tell whose the entries are.
    assert not any(line.strip().startswith("pod shop/cart-7d9f-17") for line in result.lines)


def test_address_that_a_user_gives_himself_does_not_hide_the_pod(node, named, wild, second):
    user = "user.slice/user-1000.slice/session-1.scope"
    second(Tenant(user, "10.244.0.17"))
    wild("10.244.0.17", state=ct.TCP_CONNTRACK_CLOSE_WAIT)
    assert "from 10.244.0.17 (pod shop/cart-7d9f-17)" in named(*WILD).status


HOSTILE = "web\x1b[31m\n|x=1;;; \u202e" + "n" * 200


def test_hostile_names_never_reach_the_output(node, named, wild, second):
    # The kernel takes no newline in the name of a group.
    group = f"lxc.payload.{HOSTILE}".replace("\n", "")
    folder = f"evil_{HOSTILE}_00000066-aaaa-4bbb-8ccc-0123456789ab"
    second(Tenant(group[:250], "10.244.9.1"))
    second(pod(0x66, "evil/x", "10.244.9.2", systemd=False)._replace(folder=folder[:250]))
    for address in ("10.244.9.1", "10.244.9.2"):
        wild(address, state=ct.TCP_CONNTRACK_CLOSE_WAIT)
        result = named(*WILD, "-v")
        assert f"from {address} (" in result.status, result.lines
        assert result.out.isascii()
        assert result.out.isprintable() is False or "\n" in result.out
        assert all(line.isprintable() for line in result.out.splitlines())
        assert result.out.partition("\n")[0].count("|") == 1
        assert "|" not in "".join(result.lines)
        assert "n" * 100 not in result.out


def test_full_namespace_is_called_by_its_owner(node, usage, sudoers, second):
    namespace = second(pod(0x55, "shop/wild", "10.244.8.8", systemd=True))
    namespace.track()
    namespace.insert(flows("10.244.8.8", "203.0.113.9", 700))
    # The labels of the first namespace are plain. Earlier tests have filled its table.
    node.host.flush()
    namespaces = ("--netns", node.host.name, "--netns", "cni-*")
    options = (*namespaces, "--sudo", "-w", "entries=500", "--timeout", 30 * SLOWNESS)
    result = usage(*options, before=node.before())
    assert result.status.startswith("CONNTRACK_USAGE WARNING - pod shop/wild 700 of "), result.out
    called = f"  {namespace.name} (pod shop/wild, container app)"
    assert any(line.startswith(called) for line in result.lines), result.lines
    # The label stays what the namespace is called: graphs go by it.
    assert f"{namespace.name}::usage" in result.perfdata


def test_owner_is_found_among_500_namespaces(netns, table, sudoers):
    namespace = netns()
    namespace.insert(flows("10.245.1.44", "203.0.113.9", 1200))
    before = ["nsenter", f"--net={namespace.path}"]
    with crowd(500):
        result = table("--sudo", "-t", 50 * SLOWNESS, *WILD, "-v", "--names", before=before)
    assert any(line.startswith("  10.245.1.44 (process python3[") for line in result.lines)
    # The reader has three seconds for all of them.
    assert "Names of owners are missing" not in result.out or EMULATED
