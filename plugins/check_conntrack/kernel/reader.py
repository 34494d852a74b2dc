#!/usr/bin/python3 -ISB
"""The privileged side: it may look into the kernel, and understands nothing of what it sees.

Alone, standard library only, run isolated (-I -S). No arguments. It takes one request on standard
input, checks it against a closed grammar, asks the kernel, drops every right, and only then writes
what it got, unparsed, to standard output.

    request   = what *where               each field ends with a NUL byte, the whole with EOF
    what      = "limits"                  nf_conntrack_count and nf_conntrack_max
    where     = "processes"               every network namespace that a process is in
              / "/" 1*4095 byte           a file that names a network namespace; anything else that
                                          lies there is not opened (O_PATH), and called missing

    answer    = *frame "end" LF
    frame     = inode SP errno SP file SP length-of-path SP length-of-data LF path data
    file      = name of a sysctl, or "-" where the namespace could not be entered

A path that holds no network namespace is ENOENT whatever else lies there, so that the answer tells
nothing about files that the caller may not see. See namespaces(7), setns(2), proc(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys

# A caller could keep a request open for ever; nothing this program does takes half as long.
LIFETIME = 60  # seconds
LONGEST_REQUEST = 1 << 20  # bytes
LONGEST_PATH = 4096  # bytes, PATH_MAX
NOBODY = 65534  # the overflow user and group, /proc/sys/kernel/overflowuid

SYSCTLS = "/proc/sys/net/netfilter/"
LIMITS = ("nf_conntrack_count", "nf_conntrack_max")

CLONE_NEWNET = 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class RefusedError(Exception):
    """The request is not of the grammar."""


def call(function: str, *arguments: object) -> None:
    """Call a function of libc by name; raises OSError with its errno where it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def drop_rights(uid: int = NOBODY, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> None:
    """Become an unprivileged user for good: ids, groups, capabilities, and none by exec."""
    if os.geteuid() == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError:
            # A user namespace that maps no such id, or a root without CAP_SETUID: what remains to
            # be given up are the capabilities, below.
            pass
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def enter(descriptor: int) -> None:
    """Move this process into the network namespace of an open descriptor (setns, 2)."""
    call("setns", descriptor, CLONE_NEWNET)


def read_request(descriptor: int) -> list[bytes]:
    """The fields of the request on a descriptor; raises RefusedError for any other bytes."""
    request = b""
    while len(request) <= LONGEST_REQUEST:
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        request += piece
    fields = request.split(b"\0")
    if len(request) > LONGEST_REQUEST or fields.pop() != b"" or fields[:1] != [b"limits"]:
        raise RefusedError
    for where in fields[1:]:
        if where != b"processes" and not (where[:1] == b"/" and 1 < len(where) < LONGEST_PATH):
            raise RefusedError
    return fields[1:]


def processes() -> list[bytes]:
    """The files that name the network namespaces of all processes."""
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return [b"/proc/%d/ns/net" % pid for pid in pids]


def open_namespace(path: bytes) -> int:
    """A descriptor of the network namespace at a path; raises OSError.

    O_PATH comes first: it opens nothing, so a device, a FIFO or a link to one does no harm. What
    lies on the kernel's own file system of namespaces can be opened without effect.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_dev != os.stat("/proc/self/ns/net").st_dev:
            raise FileNotFoundError(errno.ENOENT, "no namespace")
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def read_sysctl(name: str) -> bytes:
    """The bytes of a conntrack sysctl in the namespace of this thread; raises OSError."""
    descriptor = os.open(SYSCTLS + name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def frame(inode: int, code: int, name: str, path: bytes, data: bytes = b"") -> bytes:
    """One piece of the answer."""
    head = f"{inode} {code} {name} {len(path)} {len(data)}\n"
    return head.encode() + path + data


def look_into(path: bytes, seen: set[int]) -> list[bytes]:
    """The frames of one namespace; none where it was seen before."""
    try:
        descriptor = open_namespace(path)
    except OSError as error:
        allowed = error.errno not in (errno.EACCES, errno.EPERM)
        return [frame(0, errno.ENOENT if allowed else errno.EACCES, "-", path)]
    try:
        inode = os.fstat(descriptor).st_ino
        if inode in seen:
            return []
        seen.add(inode)
        enter(descriptor)
    except OSError as error:
        # EINVAL: a namespace, but of another kind.
        code = errno.ENOENT if error.errno == errno.EINVAL else error.errno or errno.EIO
        return [frame(0, code, "-", path)]
    finally:
        os.close(descriptor)
    frames = []
    for name in LIMITS:
        try:
            frames.append(frame(inode, 0, name, path, read_sysctl(name)))
        except OSError as error:
            frames.append(frame(inode, error.errno or errno.EIO, name, path))
    return frames


def look(wheres: list[bytes]) -> list[bytes]:
    """The frames of the limits in every place asked for, each namespace once."""
    seen: set[int] = set()
    frames = []
    for where in wheres:
        for path in processes() if where == b"processes" else [where]:
            frames += look_into(path, seen)
    return frames


def main() -> int:
    """Answer one request; returns the exit status."""
    signal.alarm(LIFETIME)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        frames = look(read_request(0))
    except RefusedError:
        frames = []
        status = 2
    else:
        frames.append(b"end\n")
        status = 0
    drop_rights()
    # The kernel forgets the signal when the user changes.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    answer = b"".join(frames)
    while answer:
        answer = answer[os.write(1, answer) :]
    return status


if __name__ == "__main__":
    sys.exit(main())
