#!/usr/bin/python3 -ISB
"""The privileged program of the suite: it reads from the kernel and interprets nothing.

It stands alone (standard library only), runs isolated (-I -S) and takes no arguments. It reads one
request from standard input, checks it against a closed grammar, opens what needs privileges, goes
back to its own namespace, drops all privileges, and only then writes what it reads, unparsed, to
standard output. Both are pipes, or it ends.

    request   = what *argument            each field ends with a NUL byte, the whole with EOF
    what      = "limits" *where           nf_conntrack_count and nf_conntrack_max; ctnetlink's count
                                          and limit where nf_conntrack_max is not that of here
              / "counters" *where         the same, /proc/net/stat/nf_conntrack, and ctnetlink's
                                          counters of each CPU
              / "table" *where *8filter   all entries over ctnetlink; a dump for each filter
              / "text" *where             /proc/net/nf_conntrack
              / "timeouts" *where         nf_conntrack_*_timeout*
              / "events" path time        ctnetlink's events of new and changed entries, for so
                                          long; the count and the clock with them
              / "owners" *where           what is in the namespaces: the addresses of each
                                          (RTM_GETADDR), and of the first process in it its command,
                                          host name and control groups, with NUL bytes between;
                                          first, the names of the folders of pods, each ended by one
              / "log"                     /dev/kmsg, a frame for each record
    where     = "processes" / path        the network namespaces of all threads, or one namespace
    path      = "/" 1*4094 byte           a file that names a network namespace, in the mount
                                          namespace of the reader; anything else is not opened
                                          (O_PATH) and reported as ENOENT
    filter    = family ":" *attribute     0, 2 or 10, and netlink attributes in hexadecimal: tuples,
                                          status, zone, mark and their masks
    time      = 1*5DIGIT                  milliseconds, 30000 at most

    answer    = *frame "end" LF
    frame     = inode SP errno SP file SP length-of-path SP length-of-data LF path data
    file      = the source of the data, "-" where the namespace could not be entered

Error numbers with a meaning of their own:
    ENOENT           no network namespace at this path, whatever else is there: the answer reveals
                     nothing about files that the caller may not see
    EPROTONOSUPPORT  ctnetlink is not in the kernel, and asking it would load a module
    ESTALE           /proc shows another namespace's file (kernels before 5.11, after setns(2))
    ETIME            owners: there was no time for the namespaces from here on

An empty table is not dumped: its answer is the end of a dump, NLMSG_DONE. Netlink requests are
built here and can only read. See namespaces(7), setns(2), proc(5), netlink(7), timer_create(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import time
from contextlib import suppress
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from socket import socket
    from typing import Callable

# Time limits, in seconds. SIGALRM ends the process, and SIGKILL where that does not.
LIFETIME = 600  # waiting for the request; then again the whole answer
PREPARATION = 30  # everything that is done with privileges
STALL = 10  # writing one piece of the answer, a quarter of a mebibyte at most
GRACE = 2  # from SIGALRM to SIGKILL
LOG_TIME = 5.0  # the log may be written as fast as it is read
LONGEST_LISTENING = 30.0
LATEST = 1.0  # for reading what is left when listening is over
TICK = 0.05  # between two looks at the events that have arrived
OWNERS_TIME = 3.0  # namespaces beyond it are left out

LONGEST_REQUEST = 1 << 20  # bytes
LONGEST_PATH = 4096  # bytes, PATH_MAX
LONGEST_FILTER = 1024  # bytes of attributes
MOST_DUMPS = 8
# A batch of a dump has up to 32 KiB, and twice that room; batches are joined into frames.
LARGEST_BATCH = 1 << 16
FULL_FRAME = 7 << 15
# Bytes that events may take while nobody reads them: 26000 events on 6.18. The kernel doubles it.
EVENT_ROOM = 16 << 20
PIPE_SIZE = 1 << 20  # bytes, what /proc/sys/fs/pipe-max-size allows to all users
LONGEST_GROUPS, LONGEST_COMMAND = 1 << 14, 64  # bytes of what a process is
MOST_ADDRESSES = 1 << 16  # bytes of a namespace's addresses
MOST_PODS = 4096  # folders, each with at most so many containers:
MOST_CONTAINERS = 16
NOBODY = 65534  # the overflow user and group, /proc/sys/kernel/overflowuid
NAME = b"reader.py"  # of this process, however it was started; 15 bytes at most
MOST_LINKS = 40  # in a path, as in the kernel (path_resolution(7))

SYSCTLS = "/proc/sys/net/netfilter/"
COUNT = "nf_conntrack_count"
LIMIT = "nf_conntrack_max"
LIMITS = (COUNT, LIMIT)
EVENTS = "nf_conntrack_events"
STAT = "/proc/net/stat/nf_conntrack"
TABLE = "/proc/net/nf_conntrack"
OWN_NAMESPACE = "/proc/self/ns/net"
OWN_HOST_NAME = "/proc/self/ns/uts"
PODS = "/var/log/pods"  # a folder NAMESPACE_POD_UID for each, and in it one for each container
MODULES = "/proc/modules"
BUILTIN_MODULES = "/lib/modules/{}/modules.builtin"
SYMBOLS = "/proc/kallsyms"

CLONE_NEWNET = 0x40000000  # linux/sched.h
CLONE_NEWUTS = 0x04000000
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
RLIMIT_CORE = 4  # asm-generic/resource.h
CLOCK_MONOTONIC = 1  # linux/time.h
F_SETPIPE_SZ = 1031  # linux/fcntl.h
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12  # linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_DUMP = 1, 2, 0x300
NLA_TYPE_MASK = 0x3FFF
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE = 1, 2  # linux/netfilter/nfnetlink.h
RTM_GETADDR = 22  # linux/rtnetlink.h
NFNL_SUBSYS_CTNETLINK = 1  # linux/netfilter/nfnetlink.h
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_GET_STATS_CPU = 1, 4  # linux/netfilter/nfnetlink_conntrack.h
IPCTNL_MSG_CT_GET_STATS = 5
# CTA_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _MARK, _ZONE, _MARK_MASK, _FILTER, _STATUS_MASK
FILTERS = frozenset({1, 2, 3, 8, 18, 21, 25, 26})
STOP_SIGNALS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
END_SIGNALS = (signal.SIGALRM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


LIBC = ctypes.CDLL(None, use_errno=True)  # to load it takes longer than a call


class RefusedError(Exception):
    """The request is not in the grammar."""


# --- the process itself


def call(function: str, *arguments: object) -> None:
    """Call a function of libc by name; raises OSError with its errno where it fails."""
    if getattr(LIBC, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def protect_process() -> None:
    """Leave no core file, let nobody trace this process, and undo what it inherited of signals.

    Called again after privileges are dropped: the kernel resets the first two with the user.
    """
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    call("prctl", PR_SET_NAME, NAME, 0, 0, 0)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("setrlimit", RLIMIT_CORE, (ctypes.c_ulong * 2)())
    os.umask(0o077)
    for number in STOP_SIGNALS:  # a terminal sends them, and must not stop a process of root's
        signal.signal(number, signal.SIG_IGN)
    for number in END_SIGNALS:  # sudo passes on what its caller ignores and blocks
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _SignalEvent(ctypes.Structure):
    """struct sigevent with SIGEV_SIGNAL (0), asm-generic/siginfo.h."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    )


