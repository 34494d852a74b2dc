"""Invalid packets: the label, the status line, and advice by what the host shows."""

from __future__ import annotations

import subprocess

import pytest

from check_conntrack.advice import invalid_packets
from check_conntrack.advice.invalid_packets import InvalidEvidence, advise
from check_conntrack.kernel import host as kernel_host
from check_conntrack.kernel import limits, source
from support.full_host import Host, Namespace

SET = "sysctl -w net.netfilter.nf_conntrack_"


@pytest.fixture
def host(tmp_path, monkeypatch, capfd, signals):
    made = Host(tmp_path, monkeypatch, capfd)
    monkeypatch.setattr(kernel_host, "conntrack_setting", lambda name: 0)
    monkeypatch.setattr(kernel_host, "default_interfaces", lambda: ("eth0", "eth1"))
    monkeypatch.setattr(kernel_host, "reverse_path_is_strict", lambda name: name == "eth1")
    monkeypatch.setattr(kernel_host, "logs_packets", lambda: True)
    monkeypatch.setattr(kernel_host, "logs_all_namespaces", lambda: False)
    return made


def commands(lines):
    return [line.strip() for line in lines if line.startswith("  ")]


def test_invalid_packets_have_no_default_threshold(host):
    host.own.counters = {"invalid": 5}
    assert "invalid_packets" not in host.run().data
    host.passes(60)
    host.own.counters = {"invalid": 5000000}
    run = host.run()
    assert (run.state, run.lines) == ("OK", run.lines)
    assert run.data["invalid_packets"].value == 4999995


def test_invalid_packets_of_the_window_alarm_with_advice(host):
    host.run()
    host.passes(60)
    host.own.counters = {"invalid": 450}
    run = host.run("-w", "invalid_packets=100", "-c", "invalid_packets=1000")
    assert run.state == "WARNING"
    assert run.text == "450 packets invalid in the last 15m: they belong to no connection"
    assert run.lines[0] == "WARNING: invalid_packets 450 (threshold 100)"
    assert "nf_conntrack_max" not in run.out
    said = " ".join(run.lines)
    assert "default routes through eth0, eth1" in said
    assert "rp_filter is 1 on eth1" in said
    assert f"{SET}tcp_loose=1" in said
    assert f"{SET}tcp_be_liberal=1" in said
    for _ in range(3):
        host.passes(600)
        host.run()
    assert host.run().data["invalid_packets"].value == 0


def test_invalid_packets_of_another_namespace_are_evaluated_and_its_commands_enter_it(host):
    host.others = {"red": Namespace(4026532001), "blue one": Namespace(4026532002)}
    host.run("--netns", "all")
    host.passes(60)
    host.others["blue one"].counters = {"invalid": 900}
    host.others["red"].counters = {"invalid": 3}
    run = host.run("--netns", "all", "-c", "invalid_packets=100")
    assert run.state == "CRITICAL"
    assert "900 packets invalid in namespace blue one" in run.text
    assert "  nsenter --net='/run/netns/blue one' nft list ruleset" in run.lines
    entering = [line for line in commands(run.lines) if "log_invalid=255" in line]
    assert entering[0].count("nsenter --net='/run/netns/blue one' sysctl") == 2
    assert "  sysctl -w net.netfilter.nf_log_all_netns=1" in run.lines


def test_too_few_invalid_packets_ask_for_nothing(host):
    run = host.run("-w", "invalid_packets=5:")
    assert run.state == "WARNING"
    assert not commands(run.lines)


EVIDENCE = [
    InvalidEvidence(),
    InvalidEvidence("nsenter --net=/run/netns/x ", 5.0, logs_all=False),
    InvalidEvidence("", 1e6, 0, 0, 255, logs=False, routes=("a", "b"), strict=("b",)),
    InvalidEvidence("", 0.1, 1, 1, 6, routes=("a",)),
]


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_advice_on_invalid_packets_is_shell_that_the_output_leaves_as_it_is(evidence):
    lines = advise(evidence)
    assert not any("|" in line for line in lines), "it begins the perfdata"
    subprocess.run(["sh", "-nc", "\n".join(commands(lines))], check=True)
    changes = [line for line in commands(lines) if " -w " in line]
    assert len(changes) % 2 == 0, "each has its undo"


