"""Owners of addresses and namespaces: control groups, the reader's answer, words, and lines."""

from __future__ import annotations

import errno
import io
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.advice import owner_words
from check_conntrack.kernel import (
    control_groups,
    limits,
    namespace_request,
    owner_request,
    owners,
    rtnetlink,
    socket_owners,
)
from check_conntrack.kernel import table_file as files
from check_conntrack.kernel.control_groups import Process
from check_conntrack.kernel.namespaces import Namespace
from check_conntrack.kernel.owners import Owner, Ownership, Pod
from check_conntrack.kernel.reader_client import Frame
from check_conntrack.kernel.source import FileReading
from check_conntrack.table import names
from support.addresses import address_message

ID = "3f2a9c0e12ab" + "0123456789abcdef" * 3 + "4567"
SHORT = ID[:12]
UID = "12345678-aaaa-4bbb-8ccc-0123456789ab"
SLICE = f"pod{UID.replace('-', '_')}.slice"
HASH = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def host_namespace(monkeypatch):
    """Let this process be in the host's namespace."""
    monkeypatch.setattr(limits, "may_set_limits", lambda: True)


def owner_of(*groups, command=b"sleep\n", host_name=b"", pods=None, version=2):
    """The owner of a process in these groups, one for each hierarchy."""
    if version == 2:
        text = "".join(f"0::{group}\n" for group in groups)
    else:
        text = "".join(f"{n}:cpu{n}:{group}\n" for n, group in enumerate(groups, 2)) + "0::/\n"
    return control_groups.owner_of(Process(7, text.encode(), command, host_name), pods or {})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("group", "kind", "name", "engine"),
    [
        (
            f"/kubepods.slice/kubepods-b.slice/kubepods-b-{SLICE}/cri-containerd-{ID}.scope",
            *("pod", UID, ""),
        ),
        (f"/kubepods.slice/kubepods-{SLICE}/crio-{ID}.scope", "pod", UID, ""),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-{SLICE}/x", "pod", UID, ""),
        (f"/kubepods/besteffort/pod{UID}/{ID}", "pod", UID, ""),
        (f"/kubepods/pod{HASH}/{ID}", "pod", HASH, ""),
        (
            f"/system.slice/containerd.service/kubepods-besteffort-{SLICE}:cri-containerd:{ID}",
            *("pod", UID, ""),
        ),
        (f"/../../kubepods/pod{UID}", "pod", UID, ""),
        (f"/system.slice/docker-{ID}.scope", "container", SHORT, "docker"),
        (f"/docker/{ID}", "container", SHORT, "docker"),
        (f"/machine.slice/libpod-{ID}.scope/container", "container", SHORT, "libpod"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", "container", SHORT, "libpod"),
        (f"/default/{ID}", "container", SHORT, "containerd"),
        (f"/some/where/{ID}", "container", SHORT, ""),
        ("/machine.slice/systemd-nspawn@deb.service/payload", "container", "deb", "systemd-nspawn"),
        ("/machine.slice/machine-deb.scope", "container", "deb", "systemd-nspawn"),
        ("/lxc.payload.web1/init.scope", "lxc", "web1", ""),
        ("/lxc/101/ns/init.scope", "lxc", "101", ""),
        (r"/machine.slice/machine-lxc\x2d4\x2dmail.scope", "lxc", "mail", ""),
        (r"/machine.slice/machine-qemu\x2d12\x2dweb\x2d1.scope/libvirt", "vm", "web-1", ""),
        ("/machine/qemu-3-db.libvirt-qemu/emulator", "vm", "db", ""),
        ("/qemu.slice/112.scope", "vm", "112", ""),
        ("/system.slice/nginx.service", "unit", "nginx.service", ""),
        ("/init.scope", "unit", "init.scope", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "user", "1000", ""),
        ("/", "process", "", ""),
        ("/system.slice", "process", "", ""),
    ],
)
def test_control_group_tells_the_owner(group, kind, name, engine, version):
    owner = owner_of(group, version=version)
    assert (owner.kind, owner.name, owner.engine, owner.below) == (kind, name, engine, "")
    assert (owner.program == "sleep") == (kind in ("unit", "user", "process"))


