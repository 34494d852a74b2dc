"""EC2's own limit through the front doors of both checks, on instances that a test makes up."""

from __future__ import annotations

import subprocess

import pytest

from check_conntrack.advice import instance as advice
from support.ena_device import Instance
from support.full_host import Host


@pytest.fixture
def instance(tmp_path, monkeypatch):
    return Instance(tmp_path, monkeypatch)


@pytest.fixture
def eth0(instance):
    device = instance.add("eth0")
    device.sets(available=76957)
    return device


@pytest.fixture
def host(tmp_path, monkeypatch, capfd, signals):
    return Host(tmp_path, monkeypatch, capfd)


LABELS = ("instance_available", "instance_usage")

# --- usage


def test_usage_elsewhere_than_on_ec2_has_no_label_of_it(check):
    run = check("-w", "instance_available=1000:", "-c", "instance_usage=50")
    assert run.state == "OK", "a limit that does not exist is not reached"
    assert run.values(*LABELS) == [None, None]


def test_usage_knows_the_share_from_the_second_run_on(check, eth0):
    assert check().values(*LABELS) == [76957, None]
    eth0.sets(available=30000)
    run = check()
    assert run.values(*LABELS) == [30000, 61.0]
    assert run.state == "OK"
    assert "EC2" not in run.text
    data = list(run.data)
    assert data.index("instance_available") > data.index("load_factor")


@pytest.mark.parametrize(
    ("available", "state", "share"),
    [(15392, "OK", "80.0"), (15000, "WARNING", "80.5"), (7000, "CRITICAL", "90.9")],
)
def test_usage_of_ec2s_limit_alarms_before_the_table_is_named(check, eth0, available, state, share):
    check()
    eth0.sets(available=available)
    run = check()
    assert run.state == state
    assert run.data["instance_usage"].spelled == f"{share}%;80;90;0;100"
    if state != "OK":
        assert run.text == (
            f"EC2's own connection limit: {share}% in use, {available} of 76957 left; "
            "1000 of 10000 entries in use (10.0%)"
        )
        violated = 80 if state == "WARNING" else 90
        assert run.lines[0] == f"{state}: instance_usage {share}% (threshold {violated})"
        assert any('"TcpEstablishedTimeout": 3600' in line for line in run.lines)


def test_usage_of_ec2s_limit_is_named_also_where_the_table_is_full(check, eth0, sysctls):
    check()
    eth0.sets(available=7)
    sysctls.holds(9990, 10000, 2048)
    run = check()
    assert run.text.startswith("EC2's own connection limit: 99.99% in use")
    assert "9990 of 10000 entries in use (99.9%)" in run.text
    assert any("sysctl -w net.netfilter.nf_conntrack_max" in line for line in run.lines)


def test_usage_takes_the_interface_with_the_fewest_left_and_says_which(check, instance, eth0):
    other = instance.add("eth1")
    other.sets(available=60000)
    check()
    eth0.sets(available=50000)
    other.sets(available=900)
    run = check("-w", "instance_available=1000:")
    assert run.values(*LABELS) == [900, 98.5]
    assert "900 of 60000 left (eth1)" in run.text
    assert any("/sys/class/net/eth1/address" in line for line in run.lines)


def test_usage_of_too_few_connections_left_is_told_as_such(check, eth0):
    run = check("-c", "instance_available=80000:")
    assert run.text.startswith("EC2 can track 76957 more connections for this instance; ")
    eth0.sets(available=1)
    off = ("-w", "instance_usage=~:", "-c", "instance_usage=~:")
    run = check("-c", "instance_available=80000:", *off)
    assert "EC2 can track 1 more connection for this instance" in run.text
    assert run.state == "CRITICAL"


@pytest.mark.parametrize("known", [True, False])
def test_usage_keeps_the_peak_over_a_reboot_but_not_for_another_type(
    check, eth0, instance, monkeypatch, known
):
    from check_conntrack.usage import instance as usage_instance

    if not known:
        instance.product.unlink()
    check()
    monkeypatch.setattr(usage_instance, "boot_id", lambda: "b" * 32)
    eth0.sets(available=30000)
    assert check().values(*LABELS) == [30000, 61.0 if known else None]
    if known:
        instance.product.write_text("t3.nano\n")
        assert check().values(*LABELS) == [30000, None]
    eth0.sets(available=15000)
    assert check().values(*LABELS) == [15000, 50.0]


def test_usage_a_threshold_that_the_driver_cannot_serve_is_unknown(check, eth0):
    eth0.old_driver()
    assert check().state == "OK"
    for label in ("instance_available=100:", "instance_usage=50"):
        run = check("-w", label)
        assert run.state == "UNKNOWN"
        assert "cannot be evaluated" in run.text


def test_usage_says_that_a_device_does_not_answer(check, eth0):
    eth0.answers = False
    run = check("-v")
    assert "Not read: eth0: the device did not answer its driver" in run.lines
    assert run.values(*LABELS) == [None, None]
    assert run.state == "OK"


def test_usage_shows_what_is_left_with_verbosity(check, eth0):
    check()
    eth0.sets(available=70000)
    lines = check("-v").lines
    assert "EC2 (eth0): 70000 more connections can be tracked" in lines
    assert "EC2: most connections left that were seen: 76957 (m5.large)" in lines


def test_usage_without_state_knows_no_share_and_says_so_if_it_is_needed(check, eth0):
    run = check("--no-state", "-w", "instance_usage=50")
    assert run.state == "WARNING"
    assert "no history" in run.text


# --- full


def test_full_elsewhere_than_on_ec2_has_no_label_of_it(host):
    run = host.run("-w", "instance_refused=0", "-c", "linklocal_refused=0")
    assert run.state == "OK"
    assert run.values("instance_refused", "linklocal_refused") == [None, None]


