#!/usr/bin/python3 -ISB
"""The privileged side: it may look into the kernel, and understands nothing of what it sees.

Alone, standard library only, run isolated (-I -S). No arguments. It takes one request on standard
input, checks it against a closed grammar, opens what it takes a right to open, drops every right,
and only then writes what it reads, unparsed, to standard output.

    request   = what *argument            each field ends with a NUL byte, the whole with EOF
    what      = "limits" *where           nf_conntrack_count and nf_conntrack_max
              / "counters" *where         the same, /proc/net/stat/nf_conntrack, and what ctnetlink
                                          says of each CPU
                  / "table" *where *8filter   all entries over ctnetlink; a dump for each filter
              / "expectations" *where     all expectations over ctnetlink
              / "text" *where             /proc/net/nf_conntrack
              / "timeouts" *where         nf_conntrack_*_timeout*
              / "log"                     /dev/kmsg, a frame for each record
    where     = "processes" / path        every network namespace that a process is in, or one
    path      = "/" 1*4094 byte           a file that names a network namespace; anything else that
                                          lies there is not opened (O_PATH), and called missing
    filter    = family ":" *attribute     0, 2 or 10, and netlink attributes in hexadecimal: tuples,
                                          status, zone, mark and their masks

    answer    = *frame "end" LF
    frame     = inode SP errno SP file SP length-of-path SP length-of-data LF path data
    file      = where the data comes from, "-" where the namespace could not be entered

A path that holds no network namespace is ENOENT whatever else lies there, so that the answer tells
nothing about files that the caller may not see. Netlink requests are built here and can do nothing
but read. See namespaces(7), setns(2), proc(5), netlink(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
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

# A caller could keep a request open for ever; nothing this program does takes half as long.
LIFETIME = 600  # seconds
PREPARATION = 30  # seconds for all that is done with rights once the request is known
LOG_TIME = 5.0  # seconds; the log may be written as fast as it is read
LONGEST_REQUEST = 1 << 20  # bytes
LONGEST_PATH = 4096  # bytes, PATH_MAX
LONGEST_FILTER = 1024  # bytes of attributes
MOST_DUMPS = 8
# A batch of a dump is 32 KiB at most, and has twice the room; past so many bytes they are a frame.
# A pipe holds several.
LARGEST_BATCH = 1 << 16
FULL_FRAME = 7 << 15
PIPE_SIZE = 1 << 20  # bytes, what /proc/sys/fs/pipe-max-size allows everybody
NOBODY = 65534  # the overflow user and group, /proc/sys/kernel/overflowuid

SYSCTLS = "/proc/sys/net/netfilter/"
LIMITS = ("nf_conntrack_count", "nf_conntrack_max")

CLONE_NEWNET = 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
F_SETPIPE_SZ = 1031  # linux/fcntl.h
NETLINK_NETFILTER = 12  # linux/netlink.h
NLM_F_REQUEST, NLM_F_DUMP = 1, 0x300
NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_CTNETLINK_EXP = 1, 2  # linux/netfilter/nfnetlink.h
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_GET_STATS_CPU = 1, 4  # linux/netfilter/nfnetlink_conntrack.h
IPCTNL_MSG_EXP_GET = 1
# CTA_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _MARK, _ZONE, _MARK_MASK, _FILTER, _STATUS_MASK
FILTERS = frozenset({1, 2, 3, 8, 18, 21, 25, 26})
NLA_TYPE_MASK = 0x3FFF
NLMSG_ERROR = 2  # linux/netlink.h


class RefusedError(Exception):
    """The request is not of the grammar."""


# --- rights


def call(function: str, *arguments: object) -> None:
    """Call a function of libc by name; raises OSError with its errno where it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def drop_rights(uid: int = NOBODY, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> None:
    """Become an unprivileged user for good: ids, groups, capabilities, and none by exec."""
    if os.geteuid() == 0:
        # A user namespace that maps no such id or lets nobody set groups, or a root without
        # CAP_SETUID: each is given up that can be, and the capabilities, below, in any case.
        for change, ids in (
            (os.setgroups, (groups,)),
            (os.setresgid, (gid, gid, gid)),
            (os.setresuid, (uid, uid, uid)),
        ):
            try:  # noqa: SIM105 - contextlib takes time to import
                change(*ids)
            except OSError:
                pass
    drop_capabilities()
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability, the ambient ones too."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


# --- the request


def read_request(descriptor: int) -> list[bytes]:
    """The fields of the request on a descriptor; raises RefusedError for any other bytes."""
    request = b""
    while len(request) <= LONGEST_REQUEST:
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        request += piece
    what, *arguments = request.split(b"\0")
    if len(request) > LONGEST_REQUEST or not arguments or arguments.pop() != b"":
        raise RefusedError
    wheres, filters = split(arguments)
    if what == b"log":
        allowed = not arguments
    elif what == b"table":
        allowed = len(filters) <= MOST_DUMPS
    else:
        known = b"limits", b"counters", b"timeouts", b"expectations", b"text"
        allowed = not filters and what in known
    if not allowed or any(len(where) >= LONGEST_PATH for where in wheres):
        raise RefusedError
    for text in filters:
        parse_filter(text)
    return [what, *arguments]


def split(arguments: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The places among the arguments of a request, and the filters that follow them."""
    places = 0
    for argument in arguments:
        if argument != b"processes" and not (argument[:1] == b"/" and len(argument) > 1):
            break
        places += 1
    return arguments[:places], arguments[places:]


def parse_filter(text: bytes) -> tuple[int, bytes]:
    """The family and the attributes of a filter; raises RefusedError where they are none."""
    family, colon, digits = text.partition(b":")
    try:
        attributes = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise RefusedError from None
    # fromhex() passes over blanks.
    if family not in (b"0", b"2", b"10") or not colon or len(digits) != 2 * len(attributes):
        raise RefusedError
    if len(attributes) > LONGEST_FILTER:
        raise RefusedError
    at = 0
    while at < len(attributes):
        if len(attributes) - at < 4:
            raise RefusedError
        size, kind = struct.unpack_from("=HH", attributes, at)
        if size < 4 or at + size > len(attributes) or kind & NLA_TYPE_MASK not in FILTERS:
            raise RefusedError
        at += size + 3 & ~3
    return int(family), attributes


# --- namespaces


def processes() -> list[bytes]:
    """The files that name the network namespaces of all processes."""
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return [b"/proc/%d/ns/net" % pid for pid in pids]


def own_inode() -> int:
    """The inode of the network namespace that this process is in."""
    return os.stat("/proc/self/ns/net").st_ino


def enter(path: bytes, seen: set[int]) -> int:
    """Move into the network namespace at a path, unless it was seen; returns its inode, or 0.

    O_PATH comes first: it opens nothing, so a device, a FIFO or a link to one does no harm. What
    lies on the kernel's own file system of namespaces can be opened without effect. Raises OSError
    with ENOENT where there is no network namespace, with EACCES or EPERM where there may be one.
    """
    descriptors = []
    try:
        descriptors.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        if os.fstat(descriptors[0]).st_dev != os.stat("/proc/self/ns/net").st_dev:
            raise FileNotFoundError(errno.ENOENT, "no namespace")
        own = f"/proc/self/fd/{descriptors[0]}"
        descriptors.append(os.open(own, os.O_RDONLY | os.O_CLOEXEC))
        inode = os.fstat(descriptors[1]).st_ino
        if inode in seen:
            return 0
        seen.add(inode)
        # To stay where one is takes no right: CAP_NET_ADMIN alone suffices for the own table.
        if inode != own_inode():
            call("setns", descriptors[1], CLONE_NEWNET)  # EINVAL: a namespace of another kind
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        raise FileNotFoundError(errno.ENOENT, "no namespace") from None
    else:
        return inode
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


# --- what is read


def frame(inode: int, code: int, file: str, path: bytes, data: bytes = b"") -> bytes:
    """One piece of the answer."""
    return head(inode, code, file, path, len(data)) + data


def head(inode: int, code: int, file: str, path: bytes, size: int) -> bytes:
    """What stands before the data, so many bytes, of one piece of the answer."""
    return f"{inode} {code} {file} {len(path)} {size}\n".encode() + path


def small(path: str) -> bytes:
    """The bytes of a small file of the kernel; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pieces = [os.read(descriptor, 65536)]
        while pieces[-1]:
            pieces.append(os.read(descriptor, 65536))
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def dump(
    subsystem: int, message: int, family: int = 0, attributes: bytes = b"", *, later: bool = False
) -> socket:
    """A socket on which a dump was asked for; raises OSError. To read on takes no right.

    later: the kernel begins when the socket is read (`first`), not when it is asked.
    """
    from socket import AF_NETLINK, SO_ERROR, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket

    asked = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    size = 20 + len(attributes)
    kind = subsystem << 8 | message
    flags = NLM_F_REQUEST | NLM_F_DUMP
    if later:
        # While it takes the request the kernel fills a first batch, and for a filter that lets few
        # entries pass it walks the whole table then: with rights, under a lock of all ctnetlink,
        # one dump after the other. netlink_dump() (net/netlink/af_netlink.c) leaves that to the
        # one who reads where the socket has no room. A kernel that does not is only slower.
        room = asked.getsockopt(SOL_SOCKET, SO_RCVBUF)
        asked.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
        asked.send(echo())
    asked.send(struct.pack("=IHHIIBBH", size, kind, flags, 1, 0, family, 0, 0) + attributes)
    if later:
        asked.setsockopt(SOL_SOCKET, SO_RCVBUF, room // 2)  # The kernel doubles it.
        asked.getsockopt(SOL_SOCKET, SO_ERROR)  # ENOBUFS, of which it is to say no more
    return asked


def echo() -> bytes:
    """A message that ctnetlink does not know: it says so, and repeats what fills a small buffer."""
    rest = bytes(4096)
    kind = NFNL_SUBSYS_CTNETLINK << 8 | 0xFF
    return struct.pack("=IHHIIBBH", 20 + len(rest), kind, NLM_F_REQUEST, 0, 0, 0, 0, 0) + rest


def first(sockets: list[socket]) -> list[bytes]:
    """What comes first of dumps that were asked for `later`, of all at once; no bytes for an echo.

    The kernel makes each dump's first batch before recv returns: one processor each, for recv
    holds up no other thread.
    """
    from _thread import allocate_lock, start_new_thread

    said = [b""] * len(sockets)
    locks = [allocate_lock() for _ in sockets]

    def take(number: int) -> None:
        try:
            said[number] = sockets[number].recv(65536)
        except OSError:
            pass  # It is told to who reads on.
        finally:
            locks[number].release()

    for number, lock in enumerate(locks):
        lock.acquire()
        try:
            start_new_thread(take, (number,))
        except RuntimeError:  # There may be no more threads.
            take(number)
    for lock in locks:
        lock.acquire()
    refused = struct.pack("=i", -errno.EINVAL)
    kinds = [struct.unpack_from("=H", data, 4)[0] if len(data) >= 20 else 0 for data in said]
    return [
        b"" if kind == NLMSG_ERROR and data[16:20] == refused else data
        for kind, data in zip(kinds, said)
    ]


def batches(asked: socket) -> Iterator[bytes]:
    """What a short dump hands out, batch by batch."""
    from socket import MSG_DONTWAIT

    while True:
        try:
            yield asked.recv(65536, MSG_DONTWAIT)
        except BlockingIOError:
            return


def pieces(descriptor: int, inode: int, path: bytes) -> Iterator[bytes]:
    """The frames of a file that is open already; the last, which is empty, is its end."""
    data = b"?"
    while data:
        data = os.read(descriptor, 65536)
        yield frame(inode, 0, "text", path, data)


def records(descriptor: int) -> Iterator[bytes]:
    """The frames of the kernel log, a record each; one with EAGAIN where time ended before it."""
    until = time.monotonic() + LOG_TIME
    while time.monotonic() < until:
        try:
            yield frame(0, 0, "record", b"", os.read(descriptor, 16384))
        except BlockingIOError:
            return
        except OSError as error:
            # EPIPE: overwritten before it was read. EINVAL: too long. The next one is whole.
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise
    yield frame(0, errno.EAGAIN, "record", b"")


def tables(
    sockets: list[socket], inode: int, path: bytes, *, later: bool = False
) -> Iterator[bytes | memoryview]:
    """The frames of dumps, one after the other; the file of the n-th is called dump_n.

    The last of each holds nothing but the error number, if any: also a dump of which the kernel
    says nothing has its end. A million entries are 230 MB, whose copies cost time: what is yielded
    is good until the next is asked for.
    """
    from socket import MSG_DONTWAIT

    begun = first(sockets) if later else [b""] * len(sockets)
    room = memoryview(bytearray(FULL_FRAME + LARGEST_BATCH))
    for number, (asked, data) in enumerate(zip(sockets, begun)):
        name = "dump_" + "abcdefgh"[number]
        room[: len(data)] = data
        filled, code = len(data), 0
        ended = False
        while not ended:
            try:
                # The next batch lies ready when one was taken, until there is none.
                filled += asked.recv_into(room[filled:], 0, MSG_DONTWAIT)
            except BlockingIOError:
                ended = True
            except OSError as error:
                code, ended = error.errno or errno.EIO, True
            if filled and (ended or filled > FULL_FRAME):
                yield head(inode, 0, name, path, filled)
                yield room[:filled]
                filled = 0
        yield frame(inode, code, name, path)


def widen(pipe: int) -> None:
    """Let a pipe hold more, so that neither of its ends often waits for the other."""
    from fcntl import fcntl

    with suppress(OSError):  # No pipe, or the user has too many: then it is slower.
        fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE)


def small_files(what: bytes, inode: int, path: bytes) -> Iterator[bytes]:
    """The frames of a namespace's limits, of these and its counters, or of its timeouts."""
    names: Iterable[str] = LIMITS
    if what == b"timeouts":
        names = sorted(name for name in os.listdir(SYSCTLS) if "_timeout" in name)
    sources: list[tuple[str, Callable[[], bytes]]]
    sources = [(name, partial(small, SYSCTLS + name)) for name in names]
    if what == b"counters":
        sources.append(("stat", partial(small, "/proc/net/stat/nf_conntrack")))
        sources.append(("stats_cpu", stats_cpu))
    for name, read in sources:
        try:
            yield frame(inode, 0, name, path, read())
        except OSError as error:
            yield frame(inode, error.errno or errno.EIO, name, path)


def stats_cpu() -> bytes:
    """The counters of each CPU as ctnetlink tells them, all messages; raises OSError."""
    return b"".join(batches(dump(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET_STATS_CPU)))


def begin(
    what: bytes, path: bytes, filters: list[bytes], seen: set[int]
) -> Iterable[bytes | memoryview]:
    """The frames of one place. All that takes a right is done when this returns."""
    inode = 0
    try:
        inode = enter(path, seen)
        if not inode:
            return []
        if what in (b"limits", b"counters", b"timeouts"):
            return list(small_files(what, inode, path))
        if what == b"text":
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            return pieces(os.open("/proc/net/nf_conntrack", flags), inode, path)
        if what == b"expectations":
            return tables([dump(NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_GET)], inode, path)
        widen(1)
        get = partial(dump, NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET)
        if not filters:
            return tables([get()], inode, path)
        asked = [get(*parse_filter(text), later=True) for text in filters]
        return tables(asked, inode, path, later=True)
    except OSError as error:
        return [frame(inode, error.errno or errno.EIO, "-", path)]


def prepare(what: bytes, arguments: list[bytes]) -> list[Iterable[bytes | memoryview]]:
    """The frames of the answer. All that takes a right is done when this returns."""
    if what == b"log":
        try:
            return [records(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))]
        except OSError as error:
            return [[frame(0, error.errno or errno.EIO, "-", b"")]]
    places, filters = split(arguments)
    seen: set[int] = set()
    answer: list[Iterable[bytes | memoryview]] = []
    for place in places:
        paths = processes() if place == b"processes" else [place]
        answer += [begin(what, path, filters, seen) for path in paths]
    return answer


def main() -> int:
    """Answer one request; returns the exit status."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        return 2  # what is opened here would take their numbers
    # sudo hands on what its caller ignores and blocks.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.alarm(LIFETIME)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever asked has heard enough
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        what, *arguments = read_request(0)
        signal.alarm(PREPARATION)
        answer = prepare(what, arguments)
    except RefusedError:
        return 2
    drop_rights()
    signal.alarm(LIFETIME)
    # The kernel forgets the signal when the user changes.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for frames in answer:
        for piece in frames:
            write(piece)
    write(b"end\n")
    return 0


def write(data: bytes | memoryview) -> None:
    """Put all of it on standard output."""
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
