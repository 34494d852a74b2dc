"""The privileges and the history of a run: readers, then no privileges, then the state store.

begin() ends a check's privileges. Whatever needs a capability is asked of a reader that was started
before, or that is started through sudo later.
"""

from __future__ import annotations

import os
from contextlib import suppress

from .kernel import KernelError, privileges
from .state.state_store import SHARED, STATE_VARIABLE, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import ExitStack

    from .kernel.reader_client import Frame, Reader
    from .signals import Stage


# Modules that every check may import later.
LATER_MODULES = (
    *("shlex", "socket", "subprocess"),
    *(
        f"check_conntrack.{name}"
        for name in (
            *("advice.capacity", "advice.owner_words", "kernel.counters", "kernel.host"),
            *("kernel.namespace_request", "kernel.owner_request", "kernel.reader_client"),
            *("kernel.reader_command", "kernel.rtnetlink", "owners", "state.last_finding"),
        )
    ),
)


class ForbiddenError(KernelError):
    """The capability that a request needs is missing, and sudo may not be used to get it."""


class Session:
    """A run's access to readers, and its state store.

    store: what earlier runs have recorded.
    forbidden: whether the last request for a reader failed for lack of privileges. One that still
        waits when the time is up lacks none.
    as_root: whether readers run as root, so that nothing more can be granted.
    """

    def __init__(self, stage: Stage, stack: ExitStack, ready: list[Reader], *, sudo: bool) -> None:
        self.stage = stage
        self.forbidden = False
        self.as_root = False
        self.store: Store
        self._stack = stack
        self._ready = ready
        self._sudo = sudo

    @property
    def may_ask(self) -> bool:
        """Return whether there is a reader to ask."""
        return bool(self._ready) or self._sudo

    def ask(self, fields: Sequence[bytes]) -> list[Frame]:
        """Return the answer to a request for small data (grammar: kernel/reader.py).

        Raises ForbiddenError, and ReaderError if the reader fails.
        """
        return list(self._frames(lambda reader: reader.ask(fields)))

    def stream(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        """Yield the answer to a request as it arrives. Raises as ask() does."""
        return self._frames(lambda reader: reader.stream(fields))

    def _frames(self, request: Callable[[Reader], Iterable[Frame]]) -> Iterator[Frame]:
        """Yield what a reader answers, and learn whether sudo may start it."""
        by_sudo, answered = not self._ready, False
        self.forbidden = False
        try:
            for frame in request(self._reader()):
                answered = True
                self.as_root = self.as_root or self._sudo
                yield frame
        except KernelError as error:
            from .kernel.reader_command import ReaderTimeoutError

            timed_out = isinstance(error, ReaderTimeoutError)
            self.forbidden = by_sudo and not answered and not timed_out
            raise

    def _reader(self) -> Reader:
        self.stage("waiting for the reader")
        if self._ready:
            return self._ready.pop()
        if not self._sudo:
            raise ForbiddenError("permission denied (use --sudo)")
        from .kernel import reader_client, reader_command

        reader = reader_client.Reader(reader_command.reader_command(sudo=True))
        return self._stack.enter_context(reader)


def begin(
    options: argparse.Namespace,
    stage: Stage,
    stack: ExitStack,
    *,
    readers: int = 0,
    spare: int = 0,
    capabilities: Sequence[int] = (privileges.CAP_SYS_ADMIN,),
    later_modules: Sequence[str] = (),
    open_files: Callable[[], None] | None = None,
) -> Session:
    """Start readers, open files, give up all privileges, open the state store.

    readers: how many to start if this process has one of `capabilities`, or all of them where sudo
        can start better ones; each answers one request.
    spare: how many more a run may need, but a healthy one does not.
    later_modules: those that the check imports later.
    open_files: called before privileges are dropped if root itself started the check, without
    sudo and --user: it opens the files that the command line names, to be parsed afterwards.
    Raises KernelError if privileges cannot be given up.
    """
    ready: list[Reader] = []
    as_root = privileges.is_root()
    if as_root:
        stage.watch()  # ordinary users open nothing before they have dropped privileges
    enough = all if options.sudo else any
    if readers + spare and enough(map(privileges.has, capabilities)):
        from .kernel import reader_client, reader_command

        stage("starting the reader")
        command = reader_command.reader_command(sudo=False)
        # The last one is asked first.
        commands = [reader_command.waiting_command()] * spare + [(command, b"")] * readers
        for words, before in commands:
            ready.append(stack.enter_context(reader_client.Reader(words, before)))
    if open_files and is_plain_root(options):
        stage("opening the files that the command line names")
        open_files()
    stage("opening the state directory")
    home, store = drop_privileges(options, later_modules, stage)
    stage.watch()
    # Root gives up new privileges for good, and with them sudo, which could add nothing.
    session = Session(stage, stack, ready, sudo=options.sudo and not as_root)
    session.as_root = as_root
    session.store = store or open_store(options, home)
    stack.callback(session.store.close)
    return session


def is_plain_root(options: argparse.Namespace) -> bool:
    """Return whether root itself started the check: not through sudo, and without --user."""
    return privileges.is_root() and options.user is None and not os.environ.get("SUDO_UID")


def readable_by_all() -> bool:
    """Return whether every user may read the suite's modules and Python's own."""
    suite = getattr(__spec__.loader, "archive", os.path.dirname(__file__))  # one file, maybe
    try:
        return all(map(_is_public, (os.path.dirname(os.__file__), suite)))
    except OSError:
        return False


def _is_public(folder: str) -> bool:
    """Return whether every user may enter a folder, and read the modules in it and below.

    An archive counts as a folder: it is executable.
    """
    path = os.path.realpath(folder)
    while path != "/":
        if os.stat(path).st_mode & 0o005 != 0o005:
            return False
        path = os.path.dirname(path)
    suite = folder == os.path.dirname(__file__)
    return not suite or all(
        os.stat(os.path.join(place, name)).st_mode & 0o004
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name != "__pycache__" and "__pycache__" not in place
    )


def drop_privileges(
    options: argparse.Namespace, later_modules: Sequence[str] = (), stage: Stage | None = None
) -> tuple[str | None, Store | None]:
    """Become unprivileged for good; returns the home of the user that root became, and a store.

    Home: None if the process was not root, empty if the user has none. The store is one that root
    itself, without sudo and --user, opened below a folder of its own; else None. `later_modules`
    to import first. The thread of the stage ends: it would keep privileges. Raises KernelError if
    the user does not exist, or privileges cannot be given up.
    """
    if os.geteuid() != 0:
        privileges.drop(privileges.User(os.geteuid(), os.getegid()), sudo=options.sudo)
        return None, None
    # The user may not be allowed to read the folder that the suite or Python is installed in: then
    # modules that are imported later are imported now, which costs time that most runs can save.
    if not readable_by_all():
        for name in (*later_modules, *LATER_MODULES):
            with suppress(ImportError):  # not every Python has every library
                __import__(name)
    directory = options.state_dir or os.environ.get(STATE_VARIABLE) or SHARED
    try:
        user = privileges.unprivileged_user(options.user, os.environ.get("SUDO_UID"), directory)
    except privileges.UserError as error:
        raise KernelError(f"--user: {error}") from None
    store = None
    if is_plain_root(options) and not options.no_state:
        store = Store.open_as_root(options.state_dir, os.environ, user.uid, user.gid)
    if stage and not stage.unwatch():
        raise KernelError("privileges: cannot be given up: another thread has them")
    privileges.drop(user)
    return user.home, store


def open_store(options: argparse.Namespace, home: str | None) -> Store:
    """Open the state store that the options select."""
    if options.no_state:
        return Store.without("--no-state")
    return Store.open(options.state_dir, os.environ, home)


def state_lines(session: Session, verbose: int) -> list[str]:
    """Return, with -v, where the history is kept; with -vvv also as which user the check ran."""
    store = session.store
    lines = list(store.notes) if verbose else []
    if verbose:
        # If the folder could be opened, a part may have been kept.
        kept = "Not all history was kept" if store.folder else "No history is kept"
        trouble = f"{kept}: {store.trouble}"
        lines.append(trouble if store.trouble else f"History is kept in {store.folder}")
    if verbose > 2:
        lines.append(f"Checked as uid {os.geteuid()}, {privileges.held()}")
    return lines


def grant(purpose: str, *, as_root: bool = False) -> list[str]:
    """Return lines for the administrator: how to let this user start the reader."""
    if as_root:
        return [f"To {purpose}, root needs more privileges than its container or service gives it."]
    from .kernel import reader_command

    lines = [
        f"To {purpose}, let this user start the reader as root: use --sudo, and add with",
        "visudo -f /etc/sudoers.d/check-conntrack the lines",
        *(f"  {line}" for line in reader_command.sudoers_lines()),
    ]
    step = reader_command.install_command()
    weak = "" if step else reader_command.replaceable_part()
    if step:
        lines += ["but first install the reader, as root:", f"  {step}"]
    if weak:
        lines.append(
            f"Before that, make the suite writable for root only: others may write to {weak},"
        )
        lines.append(
            "and whoever replaces the reader or its interpreter becomes root by these lines."
        )
    return lines