def test_full_counts_what_ec2_refused_in_the_window(host, eth0):
    eth0.sets(available=0, refused=5000, linklocal=7)
    assert host.run().values("instance_refused", "linklocal_refused") == [None, None]
    for refused, state in ((5080, "OK"), (5150, "WARNING"), (6100, "CRITICAL")):
        host.passes(60)
        eth0.sets(available=0, refused=refused, linklocal=9)
        run = host.run()
        assert (run.state, run.data["instance_refused"].value) == (state, refused - 5000)
    assert run.text == (
        "EC2 refused 1100 packets in the last 15m at its own connection limit (eth0)"
    )
    assert run.data["instance_refused"].spelled == "1100;100;1000;0"
    assert run.values("linklocal_refused") == [2]
    host.passes(960)
    assert host.run().data["instance_refused"].value == 0


def test_full_counts_from_zero_at_once(host, eth0):
    assert host.run().values("instance_refused", "linklocal_refused") == [0, 0]
    host.passes(60)
    eth0.sets(available=0, refused=2000)
    assert host.run().state == "CRITICAL"


def test_full_names_ec2_before_the_tables_and_says_which_interface(host, eth0, instance):
    other = instance.add("eth1")
    other.sets(available=90)
    host.run()
    host.passes(60)
    eth0.sets(available=0, refused=20)
    other.sets(available=0, refused=180)
    host.own.entries = host.own.limit
    run = host.run()
    assert run.state == "CRITICAL"
    assert run.text.startswith(
        "EC2 refused 200 packets in the last 15m at its own connection limit "
        "(eth1, eth0); at the limit: 10000 of 10000 entries"
    )
    told = [line for line in host.run("-v").lines if line.startswith("EC2 (eth1)")]
    assert told[0].startswith("EC2 (eth1): 180 packets refused, 0 to link-local services, 0 more ")
    assert any("/sys/class/net/eth1/address" in line for line in run.lines)


def test_full_tells_refusals_of_the_services_of_ec2(host, eth0):
    host.run()
    host.passes(60)
    eth0.sets(available=500, linklocal=101)
    run = host.run("-v")
    assert run.state == "WARNING"
    assert run.text == (
        "EC2 refused 101 packets to its DNS, metadata and time services in the last 15m (eth0)"
    )
    assert "  check_conntrack_table -v --protocol udp --port 53" in run.lines
    assert "EC2 (eth0): 0 packets refused, 101 to link-local services, " in run.out
    assert not any("modify-network-interface" in line for line in run.lines)


def test_full_a_reset_and_a_reboot_count_from_zero(host, eth0):
    eth0.sets(available=5, refused=5000)
    host.run()
    host.passes(60)
    eth0.sets(available=5, refused=30)
    assert host.run().data["instance_refused"].value == 30
    host.reboots()
    eth0.sets(available=5, refused=4)
    assert host.run().data["instance_refused"].value == 34


def test_full_says_that_a_device_does_not_answer_and_counts_no_rise_after_it(host, eth0):
    eth0.sets(available=5, refused=5000)
    host.run()
    host.passes(60)
    eth0.answers = False
    run = host.run("-v")
    assert run.state == "OK"
    assert "Not read: eth0: the device did not answer its driver" in run.lines
    host.passes(60)
    eth0.answers = True
    assert host.run().data["instance_refused"].value == 0


def test_full_a_threshold_that_the_driver_cannot_serve_is_unknown(host, eth0):
    del eth0.allowances["linklocal_allowance_exceeded"]
    assert host.run().state == "OK"
    run = host.run("-w", "linklocal_refused=0")
    assert run.state == "UNKNOWN"
    assert "linklocal_refused cannot be evaluated" in run.text


def test_full_without_conntrack_still_tells_what_ec2_refused(host, eth0):
    host.own = None
    host.run()
    host.passes(60)
    eth0.sets(available=0, refused=2000)
    run = host.run()
    assert run.state == "CRITICAL"
    assert run.text.startswith("EC2 refused 2000 packets")


# --- advice


def test_advice_on_ec2_is_valid_shell_with_an_undo():
    for interface in ("eth0", "", "eth0;reboot", "x" * 15):
        lines = advice.advise({"instance_refused", "linklocal_refused"}, interface)
        commands = [line.strip() for line in lines if line.startswith("  ")]
        subprocess.run(["sh", "-nc", "\n".join(commands)], check=True)
        assert not any("reboot" in command for command in commands)
    assert "Undo:" in lines
    assert advice.advise({"usage"}, "eth0") == []


def test_advice_on_ec2_asks_the_metadata_service_for_the_right_interface(tmp_path):
    fake = tmp_path / "curl"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *api/token*) echo T0K;; *) echo "$*" | tail -c 60;; esac\n'
    )
    fake.chmod(0o755)
    lines = advice.advise({"instance_refused"}, "lo")
    start = next(at for at, line in enumerate(lines) if line.startswith("  token="))
    script = "\n".join([*lines[start : start + 2], 'echo "$token $eni"'])
    done = subprocess.run(
        ["sh", "-ec", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("T0K ")
    assert "interfaces/macs/00:00:00:00:00:00/interface-id" in done.stdout


@pytest.mark.parametrize("on_ec2", [True, False])
def test_usage_a_history_that_cannot_be_kept_is_a_warning_on_ec2_alone(
    check, instance, tmp_path, on_ec2
):
    if on_ec2:
        instance.add("eth0").sets(available=500)
    (tmp_path / "file").touch()
    run = check("--state-dir", str(tmp_path / "file"))
    assert run.state == ("WARNING" if on_ec2 else "OK")
    assert ("instance_usage cannot be evaluated" in run.out) == on_ec2
