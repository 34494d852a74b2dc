"""The privileges this process has, and how it gives them up.

Source: capabilities(7), credentials(7), proc_pid_status(5).
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
_STATUS = "/proc/self/status"
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


class UserError(KernelError):
    """The user to become does not exist, or is root."""


class User(NamedTuple):
    """The user that a check started as root becomes."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""


class Privileges(NamedTuple):
    """The capability sets of this process, as bit masks, and its no_new_privs flag."""

    inheritable: int = 0
    permitted: int = 0
    effective: int = 0
    bounding: int = 0
    ambient: int = 0
    no_new_privileges: bool = False

    @property
    def usable(self) -> int:
        """Return the capabilities that this process, or a program it executes, could use."""
        return self.inheritable | self.permitted | self.effective | self.ambient

    def __str__(self) -> str:
        names = ("inheritable", "permitted", "effective", "bounding", "ambient")
        sets = [f"{name} capabilities {mask:x}" for name, mask in zip(names, self[:5]) if mask]
        if not self.usable:
            sets.insert(0, "no capabilities")
        flag = "no new privileges" if self.no_new_privileges else "new privileges possible"
        return ", ".join([*sets, flag])


def held() -> Privileges:
    """Return what the kernel says about this process; nothing held where it says nothing."""
    fields = {}
    for line in read_file(_STATUS, 8192).data.splitlines():
        name, _, value = line.partition(b":")
        fields[name] = value.strip()
    # CapAmb came with Linux 4.3.
    names = (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb")
    inherit, permit, effect, bound, ambient = (int(fields.get(name, b"0"), 16) for name in names)
    flag = fields.get(b"NoNewPrivs") == b"1"
    return Privileges(inherit, permit, effect, bound, ambient, flag)


def has(capability: int) -> bool:
    """Return whether this process has a capability in effect."""
    return bool(held().effective >> capability & 1)


def is_root() -> bool:
    """Return whether this process is root, with or without the capabilities of root elsewhere."""
    return os.geteuid() == 0


def named_user(name: str) -> User:
    """Return the user of a name or number; raises UserError where there is none, or it is root."""
    import pwd

    number = int(name) if name.isascii() and name.isdigit() and len(name) <= 10 else None
    try:
        user = _user(pwd.getpwnam(name) if number is None else pwd.getpwuid(number))
    except KeyError:
        if number is None or number > _LAST_ID:
            raise UserError(f"user {name!r}: not found on this host") from None
        user = User(number, NOBODY)
    if user.uid == 0:
        raise UserError(f"user {name!r}: is root (name an unprivileged user)")
    return user


def _user(entry: pwd.struct_passwd) -> User:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    # Root's group is left out: its files are not for an unprivileged user.
    kept = tuple(group for group in groups if group != 0)
    return User(entry.pw_uid, entry.pw_gid or NOBODY, kept, entry.pw_dir)


def unprivileged_user(name: str | None, sudo_uid: str | None, state_dir: str) -> User:
    """Return the user that root becomes: the named one, else the caller of sudo, else the owner.

    The owner is that of the state directory; where none of these is an unprivileged user it is
    nobody. Raises UserError for a name that does not exist.
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
    """Give up everything that makes this process more than `user`, for good.

    sudo: this user is to start sudo later, so its programs may still gain privileges: without
    that flag, and with an empty bounding set, sudo does not work. It has no effect for root.
    Raises KernelError where capabilities remain.
    """
    sudo = sudo and not is_root()
    before = held()
    # With nothing held, only what sudo or a file's capabilities would bring remains to give up.
    held_nothing = not is_root() and not before.usable
    if held_nothing and (sudo or before.no_new_privileges or _forbid_new_privileges()):
        return
    from . import reader

    try:
        if sudo:
            reader.drop_capabilities()
        else:
            reader.drop_privileges(user.uid, user.gid, user.groups)
    except OSError as error:
        raise KernelError(f"privileges: cannot be given up: {error.strerror}") from None
    remaining = held()
    if remaining.usable:
        raise KernelError(f"privileges: cannot be given up ({remaining})")


def _forbid_new_privileges() -> bool:
    """Set no_new_privs and return whether that worked.

    ctypes, which the reader uses for it, takes 3 ms to import, of 40 for a whole check; the part
    of it that is in C takes 0.5 ms.
    """
    try:
        from _ctypes import call_function, dlopen, dlsym

        prctl = dlsym(dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]
        return bool(call_function(prctl, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) == 0)
    except (ImportError, AttributeError, OSError):
        return False