@pytest.mark.parametrize(
    ("group", "kind", "below"),
    [
        (f"/docker/{ID}/kubepods/pod{UID}", "container", ""),
        (f"/lxc.payload.web1/system.slice/docker-{ID}.scope", "lxc", ""),
        (f"/system.slice/evil.service/docker/{ID}", "container", "evil.service"),
        (f"/system.slice/docker.service/docker/{ID}", "container", ""),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            *("container", "uid:1000"),
        ),
        (f"/user.slice/user-1000.slice/kubepods/pod{UID}", "pod", "uid:1000"),
    ],
)
def test_outermost_group_decides(group, kind, below):
    owner = owner_of(group)
    assert (owner.kind, owner.below) == (kind, below)


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_name_of_a_group_is_no_line_of_its_own(end):
    owner = owner_of(f"/user.slice/user-1000.slice/x{end}0::/kubepods/pod{UID}")
    assert (owner.kind, owner.below) == ("pod", "uid:1000")


def test_strong_owner_in_any_hierarchy_wins_over_a_unit():
    owner = owner_of("/system.slice/containerd.service", f"/kubepods/pod{UID}/{ID}", version=1)
    assert owner.kind == "pod"


def test_pod_has_the_name_of_its_folder_and_its_only_container():
    group = f"/kubepods/pod{UID}/{ID}"
    pods = control_groups.pods_by_uid(
        f"shop_cart-7d9f_{UID}\0shop_cart-7d9f_{UID}/app\0bad\0_x_{UID}\0a_b_nouid\0".encode()
    )
    assert pods == {UID: Pod("shop/cart-7d9f", ("app",))}
    assert owner_of(group, pods=pods) == Owner("pod", "shop/cart-7d9f", container="app")
    two = {UID: Pod("shop/cart-7d9f", ("app", "side"))}
    assert owner_of(group, pods=two) == Owner("pod", "shop/cart-7d9f")
    # Without a folder, its host name is the name of the pod, cut at 63 characters.
    assert owner_of(group, host_name=b"cart-7d9f") == Owner("pod", "cart-7d9f")


def test_host_name_is_kept_where_it_says_more():
    group = f"/docker/{ID}"
    assert owner_of(group, host_name=SHORT.encode()).host_name == ""
    assert owner_of(group, host_name=b"web").host_name == "web"
    assert owner_of("/", host_name=b"web") == Owner(
        "process", program="sleep", pid=7, host_name="web"
    )
    assert owner_of("/", command=b"") is None


@given(st.text(max_size=5000))
def test_safe_name_is_short_and_has_no_unusual_character(name):
    safe = owners.safe(name)
    assert len(safe) <= owners.LONGEST_NAME
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@:/+-")
    assert owners.safe(safe) == safe


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_of_groups_and_folders_give_safe_names_or_none(groups, folders):
    pods = control_groups.pods_by_uid(folders)
    owner = control_groups.owner_of(Process(1, b"0::/lxc/" + groups, groups, folders), pods)
    if owner:
        words = owner_words.full(owner)
        assert words.isascii()
        assert words.isprintable()
        assert "|" not in words


# --- addresses


V4, V6 = socket.inet_aton("10.0.0.1"), socket.inet_pton(socket.AF_INET6, "fd00::1")


def test_addresses_of_a_dump_are_those_that_others_know():
    dump = b"".join(
        (
            address_message(V4),
            address_message(V6),
            address_message(b"\x7f\0\0\1", scope=254),
            address_message(b"\xfe\x80" + bytes(14), scope=253),
            address_message(b"\x0a\0\0\x63", local=b"\x0a\0\0\x62"),
        )
    )
    assert list(rtnetlink.global_addresses(dump)) == [V4, V6, b"\x0a\0\0\x62"]
    assert list(rtnetlink.global_addresses(dump[:-3])) == [V4, V6]


@given(st.binary(max_size=200))
def test_any_bytes_are_addresses_or_none(data):
    assert all(len(address) in (4, 16) for address in rtnetlink.global_addresses(data))


def test_own_addresses_need_no_privilege():
    addresses = set(rtnetlink.global_addresses(rtnetlink.read_addresses()))
    assert b"\x7f\0\0\1" not in addresses


# --- the reader's answer


