"""Which rights this process has, and how it gives them up.

Source: capabilities(7), credentials(7), proc(5).
"""

from __future__ import annotations

import os
from contextlib import suppress

from .namedtuple import NamedTuple
from .source import KernelError, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd

CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYSLOG = 12, 21, 34  # linux/capability.h
NOBODY = 65534  # the overflow user and group, /proc/sys/kernel/overflowuid
_LAST_ID = 0xFFFFFFFE  # one more, (uid_t) -1, means "leave it as it is" to setresuid(2)


class User(NamedTuple):
    """Whom a check that was started as root becomes."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""


def capabilities() -> int:
    """The effective capabilities of this process, as a bit mask."""
    for line in read_file("/proc/self/status", 8192).data.splitlines():
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has(capability: int) -> bool:
    """Whether this process has a capability."""
    return bool(capabilities() >> capability & 1)


def is_root() -> bool:
    """Whether this process is root, with or without the capabilities that root has elsewhere."""
    return os.geteuid() == 0


def named_user(name: str) -> User:
    """The user of a name or a number; raises KernelError where there is none, or it is root."""
    import pwd

    number = int(name) if name.isascii() and name.isdigit() and len(name) <= 10 else None
    try:
        user = _user(pwd.getpwnam(name) if number is None else pwd.getpwuid(number))
    except KeyError:
        if number is None or number > _LAST_ID:
            raise KernelError(f"--user: there is no user {name!r} on this host") from None
        user = User(number, NOBODY)
    if user.uid == 0:
        raise KernelError("--user must name an unprivileged user, not root")
    return user


def _user(entry: pwd.struct_passwd) -> User:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    # No group of root's comes along: what it may read is no longer an ordinary user's.
    kept = tuple(group for group in groups if group != 0)
    return User(entry.pw_uid, entry.pw_gid or NOBODY, kept, entry.pw_dir)


def unprivileged_user(name: str | None, sudo_uid: str | None, state_dir: str) -> User:
    """Whom a root becomes: `--user`, else the one who called sudo, else the owner of the state.

    Where none of these names an unprivileged user it is nobody. Raises KernelError for a name
    that does not exist.
    """
    import pwd

    if name is not None:
        return named_user(name)
    candidates = []
    if sudo_uid and sudo_uid.isdecimal() and len(sudo_uid) <= 10:
        candidates.append(min(int(sudo_uid), _LAST_ID))
    with suppress(OSError, ValueError):
        candidates.append(os.lstat(state_dir).st_uid)
    for uid in candidates:
        if uid not in (0, NOBODY):
            try:
                return _user(pwd.getpwuid(uid))
            except KeyError:
                return User(uid, NOBODY)
    return User(NOBODY, NOBODY)


def drop(user: User, *, sudo: bool = False) -> None:
    """Give up all that makes this process more than `user`, for good, or but for sudo.

    Raises KernelError where root could not be left although there were the capabilities to.
    """
    if os.geteuid() == 0:
        # A user namespace that maps no such id or lets nobody set groups, or a root without
        # CAP_SETUID, as containers have: each is given up that can be, capabilities in any case.
        with suppress(OSError):
            os.setgroups(user.groups)
        with suppress(OSError):
            os.setresgid(user.gid, user.gid, user.gid)
        with suppress(OSError):
            os.setresuid(user.uid, user.uid, user.uid)
    # A process may have been told to keep them when it is root no more (SECBIT_NO_SETUID_FIXUP).
    if not capabilities():
        return
    from . import reader

    try:
        if sudo:  # it does not work where no right is to be had by exec
            reader.drop_capabilities()
        else:
            reader.drop_rights(user.uid, user.gid, user.groups)
    except OSError as error:
        raise KernelError(f"rights cannot be given up: {error.strerror}") from None