class TimeLimit:
    """The end of this process, moved from step to step.

    A stopped process takes no SIGALRM. The SIGKILL of a POSIX timer ends it all the same, and
    asks nobody for permission.
    """

    def __init__(self) -> None:
        self._libc: ctypes.CDLL | None = None
        self._timer = ctypes.c_void_p()
        event = _SignalEvent(None, signal.SIGKILL, 0)
        for library in (None, "librt.so.1"):  # glibc before 2.34 has timers in librt
            with suppress(OSError, AttributeError):
                libc = ctypes.CDLL(library, use_errno=True)
                create, target = libc.timer_create, ctypes.byref(self._timer)
                if create(CLOCK_MONOTONIC, ctypes.byref(event), target) == 0:
                    self._libc = libc
                    return

    def set(self, seconds: float) -> None:
        """End the process after so many seconds from now."""
        whole = max(1, int(seconds))
        signal.alarm(whole)
        if self._libc:
            times = (ctypes.c_long * 4)(0, 0, whole + GRACE, 0)  # struct itimerspec
            self._libc.timer_settime(self._timer, 0, times, None)


def drop_privileges(uid: int = NOBODY, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> None:
    """Become an unprivileged user for good: ids, groups, capabilities, no_new_privs.

    Raises OSError where capabilities cannot be given up.
    """
    drop_bounding_set()
    if os.geteuid() == 0:
        # Each step may fail in a user namespace or without CAP_SETUID. The others still count,
        # and capabilities are given up in any case.
        for change, ids in (
            (os.setgroups, (groups,)),
            (os.setresgid, (gid, gid, gid)),
            (os.setresuid, (uid, uid, uid)),
        ):
            with suppress(OSError):
                change(*ids)
    drop_capabilities()
    forbid_new_privileges()


def drop_bounding_set() -> None:
    """Empty the bounding set, as far as this process may (CAP_SETPCAP)."""
    with suppress(OSError):  # EPERM, or EINVAL past the last capability
        for capability in range(64):
            call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def drop_capabilities() -> None:
    """Empty the permitted, effective, inheritable and ambient sets; raises OSError."""
    with suppress(OSError):  # EINVAL before Linux 4.3, which has no ambient set
        call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def forbid_new_privileges() -> None:
    """Let no program that is executed from here on gain privileges; raises OSError."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# --- the request


def read_request(descriptor: int) -> list[bytes]:
    """Return the fields of the request on a descriptor; raises RefusedError for any other bytes."""
    request = b""
    while len(request) <= LONGEST_REQUEST:
        data = os.read(descriptor, 65536)
        if not data:
            break
        request += data
    what, *arguments = request.split(b"\0")
    if len(request) > LONGEST_REQUEST or not arguments or arguments.pop() != b"":
        raise RefusedError
    paths, filters = split(arguments)
    if what == b"log":
        allowed = not arguments
    elif what == b"events":
        allowed = len(paths) == len(filters) == 1 and paths[0] != b"processes"
        parse_time(arguments[-1] if arguments else b"")
    elif what == b"table":
        allowed = len(filters) <= MOST_DUMPS
        for text in filters:
            parse_filter(text)
    else:
        allowed = not filters and what in (
            b"limits",
            b"counters",
            b"timeouts",
            b"text",
            b"owners",
        )
    if not allowed or any(len(path) >= LONGEST_PATH for path in paths):
        raise RefusedError
    return [what, *arguments]


def split(arguments: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the namespaces among the arguments of a request, and the filters after them."""
    count = 0
    for argument in arguments:
        if argument != b"processes" and not (argument[:1] == b"/" and len(argument) > 1):
            break
        count += 1
    return arguments[:count], arguments[count:]


def parse_time(text: bytes) -> float:
    """Return the seconds to listen for; raises RefusedError."""
    if not 1 <= len(text) <= 5 or text.strip(b"0123456789"):
        raise RefusedError
    seconds = int(text) / 1000
    if seconds > LONGEST_LISTENING:
        raise RefusedError
    return seconds


def parse_filter(text: bytes) -> tuple[int, bytes]:
    """Return the family and the attributes of a filter; raises RefusedError."""
    family, colon, digits = text.partition(b":")
    try:
        attributes = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise RefusedError from None
    # fromhex() skips spaces.
    if family not in (b"0", b"2", b"10") or not colon or len(digits) != 2 * len(attributes):
        raise RefusedError
    if len(attributes) > LONGEST_FILTER:
        raise RefusedError
    offset = 0
    while offset < len(attributes):
        if len(attributes) - offset < 4:
            raise RefusedError
        size, kind = struct.unpack_from("=HH", attributes, offset)
        if size < 4 or offset + size > len(attributes) or kind & NLA_TYPE_MASK not in FILTERS:
            raise RefusedError
        offset += size + 3 & ~3
    return int(family), attributes


# --- namespaces


def threads() -> Iterator[bytes]:
    """Yield the files that name the network namespace of each process, and of each thread."""
    for path in leaders():
        yield path
        pid = int(path.split(b"/")[2])
        with suppress(OSError):
            for tid in map(int, os.listdir(f"/proc/{pid}/task")):
                if tid != pid:
                    yield b"/proc/%d/task/%d/ns/net" % (pid, tid)


def leaders() -> Iterator[bytes]:
    """Yield the files that name the network namespace of each process, in order."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        yield b"/proc/%d/ns/net" % pid


def is_reader(path: bytes) -> bool:
    """Return whether a file in /proc is of a process with the name of a reader.

    Its command line would tell as well, but that is memory of the process: while it waits for a
    file system, for example, whoever reads it waits too.
    """
    with suppress(OSError):
        return read_small(f"/proc/{int(path.split(b'/')[2])}/comm") == NAME + b"\n"
    return False


def readers_last(paths: Iterable[bytes], known: set[int]) -> Iterator[bytes]:
    """Yield files that name the namespaces of processes; those of readers in the end.

    A reader is in another namespace for a moment: it tells nothing of whose that is. `known` are
    the inodes of which nothing more is to be told.
    """
    later = []
    for path in paths:
        try:
            new = os.stat(path).st_ino not in known
        except OSError:
            new = False  # whoever opens it is told why
        if new and is_reader(path):
            later.append(path)
        else:
            yield path
    yield from later


def own_inode() -> int:
    """Return the inode of the network namespace that this process is in."""
    return os.stat(OWN_NAMESPACE).st_ino


def find(path: bytes) -> int:
    """Return a descriptor of what is at a path, opened with O_PATH; raises OSError.

    Links in /proc are followed to ns/net, and not to the root, folder or files of a process. There
    it may have mounted what it likes, and nothing ends a process that waits for a FUSE server:
    root may not enter that file system, but an overlayfs above it.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    proc = os.stat("/proc")
    here, before = os.open("/", flags), b""
    rest = path.split(b"/")[::-1]
    links = 0
    try:
        while rest:
            part = rest.pop()
            if part in (b"", b"."):
                continue
            target = read_link(part, here)
            status = os.fstat(here) if target else proc
            if target and (status.st_dev != proc.st_dev or status.st_ino == proc.st_ino):
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                rest += target.split(b"/")[::-1]
                there = os.open("/" if target[:1] == b"/" else ".", flags, dir_fd=here)
            elif target and (rest or (before, part) != (b"ns", b"net")):
                raise FileNotFoundError(errno.ENOENT, "no namespace")
            else:
                there = os.open(part, flags & ~os.O_NOFOLLOW if target else flags, dir_fd=here)
                before = part
            os.close(here)
            here = there
    except OSError:
        os.close(here)
        raise
    return here


def read_link(name: bytes, folder: int) -> bytes:
    """Return where a link in a folder leads to; empty where it is none. Raises OSError."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return b""


def enter(path: bytes, visited: set[int], *, listed: bool = False) -> int:
    """Move into the network namespace at a path, unless it was visited; return its inode, or 0.

    O_PATH opens nothing, so a device, a FIFO or a link to one does no harm. Files of the kernel's
    file system of namespaces can then be opened without effect. listed: the path is of leaders() or
    threads(), and not of the caller's. Raises OSError: ENOENT where there is no network namespace,
    EACCES or EPERM where there may be one.
    """
    descriptors = []
    try:
        descriptors.append(os.open(path, os.O_PATH | os.O_CLOEXEC) if listed else find(path))
        inode = namespace_inode(os.fstat(descriptors[0]), path)
        if inode in visited:
            return 0
        link = f"/proc/self/fd/{descriptors[0]}"
        descriptors.append(os.open(link, os.O_RDONLY | os.O_CLOEXEC))
        inode = os.fstat(descriptors[1]).st_ino
        visited.add(inode)
        # To stay needs no privileges: CAP_NET_ADMIN alone is enough for the own table.
        if inode != own_inode():
            call("setns", descriptors[1], CLONE_NEWNET)  # EINVAL: a namespace of another type
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        raise FileNotFoundError(errno.ENOENT, "no namespace") from None
    else:
        return inode
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def namespace_inode(status: os.stat_result, path: bytes) -> int:
    """Return the inode of the namespace at a path, whose status is given; raises OSError.

    Where the privilege to look at a process is missing, some kernels (5.10 is one) do not refuse,
    but show the procfs' own directory instead (proc_ns_get_link() in fs/proc/namespaces.c).
    """
    if status.st_dev == os.stat(OWN_NAMESPACE).st_dev:
        return status.st_ino
    if path.endswith(b"/ns/net") and status.st_dev == os.stat("/proc").st_dev:
        raise PermissionError(errno.EACCES, "hidden")
    raise FileNotFoundError(errno.ENOENT, "no namespace")


def leave(home: int, own: str = OWN_NAMESPACE, kind: int = CLONE_NEWNET) -> None:
    """Go back to the namespace of a descriptor, or to a new and empty one; raises OSError.

    In a user namespace that does not own the first one the way back is closed.
    """
    if os.fstat(home).st_ino == os.stat(own).st_ino:
        return
    try:
        call("setns", home, kind)
    except OSError:
        call("unshare", kind)


# --- ctnetlink


def ctnetlink_in_kernel() -> bool:
    """Return whether ctnetlink is in the kernel, so that asking it loads no module.

    A request to a subsystem that is missing makes the kernel run modprobe (nfnetlink_rcv_msg).
    False where this cannot be excluded.
    """
    try:
        listed = read_small(MODULES)
    except FileNotFoundError:  # a kernel without loadable modules (CONFIG_MODULES)
        return True
    except OSError:
        return False
    for line in listed.splitlines():
        if line.startswith(b"nf_conntrack_netlink "):
            return b" Live " in line
    try:
        builtin = read_small(BUILTIN_MODULES.format(os.uname().release))
    except OSError:
        return _has_builtin_symbol(b" ctnetlink_")
    return b"/nf_conntrack_netlink.ko" in builtin


def _has_builtin_symbol(start: bytes) -> bool:
    """Return whether the kernel itself, not a module, has a symbol that starts so."""
    try:
        with open(SYMBOLS, "rb") as symbols:
            return any(start in line and b"[" not in line for line in symbols)
    except OSError:
        return False


def require_ctnetlink() -> None:
    """Raise OSError with EPROTONOSUPPORT where asking ctnetlink here could load a module."""
    if not os.path.exists(SYSCTLS + COUNT) or not ctnetlink_in_kernel():
        raise OSError(errno.EPROTONOSUPPORT, "ctnetlink is not in the kernel")


def request_dump(
    message: int,
    family: int = 0,
    attributes: bytes = b"",
    *,
    deferred: bool = False,
    flags: int = NLM_F_REQUEST | NLM_F_DUMP,
) -> socket:
    """Return a socket on which a dump was requested; raises OSError. Reading needs no privileges.

    deferred: the kernel begins when the socket is read (`first_batches`), not at the request.
    """
    from socket import AF_NETLINK, SO_ERROR, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket

    link = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    if deferred:
        # The kernel fills the first batch while it takes the request. Where few entries match, it
        # walks the whole hash table for that: with our privileges, and under a lock that all users
        # of ctnetlink need. Where the socket has no room, netlink_dump() (net/netlink/af_netlink.c)
        # leaves it to the first read.
        room = link.getsockopt(SOL_SOCKET, SO_RCVBUF)
        link.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
        link.send(echo_request())
    kind = NFNL_SUBSYS_CTNETLINK << 8 | message
    header = struct.pack("=IHHIIBBH", 20 + len(attributes), kind, flags, 1, 0, family, 0, 0)
    link.send(header + attributes)
    if deferred:
        link.setsockopt(SOL_SOCKET, SO_RCVBUF, room // 2)  # the kernel doubles it
        link.getsockopt(SOL_SOCKET, SO_ERROR)  # clears the ENOBUFS of the missing room
    return link


def echo_request() -> bytes:
    """Return a message that ctnetlink refuses: its answer repeats it and fills a small buffer."""
    rest = bytes(4096)
    kind = NFNL_SUBSYS_CTNETLINK << 8 | 0xFF
    return struct.pack("=IHHIIBBH", 20 + len(rest), kind, NLM_F_REQUEST, 0, 0, 0, 0, 0) + rest


def first_batches(links: list[socket]) -> list[bytes]:
    """Return the first batch of each deferred dump, or no bytes in place of an echo.

    The kernel makes each batch within recv(), which holds up no other thread: the dumps begin
    together, on as many processors as there are.
    """
    from _thread import allocate_lock, start_new_thread

    batches = [b""] * len(links)
    locks = [allocate_lock() for _ in links]

    def receive(number: int) -> None:
        try:
            batches[number] = links[number].recv(65536)
        except OSError:
            pass  # the next recv() reports it
        finally:
            locks[number].release()

    for number, lock in enumerate(locks):
        lock.acquire()
        try:
            start_new_thread(receive, (number,))
        except RuntimeError:  # no more threads are allowed
            receive(number)
    for lock in locks:
        lock.acquire()
    refused = struct.pack("=i", -errno.EINVAL)
    kinds = [struct.unpack_from("=H", data, 4)[0] if len(data) >= 20 else 0 for data in batches]
    return [
        b"" if kind == NLMSG_ERROR and data[16:20] == refused else data
        for kind, data in zip(kinds, batches)
    ]


def read_dump(link: socket) -> Iterator[bytes]:
    """Yield the batches of a short dump."""
    from socket import MSG_DONTWAIT

    while True:
        try:
            yield link.recv(65536, MSG_DONTWAIT)
        except BlockingIOError:
            return


def cpu_counters() -> bytes:
    """Return ctnetlink's messages with the counters of each CPU; raises OSError."""
    require_ctnetlink()
    with request_dump(IPCTNL_MSG_CT_GET_STATS_CPU) as link:
        return b"".join(read_dump(link))


def table_stats() -> bytes:
    """Return ctnetlink's message with the count and the limit that hold here; raises OSError.

    A namespace with a limit of its own may be held to the smaller one of the host.
    """
    require_ctnetlink()
    with request_dump(IPCTNL_MSG_CT_GET_STATS, flags=NLM_F_REQUEST) as link:
        return b"".join(read_dump(link))


# --- owners


def addresses() -> bytes:
    """Return the messages with the addresses of the present namespace; raises OSError."""
    from socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, socket

    with socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE) as link:
        flags = NLM_F_REQUEST | NLM_F_DUMP
        link.send(struct.pack("=IHHIIB", 17, RTM_GETADDR, flags, 1, 0, 0))
        data = b""
        for batch in read_dump(link):
            data += batch
            if len(data) > MOST_ADDRESSES:
                break
        return data


