from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack import render
from check_conntrack.advice import capacity
from check_conntrack.advice.capacity import CapacityEvidence, advise, quarter, roomy_limit
from check_conntrack.state.last_finding import LastFinding

FULL = CapacityEvidence(10000, 10000, 10000, 2048, 8 << 30, diagnosed=True)
ALL_LABELS = {"usage", "entries", "limit", "load_factor", "growth", "time_to_full"}
EVIDENCE = st.builds(
    lambda entries, limit, more, *rest: CapacityEvidence(
        entries, limit, entries + more, *rest, diagnosed=True
    ),
    st.integers(0, 2**32 - 1),
    st.one_of(st.just(0), st.integers(1, 2**32 - 1)),
    st.integers(0, 2**30),
    st.one_of(st.none(), st.integers(1, 2**26)),
    st.one_of(st.none(), st.integers(0, 2**44)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


def text(evidence=FULL, alarms=("usage",)):
    return "\n".join(advise(evidence, alarms))


def test_drops_alone_raise_no_limit():
    lines = advise(FULL, {"full_drops"})
    assert "Nothing else says that the table was full" in lines[0]
    assert commands(lines) == ["conntrack -S", "dmesg --ctime"]


def commands(lines):
    """The commands that are not an undo."""
    found, undo = [], False
    for line in lines:
        if not line.startswith("  "):
            undo = line == "Undo:"
        elif not undo:
            found.append(line[2:])
    return found


def undos(lines):
    return [line[2:] for line in lines if line.startswith("  ") and line[2:] not in commands(lines)]


def assigned(lines):
    """Return what the sysctl commands set."""
    found = {}
    for command in commands(lines):
        words = shlex.split(command)
        if words[0] == "sysctl":
            assert words[1] == "-w"
            assert len(words) == 3
            match = re.fullmatch(
                r"net\.netfilter\.nf_conntrack_(max|buckets)=([1-9][0-9]*)", words[2]
            )
            assert match, command
            found[match[1]] = int(match[2])
    return found


def test_a_limit_is_never_more_than_the_sysctl_takes():
    assert roomy_limit(3_000_000_000) == 2**31 - 1


@given(st.integers(1, 2**30 * 10 // 13))
def test_a_roomy_limit_is_the_least_power_of_two_that_holds_the_peak_and_30_percent(peak):
    limit = roomy_limit(peak)
    assert limit & (limit - 1) == 0
    assert limit * 10 >= peak * 13
    assert limit // 2 * 10 < peak * 13


@pytest.mark.parametrize(
    ("peak", "limit"), [(0, 1), (1, 2), (10000, 16384), (201649, 262144), (201650, 524288)]
)
def test_a_roomy_limit_by_example(peak, limit):
    assert roomy_limit(peak) == limit


@given(st.integers(0, 2**32), st.one_of(st.none(), st.integers(0, 2**32)))
def test_buckets_are_a_quarter_of_the_limit_and_never_fewer_than_there_are(limit, buckets):
    found = quarter(limit, buckets)
    assert found >= (buckets or 0)
    # As the kernel rounds it: to whole pages.
    assert found == buckets or (found % 512 == 0 and limit / 4 <= found < limit / 4 + 512)


def test_the_new_maximum_is_written_out_for_now_and_for_the_next_boot():
    lines = advise(FULL, {"usage"})
    assert commands(lines) == [
        "sysctl -w net.netfilter.nf_conntrack_buckets=4096",
        "sysctl -w net.netfilter.nf_conntrack_max=16384",
        "echo net.netfilter.nf_conntrack_buckets = 4096 > /etc/sysctl.d/99-check-conntrack.conf",
        "echo net.netfilter.nf_conntrack_max = 16384 >> /etc/sysctl.d/99-check-conntrack.conf",
        "echo nf_conntrack > /etc/modules-load.d/check-conntrack.conf",
    ]
    assert "Raise the limit to 16384: the peak of 10000 entries plus 30%" in lines[0]
    assert undos(lines) == [
        "sysctl -w net.netfilter.nf_conntrack_max=10000",
        "sysctl -w net.netfilter.nf_conntrack_buckets=2048",
        ("rm -f /etc/sysctl.d/99-check-conntrack.conf /etc/modules-load.d/check-conntrack.conf"),
    ]


def test_the_peak_counts_and_not_the_entries_of_this_moment():
    assert assigned(advise(FULL._replace(entries=9000, peak=50000), {"usage"}))["max"] == 65536


@given(EVIDENCE, st.sets(st.sampled_from(sorted(ALL_LABELS)), min_size=1))
def test_advice_never_shrinks_anything_and_its_commands_are_shell_and_sysctl(evidence, alarms):
    lines = advise(evidence, alarms)
    set_to = assigned(lines)
    if "max" in set_to:
        assert set_to["max"] > evidence.limit
        assert set_to["max"] == roomy_limit(evidence.peak)
        assert evidence.limit, "there is no limit to raise"
    if "buckets" in set_to:
        assert set_to["buckets"] >= (evidence.buckets or 0)
        assert set_to["buckets"] != evidence.buckets, "a command that does nothing"
    for command in commands(lines):
        assert shlex.split(command)[0] in (
            *("sysctl", "echo", "grep"),
            "check_conntrack_table",
        )
    assert all(line.isascii() and "|" not in line for line in lines)


def test_the_shell_takes_every_command_and_writes_what_sysctl_reads(tmp_path):
    for evidence in (FULL, FULL._replace(buckets_sysctl=False)):
        lines = commands(advise(evidence, ALL_LABELS))
        files = {}
        for line in lines:
            assert subprocess.run(["sh", "-n", "-c", line], check=False).returncode == 0
            command, arrow, target = line.replace(" >> ", " > ").partition(" > ")
            if arrow and not target.startswith("/sys/"):
                written = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
                before = files.get(target, "") if ">>" in line else ""
                files[target] = before + written.stdout.decode()
        for line in files["/etc/sysctl.d/99-check-conntrack.conf"].splitlines():
            assert re.fullmatch(r"net\.netfilter\.nf_conntrack_(max|buckets) = [0-9]+", line)
        assert files["/etc/modules-load.d/check-conntrack.conf"] == "nf_conntrack\n"


def test_buckets_that_equal_the_limit_are_left_alone_and_called_enough():
    evidence = FULL._replace(buckets=10000, limit=10000)
    assert assigned(advise(evidence, {"usage"})) == {"max": 16384}
    assert "The 10000 hash buckets are enough" in text(evidence)


def test_the_file_for_the_next_boot_keeps_the_buckets_that_an_earlier_one_may_have_set():
    kept = commands(advise(FULL._replace(buckets=10240), {"usage"}))[-3]
    assert kept.startswith("echo net.netfilter.nf_conntrack_buckets = 10240 > ")


def test_the_limit_suffices_where_the_peak_and_30_percent_fit():
    evidence = CapacityEvidence(8500, 10000, 7600, diagnosed=True)
    for fits in (evidence, evidence._replace(peak=7692)):
        assert "The limit suffices" in text(fits)
        assert commands(advise(fits, {"usage"})) == []
    assert "The limit suffices" not in text(evidence._replace(peak=7693))


def test_what_grows_is_looked_for_where_a_larger_limit_would_only_put_off_the_end():
    lines = advise(CapacityEvidence(5000, 10000, 5000, growth=3.5), {"time_to_full"})
    assert "grows by 3.50 entries/s" in lines[0]
    assert commands(lines) == ["check_conntrack_table -v"]
    # Where it is too small for what was seen already, that comes first.
    lines = advise(CapacityEvidence(9000, 10000, 9000, growth=3.5), {"time_to_full"})
    assert assigned(lines)["max"] == 16384


def test_each_other_loss_is_met_by_its_own_remedy():
    full = FULL._replace(expectations=True, expect_max=1024)
    assert commands(advise(full, {"other_loss"})) == [
        "conntrack -L expect",
        "sysctl -w net.netfilter.nf_conntrack_expect_max=2048",
    ]
    inside = advise(full._replace(settable=False), {"other_loss"})
    assert any(line.endswith("it cannot be set from this namespace.") for line in inside)
    assert commands(advise(FULL._replace(zones=True), {"other_loss"})) == [
        "ovs-appctl dpctl/ct-get-limits"
    ]


def test_a_limit_is_raised_only_once_the_table_was_looked_at():
    evidence = FULL._replace(diagnosed=False)
    lines = advise(evidence, {"usage"})
    assert "Find out first what fills the table" in lines[0]
    assert commands(lines)[0] == "check_conntrack_table -v"
    flood = LastFinding(0, "flood", "UDP flood on 192.0.2.1 udp/9", room=False)
    lines = advise(evidence._replace(finding=flood), {"usage"})
    assert lines == [
        "Leave the limit as it is: UDP flood on 192.0.2.1 udp/9. What to do about it:",
        "  check_conntrack_table -v",
    ]
    for room in (flood._replace(room=True), flood._replace(cause="", room=True)):
        assert assigned(advise(evidence._replace(finding=room), {"usage"}))["max"] == 16384


def test_a_limit_that_was_lowered_is_restored_and_not_raised():
    lines = advise(FULL._replace(limit=4000, lowered_from=262144), {"usage"})
    assert lines[0].startswith("The limit was lowered from 262144 to 4000: restore it")
    assert commands(lines)[0] == "sysctl -w net.netfilter.nf_conntrack_max=262144"
    assert undos(lines) == ["sysctl -w net.netfilter.nf_conntrack_max=4000"]
    kube = FULL._replace(limit=4000, lowered_from=262144, kube_proxy=True)
    assert commands(advise(kube, {"usage"})) == []


def test_without_a_limit_there_is_nothing_to_raise():
    assert advise(FULL._replace(limit=0), {"usage", "entries"}) == []


def test_a_full_table_may_take_more_than_its_peak_shows():
    assert "What a full table turns away is not counted" in text()
    assert "turns away" not in text(FULL._replace(entries=9999))


def test_kube_proxy_is_told_the_new_limit_only_where_it_runs():
    assert "--conntrack-min=16384" in text(FULL._replace(kube_proxy=True))
    assert "kube-proxy" not in text()
    assert assigned(advise(FULL._replace(kube_proxy=True), {"usage"})) == {}
    assert "kube-proxy runs here and does" in text(FULL._replace(kube_proxy=True), ["limit"])


def test_inside_a_namespace_that_may_not_set_it_the_host_is_named():
    assert "Run on the host" in text(FULL._replace(settable=False))
    assert "Run on the host" in text(FULL._replace(settable=False), ["load_factor"])
    assert "Run on the host" not in text()


def test_old_kernels_take_buckets_through_the_modules_parameter():
    evidence = FULL._replace(buckets_sysctl=False)
    lines = commands(advise(evidence, {"usage"}))
    assert lines[0] == "echo 4096 > /sys/module/nf_conntrack/parameters/hashsize"
    assert "echo options nf_conntrack hashsize=4096 > /etc/modprobe.d/check-conntrack.conf" in lines
    assert "nf_conntrack_buckets" not in text(evidence)


def test_what_it_costs_and_whether_the_host_has_it():
    assert "about 6.0 MiB of kernel memory; 8.0 GiB are available." in text()
    assert "about 6.0 MiB of kernel memory." in text(FULL._replace(memory=None))
    short = text(FULL._replace(memory=1 << 20))
    assert "only 1.0 MiB are available" in short
    assert "add memory" in short


def test_what_the_table_has_already_need_not_be_available():
    needed = 16384 * 384 + 4096 * 8 - 10000 * 384 - 2048 * 8
    assert "; " in text(FULL._replace(memory=needed)).split("kernel memory")[1]
    assert "and only" in text(FULL._replace(memory=needed - 1))


def test_long_chains_call_for_more_buckets_alone():
    evidence = CapacityEvidence(9000, 10000, 9000, 1024)
    assert assigned(advise(evidence, {"load_factor"})) == {"buckets": 2560}
    assert assigned(advise(evidence._replace(buckets=4096), {"load_factor"})) == {"buckets": 8192}
    assert advise(evidence._replace(buckets=None), {"load_factor"}) == []


def test_what_more_buckets_cost_is_told():
    lines = advise(CapacityEvidence(9000, 10000, 9000, 1 << 20), {"load_factor"})
    assert "2097152 buckets (16.0 MiB)" in "\n".join(lines)


def test_a_table_that_is_too_small_and_whose_chains_are_too_long_gets_twice_the_buckets():
    small = FULL._replace(buckets=4096)
    assert assigned(advise(small, {"usage"}))["max"] == 16384
    assert "buckets" not in assigned(advise(small, {"usage"}))
    both = assigned(advise(small, {"usage", "load_factor"}))
    assert both["buckets"] == 8192


@pytest.mark.parametrize("label", ["load_factor", "chain_overflows"])
def test_two_alarms_that_call_for_buckets_call_for_one_number(label):
    lines = commands(advise(CapacityEvidence(190000, 200000, 190000, 4096), {"usage", label}))
    assert [line for line in lines if "nf_conntrack_buckets=" in line] == [
        "sysctl -w net.netfilter.nf_conntrack_buckets=65536"
    ]


@pytest.mark.parametrize(("entries", "unknown"), [(9999, False), (10000, True), (12000, True)])
def test_of_a_table_at_its_limit_or_beyond_it_is_said_that_more_may_be_wanted(entries, unknown):
    told = text(CapacityEvidence(entries, 10000, entries, 2048))
    assert ("turns away is not counted" in told) == unknown


def test_a_limit_that_was_changed_calls_for_who_changed_it():
    lines = advise(FULL, {"limit"})
    assert "The limit is 10000" in lines[0]
    assert commands(lines) == [capacity._GREP]


@pytest.mark.parametrize("label", ["usage", "entries", "growth", "time_to_full"])
def test_each_label_that_speaks_of_room_calls_for_the_same_advice(label):
    assert advise(FULL, {label}) == advise(FULL, {"usage"})


def test_two_alarms_of_one_cause_are_advised_on_once():
    assert advise(FULL, {"usage", "entries", "time_to_full"}) == advise(FULL, {"usage"})


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "1 KiB"), (10240, "10 KiB"), (1 << 20, "1.0 MiB"), (1536 << 20, "1.5 GiB")],
)
def test_a_size_is_told_in_the_unit_that_fits(size, words):
    assert render.size(size) == words


def test_the_table_check_is_run_in_the_namespace_that_alarms():
    lines = advise(FULL._replace(netns="red tape", diagnosed=False), {"usage"})
    assert "  check_conntrack_table -v --netns 'red tape'" in lines
