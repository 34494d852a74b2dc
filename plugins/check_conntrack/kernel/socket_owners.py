"""Tell which unit or container of this host holds the sockets of an address and a port.

Needs no privilege. sock_diag(7) shows the control group (INET_DIAG_CGROUP_ID, Linux 5.9 and cgroup
version 2) and the user of each socket. A request for it loads modules where they are missing, and
no check may do that; then /proc/net/tcp and udp show the user alone.
"""

from __future__ import annotations

import collections
import os
import re
import struct
import sys
from contextlib import suppress

from . import netlink
from .control_groups import owner_of
from .namedtuple import NamedTuple
from .owner_request import read_process
from .owners import UNIT, USER, Owner
from .source import read_file, read_long_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .control_groups import Process
    from .owners import Pod

MOST_SOCKETS = 20000  # that are looked at
MOST_GROUPS = 20000  # folders of control groups that are looked at
MOST_PROCESSES = 20000
_PROTOCOLS = {"tcp": 6, "udp": 17}
_MODULES = {"tcp": ("inet_diag", "tcp_diag"), "udp": ("inet_diag", "udp_diag")}
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
INET_DIAG_CGROUP_ID = 21  # linux/inet_diag.h
ROOT_GROUP = 1  # the id of the root group; with version 1 the kernel says this of every socket
_DIAG_MESSAGE = struct.Struct(">4xHH16s16s4x8x")  # struct inet_diag_msg, its beginning
_DIAG_USER = struct.Struct("=12xI4x")  # and its end
_REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2
# ESTABLISHED, SYN_SENT, CLOSE (of UDP), CLOSE_WAIT and LISTEN (net/tcp_states.h). In the others a
# socket may belong to no process yet, or none any more; the kernel shows it as one of root's.
_STATES = (1, 2, 7, 8, 10)
_LINE = re.compile(
    rb"^ *[0-9]+: ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) (?:%b)(?: \S+){3} +([0-9]+) "
    % b"|".join(b"%02X" % state for state in _STATES),
    re.MULTILINE,
)


class Socket(NamedTuple):
    """A socket of this process's network namespace; addresses are packed, IPv4 in 4 bytes.

    group: the inode number of its control group, 0 where that is not known.
    """

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    user: int
    group: int = 0


class Holder(NamedTuple):
    """The owner of most sockets of an address and a port: it holds `sockets` of `of`."""

    owner: Owner
    sockets: int
    of: int


def holder(
    address: bytes, protocol: str, port: int, pods: Mapping[str, Pod], *, server: bool
) -> Holder | None:
    """Return who holds most of the sockets that an own address has for a port; None: unknown.

    server: the port is the address' own, else that of the other end.
    """
    if protocol not in _PROTOCOLS or not port:
        return None
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    users: dict[int, set[int]] = {}
    for number, one in enumerate(_sockets(protocol)):
        if number >= MOST_SOCKETS:
            break
        if (one.local_port if server else one.remote_port) != port:
            continue
        # What listens on any address listens on this one.
        if one.local == address or (server and not any(one.local) and not one.remote_port):
            # A service may have sockets of several users.
            counts[one.group, 0 if one.group else one.user] += 1
            users.setdefault(one.group, set()).add(one.user)
    if not counts:
        return None
    (group, user), most = counts.most_common(1)[0]
    if group and len(users[group]) == 1:
        (user,) = users[group]
    total = sum(counts.values())
    owner = _owner(group, user, pods) if 2 * most > total else None
    return Holder(owner, most, total) if owner else None


def _owner(group: int, user: int, pods: Mapping[str, Pod]) -> Owner | None:
    owner = None
    path = _path_of_group(group) if group else ""
    if path:
        pid = min(map(int, read_file(f"{path[0]}/cgroup.procs", 1 << 16).data.split()), default=0)
        process = read_process(str(pid))._replace(groups=b"0::" + os.fsencode(path[1]))
        owner = owner_of(process, pods)
    return owner or (_owner_by_user(user, pods) if user else None)


# --- sockets


def _sockets(protocol: str) -> Iterator[Socket]:
    if in_kernel(_MODULES[protocol]):
        found = False
        with suppress(OSError, netlink.MalformedError):
            for one in _diagnosed(_PROTOCOLS[protocol]):
                found = True
                yield one
        if found:
            return
    yield from _listed(protocol)


def in_kernel(modules: Iterable[str]) -> bool:
    """Return whether modules are in the kernel, so that asking for them loads none.

    False where this cannot be excluded.
    """
    listed = read_long_file("/proc/modules")
    if listed.missing:  # a kernel without loadable modules (CONFIG_MODULES)
        return True
    loaded = {line.partition(b" ")[0] for line in listed.data.splitlines() if b" Live " in line}
    builtin = read_long_file(f"/lib/modules/{os.uname().release}/modules.builtin").data
    return not listed.errno and all(
        name.encode() in loaded or f"/{name}.ko".encode() in builtin for name in modules
    )