def host_name(pid: int, home: int) -> bytes:
    """Return the host name that a process sees, none where it is that of `home`; raises OSError."""
    path = f"/proc/{pid}/ns/uts"
    if os.stat(path).st_ino == home:
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("setns", descriptor, CLONE_NEWUTS)
    finally:
        os.close(descriptor)
    return os.fsencode(os.uname().nodename)


def process_frame(pid: int, inode: int, path: bytes, home: int) -> bytes:
    """Return the frame of what a process is; `home` is the inode of the host's own name."""
    parts = [b"", b"", b""]
    with suppress(OSError):  # gone by now: what is known is handed on
        parts[0] = read_beginning(f"/proc/{pid}/comm", LONGEST_COMMAND)
        parts[2] = read_beginning(f"/proc/{pid}/cgroup", LONGEST_GROUPS)
        parts[1] = host_name(pid, home)
    return frame(inode, 0, "process", path, b"\0".join(parts))


def pods_frame() -> bytes:
    """Return the frame with the names of the folders of pods, and of containers in them."""
    names: list[str] = []
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        top = os.open(PODS, flags)
    except OSError as error:
        return frame(0, error.errno or errno.EIO, "pods", os.fsencode(PODS))
    try:
        for pod in os.listdir(top)[:MOST_PODS]:
            names.append(pod)
            with suppress(OSError):
                folder = os.open(pod, flags, dir_fd=top)
                try:
                    listed = os.listdir(folder)[:MOST_CONTAINERS]
                finally:
                    os.close(folder)
                names += [f"{pod}/{container}" for container in listed]
    finally:
        os.close(top)
    data = b"".join(os.fsencode(name) + b"\0" for name in names)
    return frame(0, 0, "pods", os.fsencode(PODS), data)