def test_advice_logs_for_as_long_as_the_log_can_take():
    def seconds(rate):
        (line,) = (line for line in commands(advise(InvalidEvidence(rate=rate))) if "sleep" in line)
        return int(line.partition("sleep ")[2].partition(";")[0])

    assert seconds(0.01) == seconds(50.0) == 60
    assert seconds(300.0) == 10
    assert seconds(1e6) == 1
    assert max(seconds(rate) * rate for rate in (50.0, 51.0, 300.0, 1500.0)) <= (
        invalid_packets.MOST_LOGGED
    )


def test_advice_puts_the_setting_back_that_it_found():
    assert any(
        line.endswith("log_invalid=6") for line in commands(advise(InvalidEvidence(log_invalid=6)))
    )


def test_advice_undoes_the_logging_of_a_command_that_was_stopped():
    lines = advise(InvalidEvidence("nsenter --net=/run/netns/x ", log_invalid=6))
    undo = lines[lines.index("Undo:") + 1]
    assert undo == "  nsenter --net=/run/netns/x sysctl -w net.netfilter.nf_conntrack_log_invalid=6"


def test_advice_on_the_window_depends_on_the_setting():
    assert f"{SET}tcp_be_liberal=1" in " ".join(advise(InvalidEvidence(be_liberal=0)))
    strict = " ".join(advise(InvalidEvidence(be_liberal=1)))
    assert "tcp_be_liberal is 1 already" in strict
    assert f"{SET}tcp_be_liberal" not in strict


# --- what the kernel says


@pytest.fixture
def files(monkeypatch):
    told: dict[str, bytes] = {}

    def read(path, most=4096):
        return source.FileReading(path, told.get(path, b""), 0 if path in told else 2)

    monkeypatch.setattr(kernel_host, "read_file", read)
    monkeypatch.setattr(kernel_host, "read_long_file", read)
    return told


def test_host_reads_settings_and_takes_a_missing_one_for_unknown(files):
    files[limits.NEW + "tcp_loose"] = b"1\n"
    assert kernel_host.conntrack_setting("tcp_loose") == 1
    assert kernel_host.conntrack_setting("tcp_be_liberal") is None


def test_host_reads_the_interfaces_of_default_routes(files):
    head = b"Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    rows = (
        b"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        b"eth1\t00000000\t010300C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n"
        b"eth0\t00000000\t010200C0\t0003\t0\t0\t300\t00000000\t0\t0\t0\n"
        b"eth2\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    files["/proc/net/route"] = head + rows
    assert kernel_host.default_interfaces() == ("eth0", "eth1")
    files.clear()
    assert kernel_host.default_interfaces() == ()


@pytest.mark.parametrize(
    ("of_all", "own", "strict"),
    [
        (b"0\n", b"1\n", True),
        (b"2\n", b"1\n", False),
        (b"1\n", b"0\n", True),
        (b"0\n", b"0\n", False),
    ],
)
def test_host_reads_the_larger_reverse_path_filter(files, of_all, own, strict):
    files["/proc/sys/net/ipv4/conf/all/rp_filter"] = of_all
    files["/proc/sys/net/ipv4/conf/eth0/rp_filter"] = own
    assert kernel_host.reverse_path_is_strict("eth0") == strict


def test_host_reads_whether_logged_packets_reach_the_log(files):
    assert kernel_host.logs_packets(), "an old kernel does not tell"
    for text, logs in ((b"NONE\n", False), (b"nf_log_ipv4\n", True), (b"nf_log_syslog\n", True)):
        files["/proc/sys/net/netfilter/nf_log/2"] = text
        assert kernel_host.logs_packets() == logs
    assert not kernel_host.logs_all_namespaces()
    files["/proc/sys/net/netfilter/nf_log_all_netns"] = b"1\n"
    assert kernel_host.logs_all_namespaces()
