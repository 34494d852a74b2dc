"""check_conntrack_usage --listen on real floods at known rates."""

from __future__ import annotations

import statistics
import subprocess
import time

import pytest

from support import overflow
from support.arrivals import arriving
from support.commands import EMULATED, SLOWNESS, passing
from support.machine import machine_limit, machine_wide
from support.netns import wait_until

LISTEN = ("--listen", "1s")
# Of the true rate. A sender on an emulated processor is held up more often.
NEAR = 0.25 if EMULATED else 0.1


@pytest.fixture
def namespace(need):
    """A namespace to which all of 10.0.0.0/8 belongs, and whose connections are tracked."""
    need("ip", "nft", "setpriv")
    with overflow.namespace() as made:
        yield made


@pytest.fixture
def listen(usage, namespace):
    """Run the check as root in the namespace; it becomes nobody, and starts the reader before."""

    def run(*options, **more):
        return usage(*LISTEN, *options, before=namespace.command(), user=(), **more)

    return run


# An emulated processor makes and counts fewer entries, and is busy for longer.
@pytest.mark.parametrize(
    ("always", "rate"), [(False, 400), (True, 2000 // SLOWNESS), (False, 5000 // SLOWNESS)]
)
def test_new_rate_is_that_of_a_real_flood(namespace, listen, always, rate):
    if always:
        namespace.sysctl(netfilter__nf_conntrack_events=1)
    with arriving(namespace, rate):
        results = [listen("--no-state") for _ in range(5)]
    # A busy host now and then stops the sender for a moment, which sends twice as much after it.
    rates = [result.value("new_rate") for result in results]
    assert statistics.median(rates) == pytest.approx(rate, rel=NEAR if EMULATED else 0.02), rates
    assert not any("at least" in result.status for result in results)


def test_table_settles_where_the_first_run_says(namespace, listen):
    namespace.sysctl(netfilter__nf_conntrack_udp_timeout=8)
    # With few buckets packets remove expired entries soon. Else the garbage collector does, whose
    # passes depend on all tables of the machine.
    few = machine_wide(nf_conntrack_max=20000, nf_conntrack_buckets=1024)
    with few, arriving(namespace, 800):
        assert wait_until(lambda: namespace.count() > 1500)
        first = listen("--no-state")
        assert f"settles at about {first.value('settles_at'):.0f}%" in first.status
        # An emulated processor listens until the table has nearly settled.
        assert first.value("usage") < first.value("settles_at") * 0.8 or EMULATED
        time.sleep(10)
        counts = []
        for _ in range(50):
            counts.append(namespace.count())
            time.sleep(0.1)
    settled = statistics.mean(counts) / 20000 * 100
    assert max(counts) - min(counts) < 0.2 * max(counts)
    assert first.value("settles_at") == pytest.approx(settled, rel=NEAR)


def test_flood_fills_the_table_when_the_first_run_says(namespace, listen):
    with machine_limit(9000), arriving(namespace, 300 if EMULATED else 1000):
        assert wait_until(lambda: namespace.count() > 500)
        first = listen("-c", "time_to_full=1m:", "--no-state")
        at = time.monotonic()
        assert wait_until(lambda: namespace.count() >= 9000, 60)
        took = time.monotonic() - at
    assert first.code == 2
    assert ", full in about " in first.status
    assert first.value("settles_at") > 100
    assert first.value("time_to_full") == pytest.approx(took, rel=0.15, abs=0.5)


def test_answered_connections_are_no_flood(namespace, listen):
    rate = 1000 // SLOWNESS
    with machine_limit(9000), arriving(namespace, rate, "answered"):
        assert wait_until(lambda: namespace.count() > 500)
        first = listen("-c", "time_to_full=1m:")
    assert first.code == 0
    assert first.value("new_rate") == pytest.approx(rate, rel=NEAR)
    assert not {"settles_at", "time_to_full"} & set(first.perfdata)
    assert first.status.endswith("new/s")


def test_later_runs_know_the_end_rate_and_the_lifetime(namespace, usage):
    namespace.sysctl(netfilter__nf_conntrack_udp_timeout=3)
    with arriving(namespace, 300):
        assert wait_until(lambda: namespace.count() > 900)
        entries = []
        for number in range(4):
            # A hundred seconds pass between two runs.
            before = [*namespace.command(), *passing(1000 + 100 * number)]
            last = usage(*LISTEN, before=before, user=())
            entries.append(last.value("entries"))
            assert ("end_rate" in last.perfdata) == (number == 3)
    # Within these seconds the table grew by little of what arrives in 300 seconds.
    assert last.value("end_rate") == pytest.approx(300, rel=NEAR)
    assert last.value("lifetime") == pytest.approx(statistics.mean(entries) / 300, rel=0.5)


@pytest.mark.parametrize("given", [(), ("-w", "settles_at=50")])
def test_without_events_the_labels_are_absent_and_a_line_says_so(namespace, listen, given):
    namespace.sysctl(netfilter__nf_conntrack_events=0)
    with arriving(namespace, 200):
        started = time.monotonic()
        result = listen(*given, "--no-state")
        assert time.monotonic() - started < 5 * SLOWNESS
    line = (
        "Events could not be counted: "
        "no events, net.netfilter.nf_conntrack_events is 0 (set it to 1)"
    )
    assert line in result.lines
    assert not {"new_rate", "settles_at"} & set(result.perfdata)
    assert result.code == (3 if given else 0)


def test_unprivileged_user_gets_no_labels_and_one_line(namespace, usage):
    result = usage(*LISTEN, before=namespace.command())
    assert result.code == 0
    assert result.lines == ["Events could not be counted: permission denied (use --sudo)"]
    assert "new_rate" not in result.perfdata


def test_sudo_lets_an_unprivileged_user_listen(namespace, usage, sudoers):
    with arriving(namespace, 500):
        result = usage(*LISTEN, "--sudo", before=namespace.command())
    assert result.lines == []
    assert result.value("new_rate") == pytest.approx(500, rel=NEAR)


def test_plain_labels_listen_in_the_namespace_that_they_describe(namespace, usage, netns):
    quiet = netns()
    with arriving(namespace, 500):
        busy = usage(*LISTEN, "--netns", namespace.name, "--netns", quiet.name, user=())
        calm = usage(*LISTEN, "--netns", quiet.name, "--netns", namespace.name, user=())
    assert busy.value("new_rate") == pytest.approx(500, rel=NEAR)
    assert f"namespace {namespace.name}" in busy.status
    assert calm.value("new_rate") == 0


def test_check_that_ends_takes_its_reader_along(namespace, listen, installed):
    tree, _ = installed
    with arriving(namespace, 15000):
        started = time.monotonic()
        result = listen("--listen", "30s", "-t", "60", "--no-state")
        assert time.monotonic() - started < 25, "ten thousand new entries are enough"
        mine = ["pgrep", "-f", f"{tree}/check_conntrack/kernel/reader.py"]
        assert wait_until(lambda: subprocess.run(mine, capture_output=True).returncode == 1, 5)
    assert result.value("new_rate") > 5000 / SLOWNESS