def owner_frames(places: list[bytes]) -> Iterator[bytes]:
    """Yield the frames that say what is in the namespaces, as many as there is time for."""
    yield pods_frame()
    end = time.monotonic() + OWNERS_TIME
    home = os.stat(OWN_HOST_NAME).st_ino
    visited: set[int] = set()
    known: set[int] = set()
    for place in places:
        listed = place == b"processes"
        for path in readers_last(leaders(), known) if listed else [place]:
            if time.monotonic() > end:
                yield frame(0, errno.ETIME, "-", path)
                return
            try:
                if listed:
                    inode = namespace_inode(os.stat(path), path)
                    if inode not in known:
                        known.add(inode)
                        yield process_frame(int(path.split(b"/")[2]), inode, path, home)
                    if inode in visited:
                        continue
                inode = enter(path, visited, listed=listed)
                if inode:
                    yield frame(inode, 0, "addresses", path, addresses())
            except OSError as error:
                if not listed or error.errno != errno.ENOENT:
                    yield frame(0, error.errno or errno.EIO, "-", path)


# --- the answer


def frame(inode: int, code: int, file: str, path: bytes, data: bytes = b"") -> bytes:
    """Return one piece of the answer."""
    return frame_header(inode, code, file, path, len(data)) + data


def frame_header(inode: int, code: int, file: str, path: bytes, size: int) -> bytes:
    """Return the beginning of a piece of the answer, before its data of that size in bytes."""
    return f"{inode} {code} {file} {len(path)} {size}\n".encode() + path