def frames(inode, path, address=b"", groups=b"", command=b"sleep\n"):
    """Return what the reader says of a namespace."""
    found = [Frame(inode, 0, "addresses", path, address_message(address))] if address else []
    if groups:
        process = "/proc/9/ns/net"
        found.append(Frame(inode, 0, "process", process, command + b"\0\0" + groups))
    return found


HOST, POD, OTHER = 1, 71, 72
POD_GROUP = f"0::/kubepods/pod{UID}/{ID}\n".encode()


def test_answer_gives_owners_and_addresses():
    pods = Frame(0, 0, "pods", "/var/log/pods", f"a_x_{UID}\0".encode())
    answer = [
        pods,
        *frames(HOST, "/run/netns/own", b"\x0a\0\0\x09", b"0::/init.scope\n"),
        *frames(POD, "/run/netns/cni-1", V4, POD_GROUP),
        *frames(OTHER, "/run/netns/edge-1", V6, b"0::/system.slice/dnsmasq.service\n"),
        Frame(0, errno.EACCES, "-", "/proc/3/ns/net", b""),
    ]
    found = owner_request.read_answer(answer, HOST, {POD: "cni-1", OTHER: "edge-1"})
    assert found.namespaces == {
        HOST: Owner("host"),
        POD: Owner("pod", "a/x"),
        OTHER: Owner("namespace", "edge-1"),
    }
    assert found.addresses == {b"\x0a\0\0\x09": (HOST,), V4: (POD,), V6: (OTHER,)}
    assert found.pods == {UID: Pod("a/x")}
    assert found.missing == 0


@pytest.mark.parametrize(
    ("codes", "missing"),
    [
        ([errno.ENOENT], 0),
        ([errno.EACCES], 0),
        ([errno.EACCES] * 3, errno.EACCES),
        ([errno.ETIME], errno.ETIME),
    ],
)
def test_answer_says_what_is_missing(codes, missing):
    answer = frames(HOST, "/r", V4, b"0::/init.scope\n")
    answer += [Frame(0, code, "-", "/proc/3/ns/net", b"") for code in codes]
    assert owner_request.read_answer(answer, HOST, {}).missing == missing


