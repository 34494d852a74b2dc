"""Start a check from its executable, and say what is missing if it cannot start.

This file keeps to the syntax of old interpreters: it has to tell them that they are too old.
"""

import os
import signal
import sys
import time

OLDEST_PYTHON = (3, 9)
MODULES = {"usage": "usage.usage_check", "full": "full.full_check", "table": "table.table_check"}


def launch(check):  # type: ignore[no-untyped-def]
    """Run a check by its name and end the process with its exit code; returns 3 if it cannot."""
    try:
        for name in [name for name in os.environ if name.startswith("SYSTEMD_LOG_")]:
            del os.environ[name]  # systemd's library for user names would write to standard error
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stopped_early(check))  # type: ignore[no-untyped-call]
        if sys.version_info < OLDEST_PYTHON:
            raise ImportError("Python 3.9 or later is needed, this is " + sys.version.split()[0])
        try:
            _import_libraries()  # type: ignore[no-untyped-call]
        except ImportError as error:
            # Without memory, files that are there cannot be loaded either.
            if getattr(error, "name", None) != "nagiosplugin":
                raise OSError("nagiosplugin cannot be loaded: " + str(error))
            raise ImportError(
                "the Python library nagiosplugin is missing, install it: apt-get install "
                "python3-nagiosplugin\nor: " + sys.executable + " -m pip install nagiosplugin"
            )
        main = __import__("check_conntrack." + MODULES.get(check, check), fromlist=["main"]).main
    except Exception as error:  # whatever it is, a traceback is not a verdict
        why = str(error)
        if not isinstance(error, ImportError):
            why = "cannot start: " + type(error).__name__ + (why and ": " + why)
        _say(check, why)  # type: ignore[no-untyped-call]
        return 3
    code = 3
    try:
        code = main(_seconds_since_start())  # type: ignore[no-untyped-call]
    except BaseException as error:  # without memory even an answer cannot be made
        _say(check, "cannot go on: " + type(error).__name__)  # type: ignore[no-untyped-call]
    # Everything is printed and closed. Shutting the interpreter down would be a tenth of the run.
    os._exit(code)


def _import_libraries():  # type: ignore[no-untyped-def]
    """Import nagiosplugin and argparse without what they bring along that no check uses.

    That is nagiosplugin's files between runs, its own way to print and to log, and translations of
    argparse's messages: with what these import (tempfile, traceback, threading, locale), a quarter
    of a run.
    """
    unused = (
        ("nagiosplugin.cookie", "Cookie", None),
        ("nagiosplugin.logtail", "LogTail", None),
        ("nagiosplugin.runtime", "Runtime", None),
        ("nagiosplugin.runtime", "guarded", None),
        ("logging", "getLogger", _nothing),
        ("gettext", "gettext", str),
        ("gettext", "ngettext", _singular_or_plural),
    )
    empty = {name: type(sys)(name) for name, _, _ in unused if name not in sys.modules}
    for module, name, value in unused:
        if module in empty:
            setattr(empty[module], name, value)
    sys.modules.update(empty)
    try:
        import argparse  # noqa: F401

        import nagiosplugin  # noqa: F401
    finally:
        for name in empty:
            del sys.modules[name]


def _nothing(_):  # type: ignore[no-untyped-def]
    return None


def _singular_or_plural(one, many, number):  # type: ignore[no-untyped-def]
    return one if number == 1 else many


def _seconds_since_start():  # type: ignore[no-untyped-def]
    """Return how long this process has existed: the time-out includes its start."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError):
        return 0.0


def _say(check, text):  # type: ignore[no-untyped-def]
    text = "CONNTRACK_" + check.upper() + " UNKNOWN - " + text + "\n"
    try:  # noqa: SIM105 - contextlib of old interpreters has no suppress
        os.write(1, text.encode("ascii", "backslashreplace"))
    except OSError:
        pass  # closed or full: the exit code has to do


def _stopped_early(check):  # type: ignore[no-untyped-def]
    """Return the handler of signals that come before the check has its own."""

    def stopped(number, _):  # type: ignore[no-untyped-def]
        text = "stopped by signal " + str(int(number)) + " while starting"
        _say(check, text)  # type: ignore[no-untyped-call]
        os._exit(3)

    return stopped