def dump_name(number: int) -> str:
    """Return the file of the n-th dump, in its frames."""
    return "dump_" + "abcdefgh"[number]


def read_small(path: str) -> bytes:
    """Return the bytes of a small file; raises OSError."""
    return b"".join(read_descriptor(open_file(path)))


def read_beginning(path: str, most: int) -> bytes:
    """Return the first bytes of a file, as many as one read gives; raises OSError."""
    descriptor = open_file(path)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def open_file(path: str) -> int:
    """Return a descriptor of a file that is no link; raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def read_descriptor(descriptor: int) -> Iterator[bytes]:
    """Yield the rest of a file by pieces, and close it."""
    try:
        while True:
            data = os.read(descriptor, 65536)
            if not data:
                return
            yield data
    finally:
        os.close(descriptor)


def open_of_namespace(path: str, inode: int, owners: dict[int, int]) -> int:
    """Return a descriptor of a file under /proc/net; raises OSError, ESTALE if it is another's.

    Each namespace has inodes of its own there. `owners` are those that were opened before.
    """
    descriptor = open_file(path)
    if owners.setdefault(os.fstat(descriptor).st_ino, inode) == inode:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def text_frames(descriptor: int, inode: int, path: bytes) -> Iterator[bytes]:
    """Yield the frames of an open file; an empty one is its end."""
    for data in read_descriptor(descriptor):
        yield frame(inode, 0, "text", path, data)
    yield frame(inode, 0, "text", path)


def log_frames(descriptor: int) -> Iterator[bytes]:
    """Yield the frames of the kernel log, a record each; one with EAGAIN where time ran out."""
    end = time.monotonic() + LOG_TIME
    while time.monotonic() < end:
        try:
            yield frame(0, 0, "record", b"", os.read(descriptor, 16384))
        except BlockingIOError:
            return
        except OSError as error:
            # EPIPE: overwritten before it was read. EINVAL: too long. The next record is intact.
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise
    yield frame(0, errno.EAGAIN, "record", b"")


def dump_frames(links: list[socket], inode: int, path: bytes) -> Iterator[bytes | memoryview]:
    """Yield the frames of deferred dumps, one dump after the other, and close their sockets.

    The last frame of each dump is empty and holds the error number, if any. What is yielded is
    valid until the next is asked for: a million entries are 230 MB, and copies cost time.
    """
    from socket import MSG_DONTWAIT

    batches = first_batches(links)
    room = memoryview(bytearray(FULL_FRAME + LARGEST_BATCH))
    for number, (link, batch) in enumerate(zip(links, batches)):
        name = dump_name(number)
        room[: len(batch)] = batch
        filled, code = len(batch), 0
        ended = False
        while not ended:
            try:
                # The next batch is ready when one was taken, until the dump ends.
                filled += link.recv_into(room[filled:], 0, MSG_DONTWAIT)
            except BlockingIOError:
                ended = True
            except OSError as error:
                code, ended = error.errno or errno.EIO, True
            if ended:
                link.close()
            if filled and (ended or filled > FULL_FRAME):
                yield frame_header(inode, 0, name, path, filled)
                yield room[:filled]
                filled = 0
        yield frame(inode, code, name, path)


def empty_dump_frames(count: int, inode: int, path: bytes) -> Iterator[bytes]:
    """Yield the frames of so many dumps of an empty table."""
    done = struct.pack("=IHHIIi", 20, NLMSG_DONE, NLM_F_MULTI, 1, 0, 0)
    for name in map(dump_name, range(count)):
        yield frame(inode, 0, name, path, done)
        yield frame(inode, 0, name, path)


def join_events() -> socket:
    """Return a socket that gets ctnetlink's events of new and changed entries; raises OSError.

    Joining needs privileges, and receiving needs none. Ends of entries are not listened for: most
    entries end together when the garbage collector passes, which a short time does not show.
    """
    from socket import AF_NETLINK, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket

    require_ctnetlink()  # joining a group loads a module, too (nfnetlink_bind)
    link = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        try:
            link.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, EVENT_ROOM)
        except OSError:  # a user namespace of its own
            link.setsockopt(SOL_SOCKET, SO_RCVBUF, EVENT_ROOM)
        groups = (NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE)
        link.bind((0, sum(1 << group - 1 for group in groups)))
    except OSError:
        link.close()
        raise
    return link


def events_frames(seconds: float, inode: int, path: bytes) -> Iterable[bytes | memoryview]:
    """Return the frames of a namespace's events. When this returns, listening has begun."""
    file, count = EVENTS, -1
    try:
        settings = read_small(SYSCTLS + EVENTS)
        file = COUNT
        count = open_file(SYSCTLS + COUNT)
        file = "events"
        link = join_events()
    except OSError as error:
        if count >= 0:
            os.close(count)
        return [frame(inode, error.errno or errno.EIO, file, path)]
    since = time.monotonic()
    first = frame(inode, 0, EVENTS, path, settings)
    first += frame(inode, 0, COUNT, path, os.pread(count, 64, 0))
    return listen(link, count, (since, since + seconds), inode, path, first)