def test_request_names_namespaces_before_processes(monkeypatch, tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    monkeypatch.setattr(owner_request, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(owner_request, "mounts", lambda: {"/m/c": 5, str(tmp_path / "a"): 6})
    named = [os.fsencode(tmp_path / name) for name in "ab"]
    assert owner_request.request() == [b"owners", *named, b"/m/c", b"processes"]


def test_namespace_of_the_check_is_called_what_it_is(monkeypatch):
    answer = frames(OTHER, "/run/netns/edge-1", V4, b"0::/system.slice/dnsmasq.service\n")
    for in_host, owner in ((True, Owner("host")), (False, Owner("namespace", "edge-1"))):
        monkeypatch.setattr(limits, "may_set_limits", lambda known=in_host: known)
        found = owner_request.read_answer(answer, OTHER, {OTHER: "edge-1"})
        assert found.namespaces[OTHER] == owner
        own = names.seen_from(found, Namespace("", limits.OWN, OTHER), "", lambda: False)
        assert own.called("10.0.0.1") == f"10.0.0.1 (this {'host' if in_host else 'namespace'})"


def test_address_belongs_to_the_table_then_to_the_host_then_to_what_is_proved():
    ownership = Ownership(
        {
            HOST: Owner("host"),
            POD: Owner("pod", "a/x"),
            OTHER: Owner("user", "1000", program="sh", pid=5),
            73: Owner("pod", "b/y"),
        },
        {b"a": (HOST, POD), b"b": (POD, OTHER), b"c": (OTHER,), b"d": (POD, 73), b"e": (99,)},
    )
    assert ownership.of(b"a", POD) == (Owner("here"),)
    assert ownership.of(b"a", OTHER) == (Owner("host"),)
    assert ownership.of(b"b", HOST) == (Owner("pod", "a/x"),)
    assert ownership.of(b"c", HOST) == (ownership.namespaces[OTHER],)
    assert ownership.of(b"d", HOST) == (Owner("pod", "a/x"), Owner("pod", "b/y"))
    assert ownership.of(b"e", HOST) == ()
    assert ownership.of(b"nothing", HOST) == ()


# --- words and lines

OWNERS = [
    (Owner("pod", "shop/cart-7d9f", container="app"), "pod shop/cart-7d9f", "container app"),
    (Owner("container", SHORT, "docker", host_name="web"), f"container {SHORT}", "docker"),
    (Owner("container", SHORT, below="uid:1000"), f"container {SHORT}, uid 1000", ""),
    (Owner("container", SHORT, below="x.service"), f"container {SHORT}, x.service", ""),
    (Owner("lxc", "web1"), "lxc web1", ""),
    (Owner("vm", "12"), "vm 12", ""),
    (Owner("namespace", "edge-1"), "namespace edge-1", ""),
    (Owner("unit", "nginx.service", program="nginx", pid=812), "unit nginx.service", "nginx[812]"),
    (Owner("user", "1000", program="sh", pid=5), "uid 1000", "sh[5]"),
    (Owner("process", program="sleep", pid=7), "process sleep[7]", ""),
]


@pytest.mark.parametrize(("owner", "short", "more"), OWNERS)
def test_owner_in_words(owner, short, more):
    assert owner_words.short(owner) == short
    assert owner_words.full(owner).startswith(f"{short}, {more}" if more else short)


def test_owners_of_the_table_itself_in_words():
    assert owner_words.short(Owner("host")) == "this host"
    assert owner_words.short(Owner("here")) == "this namespace"
    assert owner_words.short(Owner("itself", "host")) == "the host itself"
    assert owner_words.any_of(["a", "b"]) == "a or b"
    assert owner_words.any_of(["a", "b", "c", "d"]) == "a or b or 2 more"


def test_owners_are_the_same_after_a_file():
    known = {socket.inet_aton(f"10.0.0.{n}"): (one[0],) for n, one in enumerate(OWNERS)}
    known[V6] = (OWNERS[0][0], OWNERS[4][0])
    lines = list(files.owner_lines(known))
    assert lines[0] == (
        b"# check-conntrack owner address=10.0.0.0 kind=pod name=shop/cart-7d9f container=app\n"
    )
    assert files.parse_owners(lines) == known
    own = files.parse_owners(files.owner_lines({V4: (Owner("host"),), V6: (Owner("here"),)}))
    assert own == {V4: (Owner("itself", "host"),), V6: (Owner("itself", "namespace"),)}


def test_lines_about_owners_are_bounded(monkeypatch):
    monkeypatch.setattr(files, "MOST_OWNERS", 3)
    known = {bytes((10, 0, 0, n)): (Owner("lxc", "x"),) for n in range(9)}
    assert len(list(files.owner_lines(known))) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"address=10.0.0.1",
        b"address=10.0.0.1 kind=god name=x",
        b"address=nowhere kind=pod name=x",
        b"kind=pod name=x",
        b"address=10.0.0.1 kind=itself name=x",
        b"\xff\xfe",
    ],
)
def test_malformed_line_about_an_owner_is_passed_over(line):
    assert files.parse_owners([files.OWNER + line]) == {}


def test_line_about_an_owner_is_cleaned():
    line = files.OWNER + b"address=10.0.0.1 kind=lxc name=a|b\x1b[31m pid=99999999999 bad=1"
    (owner,) = files.parse_owners([line])[V4]
    assert owner.name.replace("_", "").isalnum()
    assert owner.pid == 0


# --- sockets


@pytest.mark.parametrize(
    ("modules", "builtin", "known"),
    [
        (None, b"", True),
        (b"tcp_diag 1 0 - Live 0x0\ninet_diag 1 1 tcp_diag, Live 0x0\n", b"", True),
        (b"tcp_diag 1 0 - Loading 0x0\ninet_diag 1 1 tcp_diag, Live 0x0\n", b"", False),
        (b"tcp_diag2 1 0 - Live 0x0\n", b"", False),
        (b"", b"kernel/net/ipv4/inet_diag.ko\nkernel/net/ipv4/tcp_diag.ko\n", True),
        (b"", b"kernel/net/ipv4/inet_diag.ko\n", False),
    ],
)
def test_sockets_are_asked_for_only_where_no_module_can_be_loaded(
    monkeypatch, modules, builtin, known
):
    def read(path, most=0):
        if path == "/proc/modules":
            return FileReading(path, modules or b"", errno.ENOENT if modules is None else 0)
        return FileReading(path, builtin)

    asked = []
    monkeypatch.setattr(socket_owners, "read_long_file", read)
    monkeypatch.setattr(socket_owners, "_diagnosed", lambda protocol: asked.append(protocol) or [])
    assert socket_owners.in_kernel(("inet_diag", "tcp_diag")) is known
    list(socket_owners._sockets("tcp"))
    assert asked == ([6] if known else [])


