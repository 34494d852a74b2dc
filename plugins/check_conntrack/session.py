"""What a run may do and remember: readers started while there were rights, then none, and a store.

begin() is where a check's rights end: what takes one is asked of a reader, which was started
before, or is started through sudo now.
"""

from __future__ import annotations

from . import runner
from .kernel import KernelError, privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from check_conntrack.state.state_store import Store

    from .kernel.reader_client import Frame, Reader


class ForbiddenError(KernelError):
    """There is neither the right that a question takes, nor leave to ask through sudo."""


class Session:
    """The run's way to readers, and its store.

    `forbidden` says that a right was missing when last a reader was wanted, `as_root` that readers
    are root's already.
    """

    def __init__(
        self, stage: runner.Stage, stack: ExitStack, ready: list[Reader], *, sudo: bool
    ) -> None:
        self.stage = stage
        self.forbidden = False
        self.as_root = False
        self.store: Store
        self._stack = stack
        self._ready = ready
        self._sudo = sudo

    @property
    def may_ask(self) -> bool:
        """Whether a reader is to be had."""
        return bool(self._ready) or self._sudo

    def ask(self, fields: Sequence[bytes]) -> list[Frame]:
        """The answer to a request for small things (the grammar stands in kernel/reader.py).

        Raises ForbiddenError, and ReaderError where the reader fails.
        """
        frames = self._reader().ask(fields)
        self.forbidden = False
        self.as_root = self.as_root or self._sudo
        return frames

    def stream(self, fields: Sequence[bytes]) -> Iterator[Frame]:
        """The answer to a request as it comes. Raises as ask does."""
        for frame in self._reader().stream(fields):
            self.forbidden = False
            self.as_root = self.as_root or self._sudo
            yield frame

    def _reader(self) -> Reader:
        self.stage("waiting for the reader")
        if self._ready:
            return self._ready.pop()
        if not self._sudo:
            self.forbidden = True
            raise ForbiddenError("no right, and no --sudo")
        # sudo may refuse; whoever hears the answer knows better.
        self.forbidden = True
        from .kernel import reader_client, reader_command

        reader = reader_client.Reader(reader_command.reader_command(sudo=True))
        return self._stack.enter_context(reader)


def begin(
    options: argparse.Namespace,
    stage: runner.Stage,
    stack: ExitStack,
    *,
    readers: int = 0,
    capability: int = privileges.CAP_SYS_ADMIN,
    late: Sequence[str] = (),
) -> Session:
    """Start what may need rights, give up all rights, open the store.

    So many readers are started where this process has the capability; each answers one question.
    `late` are modules that the check imports only where it needs them.
    Raises KernelError where rights cannot be given up.
    """
    ready = []
    as_root = privileges.is_root()
    if readers and privileges.has(capability):
        from .kernel import reader_client, reader_command

        stage("starting the reader")
        command = reader_command.reader_command(sudo=False)
        ready = [stack.enter_context(reader_client.Reader(command)) for _ in range(readers)]
    home = runner.drop_rights(options, late)
    session = Session(stage, stack, ready, sudo=options.sudo)
    session.as_root = as_root
    stage("opening the state directory")
    session.store = runner.open_store(options, home)
    stack.callback(session.store.close)
    return session


def grant(purpose: str, *, as_root: bool = False) -> list[str]:
    """How to let this user ask the reader, for the one who administers the host."""
    if as_root:
        return [f"To {purpose} takes more than root has here: look at its container or service."]
    from .kernel import reader_command

    lines = [
        f"To {purpose}, let this user start the reader as root: --sudo, and with",
        "visudo -f /etc/sudoers.d/check-conntrack the line",
        f"  {reader_command.sudoers_line()}",
    ]
    step = reader_command.install_command()
    weak = "" if step else reader_command.replaceable_part()
    if step:
        lines += ["but first install the reader, as root:", f"  {step}"]
    if weak:
        lines.append(
            f"but only once the suite is where none but root may write: others may to {weak},"
        )
        lines.append("and who replaces the reader or its interpreter becomes root by that line.")
    return lines