def listen(
    link: socket, count: int, times: tuple[float, float], inode: int, path: bytes, first: bytes
) -> Iterator[bytes | memoryview]:
    """Yield `first`, then by ticks: the events, the count, and the nanoseconds since the beginning.

    The clock is read when no event is left. ENOBUFS in a frame says that there was no room, and
    that the kernel has dropped events. The last frame is an empty one of events.
    """
    from socket import MSG_DONTWAIT

    since, end = times
    room = memoryview(bytearray(FULL_FRAME + LARGEST_BATCH))
    yield first
    now, code, left = since, 0, False
    while code in (0, errno.ENOBUFS) and (left or now < end) and now < end + LATEST:
        time.sleep(0 if left else min(TICK, max(end - now, 0)))
        filled, code, left = 0, 0, True
        while left and filled <= FULL_FRAME:
            try:
                filled += link.recv_into(room[filled:], 0, MSG_DONTWAIT)
            except BlockingIOError:
                left = False
            except OSError as error:
                code = error.errno or errno.EIO
                left = code == errno.ENOBUFS  # what had room follows
        now = time.monotonic()
        yield frame_header(inode, 0, "events", path, filled)
        yield room[:filled]
        if code:
            yield frame(inode, code, "events", path)
        if not left:
            yield frame(inode, 0, COUNT, path, os.pread(count, 64, 0))
            yield frame(inode, 0, "clock", path, b"%d" % ((now - since) * 1e9))
    link.close()
    os.close(count)
    yield frame(inode, 0, "events", path)