def _diagnosed(protocol: int) -> Iterator[Socket]:
    """Yield the sockets of a protocol that processes hold; raises OSError, MalformedError."""
    import socket

    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as link:
        link.settimeout(1.0)
        for family in (socket.AF_INET, socket.AF_INET6):
            states = sum(1 << state for state in _STATES)
            body = _REQUEST.pack(family, protocol, 0, 0, states)
            flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
            size = netlink.NLMSGHDR.size + len(body)
            link.send(netlink.NLMSGHDR.pack(size, SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
            ended = False
            while not ended:
                data = link.recv(1 << 16)
                for start, end in netlink.messages(data):
                    kind_of = netlink.NLMSGHDR.unpack_from(data, start)[1]
                    if kind_of in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR):
                        ended = True
                    elif kind_of == SOCK_DIAG_BY_FAMILY:
                        yield _socket(data, start + netlink.NLMSGHDR.size, end)


def _socket(data: bytes, start: int, end: int) -> Socket:
    size = _DIAG_MESSAGE.size + _DIAG_USER.size
    if end - start < size:
        raise netlink.MalformedError("a socket is cut short")
    local_port, remote_port, local, remote = _DIAG_MESSAGE.unpack_from(data, start)
    (user,) = _DIAG_USER.unpack_from(data, start + _DIAG_MESSAGE.size)
    group = 0
    for kind, first, last in netlink.attributes(data, start + size, end):
        if kind == INET_DIAG_CGROUP_ID:
            group = int.from_bytes(data[first:last], sys.byteorder)
            group = 0 if group == ROOT_GROUP else group
    four = data[start] == 2  # AF_INET
    local, remote = (each[:4] if four else _plain(each) for each in (local, remote))
    return Socket(local, local_port, remote, remote_port, user, group)


def _listed(protocol: str) -> Iterator[Socket]:
    """Yield the same from /proc/net (Documentation/networking/proc_net_tcp.rst)."""
    for name in (protocol, f"{protocol}6"):
        for match in _LINE.finditer(read_long_file(f"/proc/net/{name}").data):
            local, remote = (_packed(match[number]) for number in (1, 3))
            yield Socket(local, int(match[2], 16), remote, int(match[4], 16), int(match[5]))


def _packed(digits: bytes) -> bytes:
    """Return an address that is written as numbers of 32 bits in host order."""
    words = [digits[at : at + 8] for at in range(0, len(digits), 8)]
    return _plain(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))


def _plain(address: bytes) -> bytes:
    """Return an IPv4 address that is mapped into IPv6 as such."""
    return address[12:] if address[:12] == bytes(10) + b"\xff\xff" else address


# --- control groups and users


def _path_of_group(group: int) -> tuple[str, str] | None:
    """Return the folder of a control group of version 2, and its path among them; None: not found.

    The id of a group is the inode number of its folder (kernfs).
    """
    top = _mount_of_groups()
    waiting = [top] if top else []
    looked = 0
    while waiting and looked < MOST_GROUPS:
        folder = waiting.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                looked += 1
                if entry.inode() == group:
                    return entry.path, entry.path[len(top) :]
                waiting.append(entry.path)
    return None


def _mount_of_groups() -> str:
    for line in read_long_file("/proc/self/mountinfo").data.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split()
        if after.startswith(b"cgroup2 ") and len(fields) > 4 and b"\\" not in fields[4]:
            return os.fsdecode(fields[4])
    return ""


def _owner_by_user(user: int, pods: Mapping[str, Pod]) -> Owner:
    """Return the only unit or container in which a user runs programs here, else the user."""
    found: dict[Owner, Process] = {}
    own = _namespace_of("self")
    for number, name in enumerate(filter(str.isdigit, os.listdir("/proc"))):
        if number >= MOST_PROCESSES:
            break
        with suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == user and _namespace_of(name) == own:
                process = read_process(name)
                owner = owner_of(process, pods)
                if owner:
                    found.setdefault(owner._replace(program="", pid=0), process)
    if len(found) == 1:
        (process,) = found.values()
        owner = owner_of(process, pods)
        if owner and owner.kind != USER and (owner.kind != UNIT or owner.program):
            return owner
    return Owner(USER, str(user))


def _namespace_of(pid: str) -> int:
    """Return what differs between network namespaces and everybody may see; raises OSError."""
    return os.stat(f"/proc/{pid}/net/dev").st_ino
