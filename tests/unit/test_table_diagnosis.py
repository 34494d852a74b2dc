"""What a table's figures look like: causes on tables built to show them, none on healthy ones."""

from __future__ import annotations

import shlex

import pytest

from check_conntrack.advice import diagnosis, remedies
from check_conntrack.kernel import timeouts
from support import flows_dump, tables


@pytest.fixture
def file(tmp_path):
    def write(lines):
        path = tmp_path / "table.txt"
        path.write_bytes(tables.listing(lines))
        return path

    return write


@pytest.mark.parametrize("name", tables.HEALTHY)
def test_nothing_is_wrong_with(name, file, inspect):
    run = inspect("--source", file(tables.HEALTHY[name]()), "-v")
    assert run.state == "OK"
    assert run.lines[0] == "No known cause fits what the table holds."


@pytest.mark.parametrize("name", tables.CAUSES)
def test_a_table_shows_its_cause_in_the_status_line(name, file, inspect):
    make, words = tables.CAUSES[name]
    words = words.lower()
    run = inspect("--source", file(make()))
    assert words in run.text.lower()
    verbose = inspect("--source", file(make()), "-v")
    assert words in verbose.rest.lower()
    assert len(advice_commands(verbose)) >= 1


def advice_commands(run):
    lines = [line[2:] for line in run.lines if line.startswith(("  sysctl", "  nft", "  ss "))]
    for line in lines:
        assert shlex.split(line)
    return lines


def live(reader, lines, sysctls, limit):
    """The same table in the kernel, of a limit."""
    reader.hands_out("text", tables.listing(lines))
    sysctls.holds(len(lines), limit, 2048)


def test_the_example_of_a_flood_reads_as_the_manual_has_it(file, inspect):
    run = inspect("--source", file(tables.syn_flood()), "-v")
    assert (
        "Looks like a SYN flood: 71 % of entries are SYN_SENT or SYN_RECV without reply, "
        "64 % from 203.0.113.9, 100 % to tcp/443." in run.lines
    )
    assert "  nft add rule inet blocked in ip saddr 203.0.113.9 drop" in run.lines


def test_a_flood_never_calls_for_a_larger_maximum(reader, sysctls, inspect):
    live(reader, tables.syn_flood(), sysctls, 3200)
    run = inspect("--source", "proc")
    assert run.state == "CRITICAL"
    assert "looks like a SYN flood" in run.text
    assert "nf_conntrack_max=" not in run.rest
    assert "leave the limit as it is" in run.rest


def test_a_table_that_is_merely_too_small_gets_a_larger_one(reader, sysctls, inspect):
    live(reader, tables.nat_gateway(), sysctls, 4600)
    run = inspect("--source", "proc")
    assert run.state == "WARNING"
    assert "the table is merely too small" in run.text
    assert "  sysctl -w net.netfilter.nf_conntrack_max=8192" in run.lines


def test_one_service_matters_where_the_table_is_nearly_full(reader, sysctls, inspect):
    live(reader, tables.web_server(), sysctls, 4600)
    run = inspect("--source", "proc", "-v")
    assert "one service dominates: 86 % of entries go to tcp/443" in run.text
    assert "nf_conntrack_max=8192" in run.rest


def test_the_timeout_that_keeps_the_entries_is_told_as_it_is(reader, sysctls, inspect):
    live(reader, tables.time_wait(), sysctls, 4600)
    run = inspect("--source", "proc")
    assert (
        "net.netfilter.nf_conntrack_tcp_timeout_time_wait is 120 s; the kernel's default is "
        "120 s. With caution: below a minute, late packets of an old connection may meet a new "
        "one." in run.lines
    )
    assert "  sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=60" in run.lines


def test_a_timeout_that_is_short_already_is_left_alone():
    profile = diagnosis.TableProfile(
        1000, time_wait=80, timeouts={"tcp_timeout_time_wait": (30, 120)}
    )
    text = "\n".join(remedies.advice_lines(profile, diagnosis.diagnose(profile)))
    assert "is 30 s; the kernel's default is 120 s. It is short already." in text
    assert "sysctl -w" not in text


def test_a_timeout_that_nobody_tells_is_told_as_such():
    profile = diagnosis.TableProfile(
        1000, close_wait=80, timeouts={"tcp_timeout_close_wait": (None, 60)}
    )
    text = "\n".join(remedies.advice_lines(profile, diagnosis.diagnose(profile)))
    assert "nf_conntrack_tcp_timeout_close_wait is not known there" in text
    assert "With caution" in text


@pytest.mark.parametrize("cause", diagnosis.CAUSES, ids=lambda cause: cause.name)
def test_commands_lead_into_the_namespace_that_was_looked_at(cause):
    named = diagnosis.TopItem("192.0.2.1", 90.0)
    profile = diagnosis.TableProfile(
        1000,
        half_open_source=named,
        source=named,
        timeouts=dict.fromkeys(timeouts.DEFAULTS, (999999, 999999)),
        command="nsenter --net=/run/netns/r1 ",
    )
    commands = [command for step in cause.steps(profile) for command in step.commands]
    assert commands or cause.room
    for command in commands:
        assert command.startswith("nsenter --net=/run/netns/r1 ")
        assert shlex.split(command)[2] in ("sysctl", "nft", "ss")