def small_frames(
    what: bytes, inode: int, path: bytes, owners: dict[int, int], limit: bytes
) -> Iterator[bytes]:
    """Yield the frames of a namespace's limits, of these and its counters, or of its timeouts."""
    names: Iterable[str] = LIMITS
    if what == b"timeouts":
        names = sorted(name for name in os.listdir(SYSCTLS) if "_timeout" in name)
    sources: list[tuple[str, Callable[[], bytes]]]
    sources = [(name, partial(read_small, SYSCTLS + name)) for name in names]
    if what == b"counters":
        sources.append(
            ("stat", lambda: b"".join(read_descriptor(open_of_namespace(STAT, inode, owners))))
        )
        sources.append(("stats_cpu", cpu_counters))
    for name, read in sources:
        try:
            data = read()
        except OSError as error:
            yield frame(inode, error.errno or errno.EIO, name, path)
        else:
            yield frame(inode, 0, name, path, data)
            if name == LIMIT and data != limit:
                sources.append(("stats", table_stats))


def table_frames(filters: list[bytes], inode: int, path: bytes) -> Iterable[bytes | memoryview]:
    """Return the frames of a namespace's table. The dumps are requested when this returns."""
    try:
        if read_small(SYSCTLS + COUNT).strip() == b"0":
            # Dumping it would walk the whole hash table for nothing.
            return empty_dump_frames(max(1, len(filters)), inode, path)
        require_ctnetlink()
        links = [
            request_dump(IPCTNL_MSG_CT_GET, *parse_filter(text), deferred=True)
            for text in filters or [b"0:"]
        ]
    except OSError as error:
        code = errno.EPROTONOSUPPORT if error.errno == errno.ENOENT else error.errno
        return [frame(inode, code or errno.EIO, dump_name(0), path)]
    return dump_frames(links, inode, path)


