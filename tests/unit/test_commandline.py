from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from check_conntrack import (
    __version__,
    nagios,
    ranges,
    render,
    runner,
    session,
    signals,
)
from check_conntrack.cli import UsageError
from check_conntrack.full import full_check
from check_conntrack.kernel import KernelError, privileges
from check_conntrack.kernel.privileges import User
from check_conntrack.state import state_store
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check


def test_help_is_the_manual_and_exits_3(help_page):
    for option in ("-h", "--help"):
        code, out, err = help_page(option)
        assert (code, err) == (3, "")
        assert out.isascii()
        for word in (
            "--warning",
            "--netns",
            "--state-dir",
            "--trend-window",
            "Exit codes",
            "@10:20",
        ):
            assert word in out
        for label in usage_check.LABELS:
            assert re.search(rf"^  {label.name} ", out, re.MULTILINE)
        assert max(map(len, out.splitlines())) <= 100


def test_help_wins_over_an_option_that_is_wrong(help_page):
    assert help_page("--bogus", "-h")[1].startswith("usage: check_conntrack_usage")


def test_version_is_one_line_and_exits_3(help_page):
    for option in ("-V", "--version"):
        assert help_page(option) == (3, f"check_conntrack_usage {__version__}\n", "")


@pytest.mark.parametrize(
    "module",
    [usage_check, full_check, table_check],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_what_the_help_says_of_quotes_and_of_a_leading_hyphen_is_so(module):
    page = " ".join(module.parser().format_help().split())
    assert 'quote a range with ~ or @: -w "~:10", -w "usage=~:".' in page
    assert "-w=-5:5" in page
    words = shlex.split('-w "~:10" -w "usage=~:" -w=-5:5 -c=-5:5')
    options = module.parser().parse_args(words)
    assert (options.warning, options.critical) == (["~:10", "usage=~:", "-5:5"], ["-5:5"])
    assert ranges.parse_range("-5:5", module.LABELS[0])


@pytest.mark.parametrize("word", ["--netns=--", "--state-dir=--", "-w=--", "-t--", "-vt--"])
def test_two_hyphens_are_no_value(word):
    with pytest.raises(UsageError, match=r"argument \S+: -- is not a value"):
        usage_check.parser().parse_args([word])


@pytest.mark.parametrize("word", ["--state-key=a--", "--state-key=x=--", "--state-key=---"])
def test_value_may_end_with_hyphens(word):
    assert usage_check.parser().parse_args([word]).state_key == word.partition("=")[2]


EXAMPLES = [line for line in usage_check.EXAMPLES.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_the_help_is_a_command_line_it_takes(line):
    program, *arguments = shlex.split(line)
    options = usage_check.parser().parse_args(arguments)
    assert program == "check_conntrack_usage"
    assert ranges.parse_thresholds(usage_check.LABELS, options.warning, options.critical)


def test_the_defaults_are_the_contracts():
    options = usage_check.parser().parse_args([])
    assert (options.timeout, options.verbose, options.exit_ok) == (8, 0, False)
    assert (options.if_inactive, options.trend_window, options.netns) == ("ok", 3600, [])
    assert (options.sudo, options.no_state, options.state_dir) == (False, False, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1", 1), ("2.5", 2.5), ("1m", 60), ("1d", 86400), ("0.001", 0.001)],
)
def test_a_timeout_is_a_duration_and_0_is_none(text, seconds):
    assert usage_check.parser().parse_args(["-t", text]).timeout == seconds


def stopped_by(number):
    """A check that is sent a signal while it works."""

    def run_check(options, stage):
        stage("waiting for the kernel")
        os.kill(os.getpid(), number)
        signal.pause()

    return run_check


@pytest.fixture
def answer(capfd, signals):
    """Run a run_check behind the command line of the check: exit code and output."""

    def run(run_check, *arguments):
        capfd.readouterr()
        code = runner.run("T", usage_check.parser(), run_check, list(arguments))
        out, err = capfd.readouterr()
        assert err == ""
        return code, out

    return run


def test_when_time_is_up_it_is_unknown_and_names_the_stage(answer):
    def run_check(options, stage):
        stage("waiting for the kernel")
        while True:
            signal.pause()

    assert answer(run_check, "-t", "0.05") == (
        3,
        "T UNKNOWN - timed out after 0.05s while waiting for the kernel\n",
    )


def test_a_time_out_comes_also_where_its_signal_was_blocked_or_waits(answer):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    # Whoever started the check left it. To this thread: the test's runner may have others.
    signal.pthread_kill(threading.get_ident(), signal.SIGALRM)

    def run_check(options, stage):
        stage("waiting for the kernel")
        for _ in range(100):
            time.sleep(0.05)
        return runner.CheckResult(nagios.Ok, "never stopped")

    code, out = answer(run_check, "-t", "0.05")
    assert (code, out) == (3, "T UNKNOWN - timed out after 0.05s while waiting for the kernel\n")


def test_how_a_child_ended_is_told_also_where_that_was_ignored(answer):
    def run_check(options, stage):
        child = os.fork()
        if not child:
            os._exit(7)
        return runner.CheckResult(nagios.Ok, f"ended with {os.waitpid(child, 0)[1] >> 8}")

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert answer(run_check) == (0, "T OK - ended with 7\n")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_alarm_that_is_lost_comes_again(answer, monkeypatch):
    lost = []
    real = signal.setitimer
    monkeypatch.setattr(
        signal, "setitimer", lambda which, first, *again: real(which, first, *(0.05 for _ in again))
    )

    class Swallows:
        def __del__(self):
            lost.append(1)
            signal.pause()

    def run_check(options, stage):
        sys.unraisablehook = lambda _: None
        held = Swallows()
        del held
        sys.unraisablehook = sys.__unraisablehook__
        while True:
            signal.pause()

    assert answer(run_check, "-t", "0.05")[0] == 3
    assert lost


def test_without_a_timeout_no_timer_runs(answer):
    def run_check(options, stage):
        return runner.CheckResult(nagios.Ok, str(signal.getitimer(signal.ITIMER_REAL)))

    signal.setitimer(signal.ITIMER_REAL, 0)  # pytest-timeout's
    assert answer(run_check, "-t", "0") == (0, "T OK - (0.0, 0.0)\n")
    assert "(0.0, 0.0)" not in answer(run_check, "-t", "5")[1]


def test_no_timer_runs_on_when_the_check_has_ended(answer):
    def run_check(options, stage):
        raise RuntimeError

    answer(run_check)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


WATCHED = """
import sys, time
sys.path.insert(0, {folder!r})
from check_conntrack import runner, signals
from nagiosplugin import Ok

stage = signals.Stage("CONNTRACK_X")
signals.signal.signal = lambda *_: None  # no signal gets through
stage.now = "waiting for a disk"
stage.set_timer(0.5)
stage.watch()
{more}
time.sleep(20)
"""
VERDICT = "stage.result = Ok; stage.printed = lambda reason: (0, 'fine (' + reason + ')\\n')"


@pytest.mark.parametrize(
    ("more", "code", "out"),
    [
        ("", 3, "CONNTRACK_X UNKNOWN - timed out after 0.5s while waiting for a disk\n"),
        (VERDICT, 0, "fine (timed out after 0.5s while waiting for a disk)\n"),
        ("stage.answer = 1, 'known\\n'", 1, "known\n"),
        ("stage.unwatch(); stage.watch(); stage.unwatch(); time.sleep(0.7); sys.exit(7)", 7, ""),
        ("stage.begin_printing(); time.sleep(0.7); stage.stop_timer(); sys.exit(7)", 7, ""),
    ],
    ids=["nothing known", "verdict known", "answer known", "unwatched", "printing"],
)
def test_thread_prints_where_no_signal_gets_through(more, code, out):
    script = WATCHED.format(folder=os.path.dirname(os.path.dirname(signals.__file__)), more=more)
    # The alarm itself would end this process: it comes after the thread has printed.
    script = script.replace("stage.watch()", "stage.watch(); signals.signal.setitimer(0, 0)", 1)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_to_stop_is_unknown_by_its_name(answer, name):
    code, out = answer(stopped_by(getattr(signal, name)), "-t", "20")
    assert (code, out) == (3, f"T UNKNOWN - stopped by {name}\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGALRM"])
def test_a_signal_that_comes_while_the_verdict_is_printed_does_not_make_it_another(name, signals):
    # But SIGALRM, which comes a moment later where nobody takes the verdict.
    number = getattr(signal, name)
    pid = os.fork()
    if not pid:
        try:

            def write(text):
                os.kill(os.getpid(), number)
                return True

            render.write = write
            made = runner.run(
                "T",
                usage_check.parser(),
                lambda options, stage: runner.CheckResult(nagios.Critical, "full"),
                [],
            )
            os._exit(made)
        except BaseException:
            os._exit(99)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == (3 if name == "SIGALRM" else 2)


def test_an_order_to_stop_that_becomes_another_error_is_still_one(answer):
    def run_check(options, stage):
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            signal.pause()
        except signals.StoppedError:
            raise SystemError("returned a result with an exception set") from None

    assert answer(run_check) == (3, "T UNKNOWN - stopped by SIGHUP\n")


def test_of_two_orders_to_stop_the_first_is_told(answer):
    def run_check(options, stage):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    assert answer(run_check) == (3, "T UNKNOWN - stopped by SIGTERM\n")


def test_a_signal_that_is_lost_where_nothing_can_be_raised_comes_again(answer):
    class Swallows:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    def run_check(options, stage):
        held = Swallows()
        del held
        while True:
            signal.pause()

    hook = sys.unraisablehook
    code, out = answer(run_check, "-t", "60")
    assert (code, out) == (3, "T UNKNOWN - stopped by SIGTERM\n")
    assert sys.unraisablehook is hook


def test_notes_are_shown_also_when_all_is_well(answer):
    outcome = runner.CheckResult(nagios.Ok, "fine", (), ["detail"], ["Not seen: a log"])
    assert answer(lambda options, stage: outcome)[1] == "T OK - fine\nNot seen: a log\n"
    assert answer(lambda options, stage: outcome, "-v")[1].endswith("a log\ndetail\n")


def test_an_answer_that_cannot_be_made_is_unknown(answer, monkeypatch):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr(render, "page", broken)
    code, out = answer(lambda options, stage: runner.CheckResult(nagios.Ok, "fine"))
    assert (code, out) == (3, "T UNKNOWN - internal error while printing: MemoryError: \n")


def test_an_error_of_the_kernels_side_is_its_own_sentence(answer):
    def run_check(options, stage):
        raise KernelError("/proc/x cannot be read: why")

    assert answer(run_check, "-vvv") == (3, "T UNKNOWN - /proc/x cannot be read: why\n")


def test_the_way_to_an_unforeseen_error_is_shown_at_the_highest_verbosity_alone(answer):
    def run_check(options, stage):
        raise RuntimeError("odd")

    assert len(answer(run_check, "-vv")[1].splitlines()) == 1
    code, out = answer(run_check, "-vvv")
    assert code == 3
    assert "in run_check" in out


def test_exit_ok_prints_the_verdict_and_exits_0(answer):
    def run_check(options, stage):
        return runner.CheckResult(nagios.Critical, "full", ["usage=100%"], ["do this"])

    assert answer(run_check, "--exit-ok") == (0, "T CRITICAL - full | usage=100%\ndo this\n")


def test_long_output_is_for_problems_and_for_verbosity(answer):
    def run_check(options, stage):
        return runner.CheckResult(nagios.Ok, "fine", (), ["detail"])

    assert answer(run_check) == (0, "T OK - fine\n")
    assert answer(run_check, "-v") == (0, "T OK - fine\ndetail\n")


def test_without_verbosity_the_output_is_bounded_and_with_it_whole(answer):
    def run_check(options, stage):
        return runner.CheckResult(nagios.Warn, "much", (), ["x" * 100] * 100)

    assert len(answer(run_check)[1]) <= 4096
    assert len(answer(run_check, "-v")[1]) > 10000


@pytest.mark.parametrize("state", ["Ok", "Critical"])
def test_a_verdict_that_cannot_be_printed_is_unknown(answer, monkeypatch, state):
    monkeypatch.setattr(render, "write", lambda text: False)

    def run_check(options, stage):
        return runner.CheckResult(getattr(nagios, state), "fine")

    assert answer(run_check, "--exit-ok")[0] == 3


# --- whom it becomes


@pytest.fixture
def dropped(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(session, "SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(state_store, "SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(privileges, "drop", lambda user, **how: made.append((user, *how.values())))
    return made


def options(**more):
    return argparse.Namespace(
        **{"user": None, "state_dir": None, "no_state": False, "sudo": False, **more}
    )


def test_an_ordinary_user_stays_who_it_is_without_extra_rights(monkeypatch, dropped):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    assert session.drop_privileges(options()) == (None, None)
    assert session.drop_privileges(options(sudo=True)) == (None, None)
    assert dropped == [(User(1000, 1001), False), (User(1000, 1001), True)]


def test_root_becomes_another_and_takes_the_others_home(monkeypatch, dropped, tmp_path):
    asked = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "412")
    monkeypatch.setattr(
        privileges,
        "unprivileged_user",
        lambda *given: asked.append(given) or User(5, 6, (), "/home/five"),
    )
    assert session.drop_privileges(options(user="five", state_dir="/a"))[0] == "/home/five"
    monkeypatch.setenv(state_store.STATE_VARIABLE, "/b")
    session.drop_privileges(options())
    monkeypatch.delenv(state_store.STATE_VARIABLE)
    session.drop_privileges(options())
    assert asked == [("five", "412", "/a"), (None, "412", "/b"), (None, "412", state_store.SHARED)]
    assert dropped == [(User(5, 6, (), "/home/five"),)] * 3


@pytest.mark.parametrize("public", [True, False])
def test_root_imports_modules_beforehand_where_others_could_not_read_them(
    monkeypatch, dropped, public
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "unprivileged_user", lambda *_: User(5, 6))
    monkeypatch.setattr(session, "readable_by_all", lambda: public)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    # Not every Python has every library.
    session.drop_privileges(options(), ["no_such_library", "colorsys"])
    assert dropped == [(User(5, 6),)]
    assert ("colorsys" in sys.modules) is not public


def test_modules_that_others_may_not_read_are_not_public(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "suite"
        module = suite / "part" / "module.py"
        module.parent.mkdir(parents=True)
        module.touch()
        for path in (module.parent, suite, Path(folder)):
            path.chmod(0o755)
        module.chmod(0o644)
        monkeypatch.setattr(session, "__file__", str(suite / "session.py"))
        assert session.readable_by_all()
        for path in (module, module.parent, suite, Path(folder)):
            before = path.stat().st_mode
            path.chmod(0o700)
            assert not session.readable_by_all(), path
            path.chmod(before)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700])
def test_modules_of_an_archive_are_public_where_the_archive_is(monkeypatch, mode):
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "check_conntrack_usage"
        archive.touch(mode)
        archive.chmod(mode)
        Path(folder).chmod(0o755)
        spec = SimpleNamespace(loader=SimpleNamespace(archive=str(archive)))
        monkeypatch.setattr(session, "__spec__", spec)
        monkeypatch.setattr(session, "__file__", f"{archive}/check_conntrack/session.py")
        assert session.readable_by_all() is (mode == 0o755)


def test_one_without_a_home_does_not_get_roots(monkeypatch, dropped):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "unprivileged_user", lambda *_: User(5, 6))
    assert session.drop_privileges(options(no_state=True)) == ("", None)


