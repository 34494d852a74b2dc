"""How the reader is started: the command line, with and without sudo, and its sudoers line.

Nothing is started here, and nothing is asked of the reader (see reader_client).
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

from .source import KernelError, read_long_file

READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reader.py")
# sudo starts this copy where the suite is one archive: no file inside an archive can be started.
READER_OF_ARCHIVE = "/opt/check-conntrack/reader.py"
# sudo is searched for here, and not along the caller's PATH.
SUDO_PATHS = ("/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo", "/run/wrappers/bin/sudo")
SHELL = "/bin/sh"
RUNNING = "/proc/self/exe"


class ReaderError(KernelError):
    """The reader could not be started, ended early, or gave a malformed answer."""


class ReaderTimeoutError(ReaderError):
    """The reader was started, and its own time limits ended it."""


def sudo_path() -> str | None:
    """Return the path of sudo; None where it is not installed."""
    return next((path for path in SUDO_PATHS if os.access(path, os.X_OK)), None)


def reader_command(*, sudo: bool) -> list[str]:
    """Return the command line that starts the reader.

    A reader that is not executable (pip clears that bit) is started through the interpreter of
    the check; the sudoers line then names exactly that. The reader of an archive is passed to
    the interpreter as text.

    Raises ReaderError where sudo is wanted and not installed, or cannot start the reader of an
    archive because it is not installed.
    """
    if not sudo:
        text = archived_reader()
        return [*_isolated_python(), *(["-c", text.decode()] if text else [READER])]
    program = sudo_path()
    if program is None:
        raise ReaderError("sudo: not installed on this host")
    step = install_command()
    if step:
        raise ReaderError(f"{READER_OF_ARCHIVE}: not installed, or another version (run {step})")
    return [program, "-n", *sudo_grant()]


def waiting_command() -> tuple[list[str], bytes]:
    """Return a command line that starts the reader once it is asked, and what to write first.

    A shell waits for that line, which takes a thirtieth of the processor time of a reader that
    waits; most runs do not need that one. Without a shell it is the reader that waits.
    """
    command = reader_command(sudo=False)
    if not os.access(SHELL, os.X_OK):
        return command, b""
    return [SHELL, "-c", 'read -r line && exec "$0" "$@"', *command], b"\n"


def sudo_grant() -> list[str]:
    """Return the command that sudoers must allow, argument by argument."""
    if archived_reader():
        return [READER_OF_ARCHIVE]
    return [READER] if os.access(READER, os.X_OK) else [*_isolated_python(), READER]


def archived_reader() -> bytes:
    """Return the reader's text where the suite is one archive (zipapp); empty where it is not."""
    if os.path.exists(READER):
        return b""
    try:
        text: bytes = getattr(__spec__.loader, "get_data")(READER)  # noqa: B009 - not every loader
    except OSError:
        return b""
    return text


def install_command() -> str:
    """Return the command that installs the reader of an archive; empty where nothing is missing.

    Only the very reader of this archive will do: another version may not know its requests.
    """
    text = archived_reader()
    if not text or read_long_file(READER_OF_ARCHIVE, len(text) + 1).data == text:
        return ""
    import shlex

    return shlex.quote(getattr(__spec__.loader, "archive", "")) + " --install-reader"


def sudoers_lines() -> list[str]:
    """Return lines of sudoers(5): this user may start the reader, and nothing else.

    With a pseudo-terminal of sudo, a reader that a terminal stopped could stay when that is gone.
    """
    command = sudo_grant()
    # The grammar of sudoers takes a command there, but no arguments.
    scope = f"!{_escaped(command[0])}" if len(command) == 1 else f":{_escaped(_user_name())}"
    return [f"Defaults{scope} !use_pty", sudoers_line()]


def sudoers_line() -> str:
    """Return the line of sudoers(5) that lets this user start the reader, and nothing else."""
    name = _user_name()
    command = sudo_grant()
    # Without an argument list, sudo would let the caller pass any.
    arguments = command[1:] or ['""']
    words = [_escaped(word) if word != '""' else word for word in (command[0], *arguments)]
    return f"{_escaped(name)} ALL=(root) NOPASSWD: {' '.join(words)}"


def _user_name() -> str:
    import pwd

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _escaped(word: str) -> str:
    """Escape a word for sudoers(5)."""
    return re.sub(r"([\\ ,:=!*?\[\]])", r"\\\1", word)


def replaceable_part() -> str:
    """Return the first part of the granted command's paths that users other than root may change.

    Empty where only root can replace the reader and its interpreter.
    """
    words = [word for word in sudo_grant() if word.startswith("/")]
    parts = [part for word in words for part in (*_chain(word), *_chain(os.path.realpath(word)))]
    return next((part for part in parts if _changeable(part)), "")


def _chain(path: str) -> list[str]:
    """Return a path and all directories above it."""
    return [path] if path == "/" else [path, *_chain(os.path.dirname(path))]


def _changeable(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return True
    # The mode of a link means nothing, and in a sticky directory only its owner replaces a file.
    fixed = stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(status.st_mode & 0o022 and not fixed)


def _isolated_python() -> list[str]:
    """Return the command of the interpreter that runs this.

    From Python 3.11 on PYTHONEXECUTABLE decides sys.executable, also with -E and -I.
    """
    import sys

    program = sys.executable or "/usr/bin/python3"
    with suppress(OSError):
        running = os.stat(RUNNING)
        if not os.path.exists(program) or not os.path.samestat(os.stat(program), running):
            program = os.readlink(RUNNING)
    return [program, "-I", "-S", "-B"]