def namespace_frames(
    what: bytes,
    inode: int,
    path: bytes,
    filters: list[bytes],
    owners: dict[int, int],
    limit: bytes = b"",
) -> Iterable[bytes | memoryview]:
    """Return the frames of the present namespace. All that needs privileges is done then."""
    if what == b"table":
        return table_frames(filters, inode, path)
    if what == b"events":
        return events_frames(parse_time(filters[0]), inode, path)
    try:
        if what == b"text":
            return text_frames(open_of_namespace(TABLE, inode, owners), inode, path)
        return list(small_frames(what, inode, path, owners, limit))
    except OSError as error:
        file = "text" if what == b"text" else "-"
        return [frame(inode, error.errno or errno.EIO, file, path)]


def prepare(what: bytes, arguments: list[bytes]) -> list[Iterable[bytes | memoryview]]:
    """Return the frames of the answer. All that needs privileges is done when this returns."""
    if what == b"log":
        try:
            return [log_frames(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))]
        except OSError as error:
            return [[frame(0, error.errno or errno.EIO, "-", b"")]]
    named, filters = split(arguments)
    # Once each: to look for all processes again and again would be work for root.
    places = list(dict.fromkeys(named))
    visited: set[int] = set()
    owners: dict[int, int] = {}
    answer: list[Iterable[bytes | memoryview]] = []
    if what in (b"table", b"text"):
        allow_descriptors()
        widen_pipe(1)
    limit = b""
    with suppress(OSError):
        limit = read_small(SYSCTLS + LIMIT)
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    if what == b"owners":
        name = os.open(OWN_HOST_NAME, os.O_RDONLY | os.O_CLOEXEC)
        answer.append(list(owner_frames(places)))
        places = []
        leave(name, OWN_HOST_NAME, CLONE_NEWUTS)
        os.close(name)
    for place in places:
        listed = place == b"processes"
        for path in readers_last(threads(), visited) if listed else [place]:
            try:
                inode = enter(path, visited, listed=listed)
            except OSError as error:
                if not listed or error.errno != errno.ENOENT:  # gone since it was listed
                    answer.append([frame(0, error.errno or errno.EIO, "-", path)])
                continue
            if inode:
                answer.append(namespace_frames(what, inode, path, filters, owners, limit))
    leave(home)
    os.close(home)
    return answer


def widen_pipe(pipe: int) -> None:
    """Let a pipe hold more, so that its two ends seldom wait for each other."""
    from fcntl import fcntl

    with suppress(OSError):  # no pipe, or the user has too many: only slower
        fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE)


def allow_descriptors() -> None:
    """Allow as many open descriptors as may be: every dump of every namespace has a socket."""
    from resource import RLIMIT_NOFILE, getrlimit, setrlimit

    most = getrlimit(RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        setrlimit(RLIMIT_NOFILE, (most, most))


def write(data: bytes | memoryview) -> None:
    """Write all of it to standard output."""
    while data:
        data = data[os.write(1, data) :]


def is_pipe(descriptor: int) -> bool:
    """Return whether a descriptor is a pipe.

    Nothing ends a process that waits for a file of a FUSE server that does not answer, and its
    namespaces would live as long.
    """
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


def main() -> int:
    """Answer one request; return the exit status."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        return 2  # a file that is opened here would take the number of a closed one
    protect_process()
    limit = TimeLimit()
    limit.set(LIFETIME)
    if not (is_pipe(0) and is_pipe(1)):
        return 2
    if not is_pipe(2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        what, *arguments = read_request(0)
        limit.set(PREPARATION)
        answer = prepare(what, arguments)
    except RefusedError:
        return 2
    drop_privileges()
    protect_process()
    end = time.monotonic() + LIFETIME
    limit.set(LIFETIME)
    for frames in answer:
        for piece in frames:
            limit.set(STALL)
            write(piece)
            limit.set(end - time.monotonic())
    limit.set(STALL)
    write(b"end\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