def test_sockets_are_the_same_from_both_sources():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
    ):
        ports = {server.getsockname()[1], other.getsockname()[1]}

        def mine(sockets):
            return sorted(
                one._replace(group=0)
                for one in sockets
                if {one.local_port, one.remote_port} & ports
            )

        listed = mine(socket_owners._listed("tcp"))
        assert len(listed) == 4
        if socket_owners.in_kernel(("inet_diag", "tcp_diag")):
            assert mine(socket_owners._diagnosed(6)) == listed


def test_sockets_that_no_process_holds_are_left_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        client = socket.create_connection(place)
        accepted, _ = server.accept()
        client.close()
        accepted.recv(1)
        accepted.close()  # the client's end is in TIME_WAIT now
        with open("/proc/net/tcp") as file:
            assert sum(f":{place[1]:04X} " in line for line in file) == 2
        sources = [socket_owners._listed("tcp")]
        if socket_owners.in_kernel(("inet_diag", "tcp_diag")):
            sources.append(socket_owners._diagnosed(6))
        for source in sources:
            found = [one for one in source if place[1] in (one.local_port, one.remote_port)]
            assert [one.remote_port for one in found] == [0]


def sockets_of(monkeypatch, *sockets):
    monkeypatch.setattr(socket_owners, "_sockets", lambda _: iter(sockets))
    monkeypatch.setattr(
        socket_owners,
        "_owner",
        lambda group, user, pods: Owner("unit", f"u{group}.service") if group else None,
    )


def test_holder_is_the_owner_of_most_sockets(monkeypatch):
    def client(group):
        return socket_owners.Socket(V4, 5000, b"\1\1\1\1", 443, 0, group)

    server = socket_owners.Socket(bytes(4), 443, bytes(4), 0, 0, 9)
    sockets_of(monkeypatch, client(5), client(5), client(6), server)
    found = socket_owners.holder(V4, "tcp", 443, {}, server=False)
    assert found == (Owner("unit", "u5.service"), 2, 3)
    found = socket_owners.holder(V4, "tcp", 443, {}, server=True)
    assert found == (Owner("unit", "u9.service"), 1, 1)
    assert socket_owners.holder(V4, "tcp", 80, {}, server=True) is None
    assert socket_owners.holder(V4, "icmp", 0, {}, server=True) is None
    sockets_of(monkeypatch, client(5), client(6))
    assert socket_owners.holder(V4, "tcp", 443, {}, server=False) is None


def test_holder_of_sockets_of_several_users_is_their_group(monkeypatch):
    sockets = [
        socket_owners.Socket(V4, 5000 + user, b"\1\1\1\1", 443, user, 5) for user in (0, 33, 34)
    ]
    sockets_of(monkeypatch, *sockets)
    found = socket_owners.holder(V4, "tcp", 443, {}, server=False)
    assert found == (Owner("unit", "u5.service"), 3, 3)


def test_names_in_a_file_are_found_by_the_reader_of_text():
    from check_conntrack.flows import tally, text

    line = b"# check-conntrack owner address=10.0.0.1 kind=lxc name=web1"
    listing = text.count(io.BytesIO(line + b"\n# check-conntrack end entries=0\n"), tally.Tally())
    assert listing.owners == [line]
    assert listing.shown == 0


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (f"/kubepods.slice/kubepods-{SLICE}/cri-containerd-{ID}.scope", f"pod-{UID}"),
        (f"/user.slice/user-1000.slice/kubepods.slice/kubepods-{SLICE}", f"uid-1000-pod-{UID}"),
        (f"/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope", None),
        ("/system.slice/nginx.service", "nginx"),
    ],
)
def test_inhabitant_of_a_group_that_a_user_made_passes_for_nothing_else(monkeypatch, group, name):
    process = Process(7, f"0::{group}\n".encode(), b"sleep\n")
    monkeypatch.setattr(owner_request, "read_process", lambda _: process)
    called = namespace_request.inhabitant("7")
    assert called == (name or f"uid-1000-docker-{SHORT}")