def test_standard_streams_that_are_closed_are_filled_by_dev_null(monkeypatch):
    opened = []
    closed = {0, 2}

    def lowest_free(path, _):
        opened.append(path)
        closed.remove(min(closed))

    monkeypatch.setattr(runner, "_is_open", lambda number: number not in closed)
    monkeypatch.setattr(os, "open", lowest_free)
    runner._fill_standard_descriptors()
    assert (opened, closed) == ([os.devnull] * 2, set())


def test_standard_streams_that_are_open_are_left_alone(monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it opened something"))
    monkeypatch.setattr(sys, "stderr", None)
    runner._fill_standard_descriptors()


def test_a_signal_that_comes_while_another_answer_is_made_is_an_answer_too(answer, monkeypatch):
    monkeypatch.setattr(
        runner,
        "_internal_error",
        lambda *_: os.kill(os.getpid(), signal.SIGTERM) or signal.pause(),
    )

    def run_check(options, stage):
        raise RuntimeError

    assert answer(run_check) == (3, "T UNKNOWN - stopped by SIGTERM\n")


# --- what is left of the time


def test_time_out_includes_the_start_of_the_process(capfd, signals):
    def run_check(options, stage):
        return runner.CheckResult(nagios.Ok, f"{stage.left():.1f}")

    for elapsed, left in ((0.0, "7.0"), (0.5, "6.5"), (100.0, "1.0")):
        capfd.readouterr()
        assert runner.run("T", usage_check.parser(), run_check, ["-t", "8"], elapsed=elapsed) == 0
        assert capfd.readouterr().out == f"T OK - {left}\n", (
            "three quarters at most; a second is kept"
        )


def test_step_that_is_stopped_is_reported_and_the_check_goes_on(answer):
    def run_check(options, stage):
        problems = []
        with stage.stoppable(problems.append):
            stage("reading")
            while True:
                signal.pause()
        time.sleep(0.1)  # nothing is raised again
        return runner.CheckResult(nagios.Unknown, f"10 of 20; {problems[0]}", ["usage=50%"])

    code, out = answer(run_check, "-t", "1")
    assert code == 3
    assert out == "T UNKNOWN - 10 of 20; timed out after 1s while reading | usage=50%\n"


def test_error_inside_a_step_is_not_swallowed_by_it(answer):
    def run_check(options, stage):
        with stage.stoppable(pytest.fail):
            raise KernelError("/proc/x: broken")

    assert answer(run_check) == (3, "T UNKNOWN - /proc/x: broken\n")


def test_order_to_stop_that_becomes_another_error_is_reported_by_the_step(answer):
    def run_check(options, stage):
        problems = []
        with stage.stoppable(problems.append):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                signal.pause()
            except signals.StoppedError:
                raise SystemError("returned a result with an exception set") from None
        with pytest.raises(ValueError, match="later"), stage.stoppable(problems.append):
            raise ValueError("later")
        return runner.CheckResult(nagios.Unknown, *problems)

    assert answer(run_check) == (3, "T UNKNOWN - stopped by SIGHUP\n")


def test_order_to_stop_after_the_verdict_does_not_cost_the_verdict(answer):
    def run_check(options, stage):
        stage.result = runner.CheckResult(nagios.Critical, "full")
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    assert answer(run_check) == (2, "T CRITICAL - full\nstopped by SIGTERM\n")


def test_words_of_a_known_verdict_are_not_stopped_before_the_promised_time(answer):
    def run_check(options, stage):
        stage.set_timer(2)
        stage.result = runner.CheckResult(nagios.Critical, "plain")
        assert stage.left() < 1.8
        time.sleep(stage.left() + 0.1)  # the alarm comes meanwhile
        return runner.CheckResult(nagios.Critical, "in better words")

    assert answer(run_check) == (2, "T CRITICAL - in better words\n")


def test_time_that_is_up_before_the_verdict_leaves_what_is_known_of_it(answer):
    def run_check(options, stage):
        stage.set_timer(1)
        stage.answer = 2, "T CRITICAL - the limits alone\n"
        time.sleep(60)

    assert answer(run_check) == (2, "T CRITICAL - the limits alone\n")


def test_step_after_the_verdict_is_stopped_all_the_same(answer):
    def run_check(options, stage):
        stage.set_timer(2)
        stage.result = runner.CheckResult(nagios.Critical, "plain")
        problems = []
        with stage.stoppable(problems.append):
            stage("asking for names")
            time.sleep(60)
        return runner.CheckResult(nagios.Critical, *problems)

    assert answer(run_check) == (2, "T CRITICAL - timed out after 2s while asking for names\n")


def test_check_that_needs_longer_than_promised_ends_with_one_line():
    script = (
        "import sys, time\n"
        "from check_conntrack import runner\n"
        "from check_conntrack.usage import usage_check\n"
        "def run_check(options, stage):\n"
        "    with stage.stoppable(lambda reason: None):\n"
        "        stage('reading'); time.sleep(60)\n"
        "    time.sleep(60)\n"
        "sys.exit(runner.run('T', usage_check.parser(), run_check, ['-t', '0.4']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=30
    )
    assert time.monotonic() - started < 10
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "T UNKNOWN - timed out after 0.4s while reading\n"