def test_this_host_whose_connections_nobody_answers_is_no_flood():
    profile = diagnosis.TableProfile(
        1000,
        half_open=100,
        half_open_source=diagnosis.TopItem("10.5.5.5", 100),
        unreplied=100,
        service=diagnosis.TopItem("tcp/7777", 100),
        own=frozenset({"10.5.5.5"}),
    )
    (cause,) = diagnosis.diagnose(profile)
    assert cause.sentence(profile) == (
        "traffic dies unreplied: 100 % of entries saw no answer, most to tcp/7777, "
        "asked by this host"
    )
    assert "drop" not in "\n".join(remedies.advice_lines(profile, [cause]))
    (cause,) = diagnosis.diagnose(profile._replace(own=frozenset()))
    assert cause.name == "flood"


def test_a_flood_from_many_sources_names_none_of_them():
    profile = diagnosis.TableProfile(
        1000, half_open=80, half_open_source=diagnosis.TopItem("10.1.149.10", 0.3)
    )
    (cause,) = diagnosis.diagnose(profile)
    assert "from many sources" in cause.sentence(profile)
    assert "10.1.149.10" not in cause.sentence(profile) + str(
        remedies.advice_lines(profile, [cause])
    )


def test_clients_of_a_service_that_is_down_look_like_a_flood_and_that_is_said():
    profile = diagnosis.TableProfile(
        1000, half_open=80, destination=diagnosis.TopItem("192.0.2.80", 79.0)
    )
    told = remedies.advice_lines(profile, diagnosis.diagnose(profile))
    assert any("see whether 192.0.2.80 answers" in line for line in told)


def test_this_host_is_not_asked_to_keep_itself_out():
    source = diagnosis.TopItem("10.5.5.5", 80.0)
    profile = diagnosis.TableProfile(1000, usage=90, source=source, own=frozenset({"10.5.5.5"}))
    (cause,) = diagnosis.diagnose(profile)
    assert remedies.advice_lines(profile, [cause])[-1] == "  ss -tanp src 10.5.5.5"


def test_a_sample_is_diagnosed_by_what_was_read_and_not_by_what_it_stands_for(
    reader, sysctls, inspect
):
    sysctls.holds(17000, 20000)
    reader.hands_out("text", tables.listing(tables.syn_flood()))
    run = inspect("--source", "proc", "--max-entries", "99", "-v")
    assert "estimated from a sample of 99" in run.rest
    assert "No known cause" in run.rest


def test_a_handful_of_entries_shows_nothing():
    assert diagnosis.diagnose(diagnosis.TableProfile(diagnosis.FEWEST - 1, half_open=100)) == []


@pytest.mark.parametrize(
    ("usage", "share", "told"),
    [(10.0, 59.9, False), (10.0, 60.0, True), (90.0, 44.9, False), (90.0, 45.0, True)],
)
def test_of_a_full_table_less_time_wait_is_a_cause_than_of_an_idle_one(usage, share, told):
    causes = diagnosis.diagnose(diagnosis.TableProfile(1000, usage=usage, time_wait=share))
    assert any(cause.name == "time_wait" for cause in causes) == told


def test_idle_connections_are_told_by_the_timeout_in_force(file, inspect):
    # A host with a day instead of five: what has 86000 s left has just spoken.
    lines = [
        tables.tcp("ESTABLISHED", tables.host(n), "10.9.9.9", 1024 + n, 443, 86399 - n)
        for n in range(1000)
    ]
    run = inspect("--source", file(lines))
    assert "silent" not in run.text


def test_flows_that_were_chosen_by_state_are_not_diagnosed(file, inspect):
    run = inspect("--source", file(tables.web_server()), "--state", "TIME_WAIT", "-v")
    assert "short-lived" not in run.out
    assert "No diagnosis" in run.rest


@pytest.mark.parametrize("cause", diagnosis.CAUSES, ids=lambda cause: cause.name)
def test_every_cause_speaks_ascii_in_sentences_that_fit_the_status_line(cause):
    named = diagnosis.TopItem("2001:db8::1234", 99.6)
    empty = diagnosis.TableProfile(0)
    defaults = dict(zip(empty._fields, empty))
    shares = {name: 99.6 for name, value in defaults.items() if isinstance(value, float)}
    items = {
        name: named for name, value in defaults.items() if isinstance(value, diagnosis.TopItem)
    }
    profile = diagnosis.TableProfile(10**6, usage=99.0, pool_ports=64511, **shares, **items)
    sentence = cause.sentence(profile)
    assert sentence.isascii(), sentence
    assert "100 %" not in sentence  # never rounded up to a whole that it is not
    assert all(step.text.isascii() for step in cause.steps(profile))


def test_a_pool_without_ports_left_is_the_first_thing_to_tell(inspect, reader, sysctls):
    batches = [
        b"".join(
            flows_dump.entry(
                bytes((10, 0, n >> 8 & 255, n & 255)),
                sport=1024 + n,
                state=3,
                reply=(flows_dump.V4[1], b"\xcb\x00\x71\x01", 443, 1024 + n),
                timeout=431000,
            )
            for n in range(start, start + 1000)
        )
        for start in range(0, 60000, 1000)
    ]
    reader.hands_out("table", *batches, flows_dump.done())
    sysctls.holds(60000, 262144, 2048)
    run = inspect("-v")
    assert run.state == "CRITICAL"
    assert run.data["snat_port_usage"].value == pytest.approx(100 * 60000 / 64512, abs=0.05)
    assert "source-NAT ports run out: tcp 203.0.113.1 to 192.0.2.9:443" in run.text
    assert "takes 60000 ports, 93 % of what there is" in run.rest
    assert "random" in run.rest
    assert "nf_conntrack_max=" not in run.rest
