"""The diagnosis of a table: causes on tables built to show them, none on healthy ones."""

from __future__ import annotations

import shlex
import socket

import pytest

from check_conntrack.advice import diagnosis, remedies
from check_conntrack.advice.table_profile import FEWEST, LeakEnds, TopItem
from check_conntrack.kernel import destinations, host, sockets
from check_conntrack.kernel.destinations import Destination
from check_conntrack.kernel.source import FileReading
from check_conntrack.table import profile as table_profile
from check_conntrack.table import summary
from support import flows_dump, tables
from support.profiles import FORGED, address, cases, profile, target, unanswered


@pytest.fixture
def file(tmp_path):
    def write(lines):
        path = tmp_path / "table.txt"
        path.write_bytes(tables.listing(lines))
        return path

    return write


def first(table):
    """The first cause, in the words of the status line; empty for none."""
    causes = diagnosis.diagnose(table)
    return causes[0].headline(table) if causes else ""


def advice(table):
    return "\n".join(remedies.advice_lines(table, diagnosis.diagnose(table)))


# --- whole tables


@pytest.mark.parametrize("name", tables.HEALTHY)
def test_healthy_table_shows_no_cause_and_no_command(name, file, inspect):
    run = inspect("--source", file(tables.HEALTHY[name]()), "-v")
    assert run.state == "OK"
    assert run.lines[0] == "No dominant cause found."
    assert not [line for line in run.lines if line.startswith(("  sysctl", "  nft"))]


@pytest.mark.parametrize("name", tables.CAUSES)
def test_table_shows_its_cause_and_culprit_in_the_status_line(name, file, inspect):
    make, words = tables.CAUSES[name]
    run = inspect("--source", file(make()))
    assert words in run.text
    verbose = inspect("--source", file(make()), "-v")
    assert len(commands(verbose.lines)) >= 1


def commands(lines):
    programs = ("  sysctl", "  nft", "  ss ", "  conntrack", "  ip ", "  timeout ")
    found = [line[2:] for line in lines if line.startswith(programs)]
    for line in found:
        assert shlex.split(line)
    return found


def live(reader, lines, sysctls, limit):
    """The same table in the kernel, of a limit."""
    reader.hands_out("text", tables.listing(lines))
    sysctls.holds(len(lines), limit, 2048)


def test_flood_never_calls_for_a_larger_limit(reader, sysctls, inspect):
    live(reader, tables.syn_flood(), sysctls, 3200)
    run = inspect("--source", "proc")
    assert run.state == "CRITICAL"
    assert "SYN flood on 198.51.100.1 tcp/443 from 203.0.113.9" in run.text
    assert "nf_conntrack_max=" not in run.rest
    assert "Leave the limit as it is" in run.rest


def test_small_table_gets_a_larger_limit(reader, sysctls, inspect):
    live(reader, tables.nat_gateway(), sysctls, 4600)
    run = inspect("--source", "proc")
    assert run.state == "WARNING"
    assert "the table may be too small" in run.text
    assert "  sysctl -w net.netfilter.nf_conntrack_max=8192" in run.lines


def test_flash_crowd_has_no_cause_and_gets_a_larger_limit(reader, sysctls, inspect):
    live(reader, tables.web_server(), sysctls, 4600)
    run = inspect("--source", "proc", "-v")
    assert "no cause stands out: the table may be too small, 100% to 203.0.113.80 tcp/443" in (
        run.text
    )
    assert "nf_conntrack_max=8192" in run.rest


@pytest.mark.parametrize("name", ["time_wait", "dns", "source"])
def test_ordinary_load_is_no_cause_in_a_table_that_is_nearly_empty(name, reader, sysctls, inspect):
    live(reader, tables.CAUSES[name][0](), sysctls, 262144)
    run = inspect("--source", "proc", "-vv")
    assert run.state == "OK"
    assert "No dominant cause found." in run.lines


def test_sample_is_diagnosed_by_the_entries_that_were_read(reader, sysctls, inspect):
    sysctls.holds(17000, 20000)
    reader.hands_out("text", tables.listing(tables.syn_flood()))
    run = inspect("--source", "proc", "--max-entries", "99", "-v")
    assert "estimated from a sample of 99" in run.out
    assert "No dominant cause found." in run.lines


def test_flows_chosen_by_state_are_not_diagnosed(file, inspect):
    run = inspect("--source", file(tables.web_server()), "--state", "TIME_WAIT", "-v")
    assert "short-lived" not in run.out
    assert "No diagnosis" in run.rest


def test_idle_connections_are_judged_by_the_timeout_in_force(file, inspect):
    # A host with a day instead of five: what has 86000 s left has just spoken.
    lines = [
        tables.tcp("ESTABLISHED", tables.host(n), "10.9.9.9", 1024 + n, 443, 86399 - n)
        for n in range(1000)
    ]
    assert "idle" not in inspect("--source", file(lines)).text


def test_full_pool_comes_first(inspect, reader, sysctls):
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
    assert "source-NAT ports run out: 203.0.113.1 to 192.0.2.9 tcp/443 takes 60000" in run.text
    assert "nf_conntrack_max=" not in run.rest


def test_the_user_says_how_many_ports_a_pool_has(file, inspect):
    # 100 entries are too few to show a range.
    lines = tables.nat_range()[:80]
    assert inspect("--source", file(lines)).data["snat_port_usage"].value < 1
    run = inspect("--source", file(lines), "--nat-ports", "20000-20099")
    assert run.data["snat_port_usage"].value == 80.0
    assert "takes 80 of 100 ports (20000-20099)" in inspect(
        "--source", file(lines * 2), "--nat-ports", "20000-20199"
    ).out.replace("160 of 200 ports (20000-20199)", "80 of 100 ports (20000-20099)")


@pytest.mark.parametrize("text", ["", "20000", "20999-20000", "0-5", "1-65536", "a-b"])
def test_invalid_port_ranges_are_usage_errors(text, inspect):
    assert "invalid port range" in inspect("--nat-ports", text).text


# --- unanswered flows


def test_syn_recv_is_a_flood_and_syn_sent_a_silent_destination():
    assert first(profile(unanswered(**FORGED))) == (
        "SYN flood on 198.51.100.1 tcp/443 from forged sources (90% SYN_RECV)"
    )
    assert first(profile(unanswered(state="SYN_SENT", **FORGED))).startswith(
        "198.51.100.1 tcp/443 does not answer many sources (90% SYN_SENT)"
    )


def test_silent_destination_is_tried_with_what_every_host_has():
    table = profile(unanswered(state="SYN_SENT", **FORGED))
    connect = "timeout 3 bash -c '</dev/tcp/198.51.100.1/443' && echo open"
    assert f"  {connect}" in advice(table).splitlines()
    assert "/dev/tcp/" not in advice(profile(unanswered(protocol="udp", **FORGED)))


def test_destination_that_does_answer_is_not_to_be_refused():
    silent = profile(unanswered(state="SYN_SENT", **FORGED))
    assert '"open" is printed, it answers this host' in advice(silent)
    assert "Refuse and delete nothing then." in advice(silent)
    assert '"open"' not in advice(profile(unanswered("udp", "", **FORGED)))


def test_connections_without_a_handshake_are_a_flood_and_no_silent_destination():
    table = profile(unanswered(state="ESTABLISHED", **FORGED))
    assert first(table) == (
        "TCP ACK flood or one-way connections to 198.51.100.1 tcp/443 from many sources (90% "
        "unreplied)"
    )
    sentence = diagnosis.diagnose(table)[0].sentence(table)
    assert "90% of entries are unreplied ESTABLISHED (taken up from a packet" in sentence
    assert "  sysctl -w net.netfilter.nf_conntrack_tcp_loose=0" in advice(table)
    assert "  sysctl -w net.netfilter.nf_conntrack_tcp_loose=1" in advice(table)
    assert "dport 443 drop" not in advice(table)
    assert "tcp_loose" not in advice(table._replace(tcp_loose=0))
    one = profile(unanswered(state="ESTABLISHED"))
    assert "{ 203.0.113.9 }" in advice(one)


def test_connections_without_a_handshake_may_have_their_answers_elsewhere():
    many = profile(unanswered(state="ESTABLISHED", **FORGED))
    assert (
        diagnosis.diagnose(many)[0]
        .sentence(many)
        .endswith("Connections of which only one direction passes here look the same")
    )
    first_step = diagnosis.diagnose(many)[0].steps(many)[0]
    assert "then ss -tn 'sport = :443' on 198.51.100.1 lists their sources." in first_step.text
    assert first_step.commands == ("ip route get 198.51.100.1",)
    certain = profile(unanswered(state="ESTABLISHED", **FORGED, reserved=6.0))
    assert first(certain) == (
        "TCP ACK flood on 198.51.100.1 tcp/443 from forged sources (90% unreplied)"
    )
    assert "Find out first" not in advice(certain)
    one = profile(unanswered(state="ESTABLISHED"))
    assert "Find out first" not in advice(one)
    own = profile(unanswered(state="ESTABLISHED", **FORGED, private=99.0))
    assert first(own).startswith("198.51.100.1 tcp/443 does not answer many sources")
    sentence = diagnosis.diagnose(own)[0].sentence(own)
    assert "Only one direction of these connections passes here (asymmetric routes" in sentence


def test_connections_of_which_the_answers_alone_pass_are_no_scan():
    answers = {
        "source": address("10.1.0.80", 100.0),
        "target": target("198.18.0.9", 40001, 0.1),
        "destination": address("198.18.0.9", 1.0),
        "destination_network": address("198.18.0.0/16", 100.0),
        "targets": 900,
        "ports": 880,
    }
    table = profile(unanswered(state="ESTABLISHED", **answers))
    assert first(table) == (
        "one-way connections from 10.1.0.80 to 198.18.0.0/16, or a TCP ACK flood (90% unreplied)"
    )
    step = diagnosis.diagnose(table)[0].steps(table)[0]
    assert step.text.startswith(
        "Find out first whether these connections are in use, and the packets of their clients "
        "take a way that does not lead through here (asymmetric routes, a failover): then ss -tn "
        "on the host that sends lists their destinations."
    )
    assert step.commands == ("ip route get 198.18.0.9",)
    for named in ({"ports": 3}, {"destination": address("198.18.0.9", 100.0)}):
        scan = profile(unanswered(state="ESTABLISHED", **{**answers, **named}))
        assert first(scan).startswith("scan of 198.18.0.")


@pytest.mark.parametrize("more", [FORGED, {**FORGED, "spread": 9.0}])
def test_answered_connections_of_the_same_state_are_not_deleted(more):
    text = advice(profile(unanswered(state="ESTABLISHED", **more)))
    assert "conntrack -D" not in text
    assert "answered connections are ESTABLISHED too" in text


def test_half_open_connections_of_one_target_are_judged_together():
    sent = unanswered(state="SYN_SENT", share=50.0, entries=500)
    received = unanswered(share=30.0, entries=300)
    table = profile(sent, received)
    assert first(table) == ("SYN flood on 198.51.100.1 tcp/443 from 203.0.113.9 (80% half open)")
    elsewhere = received._replace(target=target("192.0.2.1"))
    assert "does not answer 203.0.113.9 (50% SYN_SENT)" in first(profile(sent, elsewhere))


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("udp", "UDP flood on 198.51.100.1 udp/9999"),
        ("icmp", "ICMP flood on 198.51.100.1"),
        ("icmpv6", "ICMPv6 flood on 198.51.100.1"),
        ("gre", "GRE flood on 198.51.100.1"),
        ("esp", "ESP flood on 198.51.100.1"),
        ("protocol 99", "protocol 99 flood on 198.51.100.1"),
    ],
)
def test_flood_of_any_protocol_is_named(protocol, words):
    port = 9999 if protocol == "udp" else 0
    aim = target("198.51.100.1", port, protocol=protocol)
    if not port:
        aim = aim._replace(name=f"198.51.100.1 {protocol}")
    table = profile(unanswered(protocol, "", target=aim))
    assert first(table).startswith(words)
    assert "from 203.0.113.9" in first(table)
    number = protocol.removeprefix("protocol ")
    assert f"conntrack -D -p {number} -s 203.0.113.9" in advice(table)


def test_network_is_named_where_no_single_source_is():
    spread = {"source": address("203.0.113.9", 0.5, 5), "network": address("203.0.113.0/24", 97.0)}
    table = profile(unanswered(**spread))
    assert "from 203.0.113.0/24" in first(table)
    assert "{ 203.0.113.0/24 }" in advice(table)


def many_clients(port=9125, **named):
    """UDP to one target that answers nobody, from as many sources as entries."""
    aim = target("10.0.0.53", port, protocol="udp")
    return profile(unanswered("udp", "", target=aim, **{**FORGED, **named}))


@pytest.mark.parametrize("port", [53, 9125])
def test_udp_from_as_many_sources_as_entries_is_a_dead_service_or_a_flood(port):
    table = many_clients(port)
    aim = f"10.0.0.53 udp/{port}"
    assert first(table) == f"{aim} is down, one-way or under a UDP flood (90% unreplied)"
    sentence = diagnosis.diagnose(table)[0].sentence(table)
    assert sentence.endswith(
        "A service that is down, or that takes messages and never answers (as of syslog or "
        "statsd), looks like a flood from forged sources if it has as many clients"
    )
    steps = diagnosis.diagnose(table)[0].steps(table)
    assert steps[0].text.startswith(f"Find out first whether {aim} is up. A host that is up may")
    assert steps[0].commands == ("ip route get 10.0.0.53", "ping -c 3 -W 1 10.0.0.53")
    assert f"Run ss -lunp 'sport = :{port}' there" in steps[0].text
    assert not any(line.endswith(" drop") for step in steps for line in step.commands)


EVIDENCE = {
    "no neighbour": (
        {"reached": "failed", "device": "lan"},
        "no host answers for 10.0.0.53 on lan (neighbour FAILED). So it is down",
    ),
    "no route": ({"reached": "no route"}, "there is no route to 10.0.0.53. So it is down"),
    "no program": ({"reached": "closed"}, "no program of this host takes udp/9125. So it is down"),
    "clients of the own network": (
        {"private": 96.0},
        "96% of the sources are private addresses. That is a dead service or host, a firewall,",
    ),
    "clients that come back": ({"spread": 40.0}, "or a flood that it no longer answers"),
    "few clients": ({"sources": 60}, "or a flood that it no longer answers"),
}


@pytest.mark.parametrize("kind", EVIDENCE)
def test_evidence_for_a_dead_service_is_told_and_no_flood_is(kind):
    named, words = EVIDENCE[kind]
    table = many_clients(**named)
    assert first(table) == "10.0.0.53 udp/9125 does not answer many sources (90% unreplied UDP)"
    assert words in diagnosis.diagnose(table)[0].sentence(table)


@pytest.mark.parametrize(
    ("named", "sources", "words"),
    [
        ({"reserved": 6.2}, "forged", "6% of the sources are addresses that nobody has"),
        ({"recent": 3, "answered": 8}, "many", "while it has just answered others"),
        ({"recent": 3, "answered": 8, "private": 99.0}, "many", "99% of the sources are private"),
    ],
    ids=["addresses that nobody has", "it answers others", "it answers others, own network"],
)
def test_evidence_for_a_flood_is_told_and_the_service_is_not_called_down(named, sources, words):
    table = many_clients(**named)
    assert first(table) == (
        f"UDP flood on 10.0.0.53 udp/9125 from {sources} sources (90% unreplied)"
    )
    assert words in diagnosis.diagnose(table)[0].sentence(table)


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_flood_on_a_whole_network_is_told_by_forged_sources(protocol):
    everywhere = {
        **FORGED,
        "target": target("10.9.0.7", 9, 1.0, protocol=protocol),
        "destination": address("10.9.0.7", 1.0),
        "destination_network": address("10.9.0.0/24", 100.0),
        "targets": 900,
        "ports": 90,
    }
    table = profile(unanswered(protocol, "", **everywhere, reserved=6.0))
    assert first(table).endswith(" flood on 10.9.0.0/24 from forged sources (90% unreplied)")
    assert f"let the provider filter {protocol} to 10.9.0.0/24 before" in advice(table)
    table = profile(unanswered(protocol, "", **everywhere))
    assert first(table).startswith("10.9.0.0/24 does not answer many sources (90% unreplied")


@pytest.mark.parametrize(
    "named", [{"reserved": 0.5}, {"recent": 2, "answered": 2}, {"answered": 9}]
)
def test_weak_evidence_leaves_the_doubt(named):
    table = many_clients(**named)
    assert " is down, one-way or under a UDP flood " in first(table)
    answered = "while others were answered before" in diagnosis.diagnose(table)[0].sentence(table)
    assert answered == ("answered" in named)


def test_one_way_messages_are_not_called_unanswered_by_a_service_that_is_down():
    table = many_clients(514)
    assert first(table) == (
        "many senders of one-way messages, or a UDP flood, to 10.0.0.53 udp/514 (90% unreplied)"
    )
    text = advice(table)
    assert "ip daddr 10.0.0.53 udp dport 514 notrack" in text
    assert "let them accept untracked too" in text
    few = many_clients(514, sources=60, private=99.0)
    sentence = diagnosis.diagnose(few)[0].sentence(few)
    assert sentence.endswith("also while all is well, so the service may be up or down")
    assert "notrack" in advice(few)
    assert "flood" not in sentence + advice(few)


def test_one_way_messages_from_one_address_are_no_silence():
    nat = {"source": address("203.0.113.9", 99.0), "sources": 1, "spread": 0.1}
    table = many_clients(8125, **nat)
    assert first(table) == (
        "one-way messages from 203.0.113.9 to 10.0.0.53 udp/8125 (90% unreplied UDP)"
    )
    assert "Many senders behind one NAT address look the same" in advice(table)
    down = many_clients(8125, **nat, reached="closed")
    assert first(down).startswith("10.0.0.53 udp/8125 does not answer 203.0.113.9")
    flood = many_clients(9125, **nat)
    assert first(flood).startswith("UDP flood on 10.0.0.53 udp/9125 from 203.0.113.9")
    assert diagnosis.diagnose(flood)[0].sentence(flood).endswith("behind one NAT address")


def test_messages_to_a_group_are_one_way_and_nobody_is_down():
    clients = {"sources": 400, "private": 99.0, "reached": "to all"}
    table = many_clients(1900, **clients)
    assert (
        first(table)
        == "one-way messages from many sources to 10.0.0.53 udp/1900 (90% unreplied UDP)"
    )
    assert diagnosis.diagnose(table)[0].sentence(table).endswith("also while all is well")
    text = advice(table)
    assert text.startswith("Nothing is down.")
    assert "ip daddr 10.0.0.53 udp dport 1900 notrack" in text
    for wrong in ("ping", "reject", "is down,", "Until"):
        assert wrong not in text
    assert "notrack" not in advice(many_clients(1900, **clients, source_translated=90.0))
    one = many_clients(1900, **clients, source=address("10.7.7.7", 99.0))
    assert first(one).startswith("one-way messages from 10.7.7.7 to 10.0.0.53 udp/1900")
    assert "let its program keep one socket open" in advice(one)


@pytest.mark.parametrize("group", ["239.255.255.250", "255.255.255.255", "ff02::fb"])
def test_group_is_known_by_its_address(group):
    one = many_clients().unanswered[0]._replace(target=target(group, 1900, protocol="udp"))
    assert table_profile._reached(one, here=False).reached == "to all"


@pytest.mark.parametrize(("port", "name"), [(4789, "VXLAN"), (8472, "VXLAN"), (6081, "GENEVE")])
@pytest.mark.parametrize("share", [90.0, 2.0])
@pytest.mark.parametrize("own", [True, False])
def test_tunnel_is_no_silence_and_is_never_refused(port, name, share, own):
    one = unanswered(
        "udp",
        "",
        source=address("10.0.0.11", 60.0),
        network=address("10.0.0.0/24", 100.0),
        target=target("10.0.0.12", port, share, protocol="udp"),
        destination=address("10.0.0.12", share),
        sources=40,
        targets=80,
    )
    table = profile(one, own=frozenset({"10.0.0.11"} if own else ()))
    aim = f"10.0.0.12 udp/{port}" if share > 50 else f"many destinations udp/{port}"
    whose = "10.0.0.11 (this host)" if own else "10.0.0.11"
    assert first(table) == f"{name} tunnel from {whose} to {aim} (90% unreplied UDP)"
    assert diagnosis.diagnose(table)[0].sentence(table).endswith("also while all is well")
    text = advice(table)
    assert f"check_conntrack_untracked output udp dport {port} notrack" in text
    for wrong in ("reject", "saddr", "does not answer", "find the program", "one socket"):
        assert wrong not in text
    translated = profile(one._replace(source_translated=90.0))
    assert "notrack" not in advice(translated)
    forged = one._replace(
        reserved=6.0, source=TopItem(), network=TopItem(), spread=99.0, sources=900
    )
    if share > 50:
        assert first(profile(forged)).startswith(f"UDP flood on 10.0.0.12 udp/{port} from forged")


def test_service_on_an_unknown_port_may_be_one_that_never_answers():
    text = advice(many_clients(5514))
    assert "If it is down, start it. Until then, refuse" in text
    assert "If it is up and never answers (as of syslog or statsd), nothing is wrong. Let" in text
    assert "udp dport 5514 notrack" in text
    assert "If it is up and answers its clients, this is a flood" in text
    assert "notrack" not in advice(many_clients(5514)._replace(zones=True))


def test_one_way_messages_that_are_translated_keep_their_entries():
    behind = {"translated": 100.0, "backends": (target("10.244.1.7", 514, protocol="udp"),)}
    text = advice(many_clients(514, **behind))
    assert "Find out first whether 10.244.1.7 udp/514 is up." in text
    assert "still answer. If it is down, start it or take 10.244.1.7 out of" in text
    assert "If it is up, nothing is wrong: these entries translate the messages" in text
    assert "notrack" not in text
    assert "nothing is wrong" not in advice(many_clients(9125, **behind))


def test_own_program_that_sends_one_way_is_to_be_found():
    source = {"source": address("10.0.0.7", 99.0), "sources": 1, "spread": 0.1}
    table = many_clients(8125, **source)._replace(own=frozenset({"10.0.0.7"}))
    assert first(table).startswith(
        "one-way messages from 10.0.0.7 (this host) to 10.0.0.53 udp/8125"
    )
    text = advice(table)
    assert "The connections are this host's own: find the program." in text
    assert "10.0.0.7 takes another port for each message, and each port is an entry" in text
    assert "notrack" in text
    assert "reject" not in text
    assert "reject" in advice(table._replace(zones=True))


def test_service_that_may_be_down_is_looked_for_where_it_is_translated_to():
    backend = target("10.1.0.1", 5353, protocol="udp")
    steps = advice(many_clients(53, translated=100.0, backends=(backend,)))
    assert "Find out first whether 10.1.0.1 udp/5353 is up." in steps
    assert "  ping -c 3 -W 1 10.1.0.1" in steps


def test_one_way_messages_whose_source_is_translated_stay_tracked():
    text = advice(many_clients(514, source_translated=90.0))
    assert "If it is down, start it. Until then, refuse new connections" in text
    assert "notrack" not in text


def test_profile_tells_translated_sources_of_unanswered_entries_alone(file, inspect):
    def lines(nat, answered_nat):
        messages = [
            tables.udp(
                f"10.7.{n >> 8}.{n & 255}", "10.0.0.5", 2000 + n, 514, replied=False, nat=nat
            )
            for n in range(900)
        ]
        return messages + [
            tables.udp(f"10.8.0.{n}", "10.0.0.9", 900 + n, 123, nat=answered_nat)
            for n in range(200)
        ]

    plain = inspect("--source", file(lines("", "198.51.100.1")), "-v")
    assert " dport 514 notrack" in plain.rest
    behind_nat = inspect("--source", file(lines("198.51.100.1", "")), "-v")
    assert "refuse new connections to 10.0.0.5 udp/514" in behind_nat.rest
    assert "notrack" not in behind_nat.rest


def test_one_way_service_that_is_known_to_be_down_is_called_so():
    table = many_clients(514, reached="failed", device="lan")
    assert "So it is down" in diagnosis.diagnose(table)[0].sentence(table)
    assert "Find out why 10.0.0.53 udp/514 is down." in advice(table)
    assert "whether" not in diagnosis.diagnose(table)[0].steps(table)[0].text


def test_target_that_is_gone_is_told_for_tcp_too():
    one = unanswered(state="SYN_SENT", **FORGED, reached="failed", device="lan")
    sentence = diagnosis.diagnose(profile(one))[0].sentence(profile(one))
    assert "no host answers for 198.51.100.1 on lan (neighbour FAILED). So it is down" in sentence


def test_own_service_is_refused_where_its_packets_pass():
    own = frozenset({"10.0.0.53"})
    table = many_clients(reached="closed")._replace(own=own)
    text = advice(table)
    assert "  ss -lunp 'sport = :9125'" in text
    inside = table._replace(here="this namespace")
    sentence = diagnosis.diagnose(inside)[0].sentence(inside)
    assert "no program of this namespace takes udp/9125. So it is down" in sentence
    assert "{ type filter hook input priority -5; }" in text
    assert "hook forward" not in text
    assert "ping" not in text
    assert "hook forward" in advice(many_clients(reached="failed"))


def test_other_protocols_say_forged_where_it_is_certain_alone():
    aim = target("198.51.100.1", 0, protocol="icmp")
    many = profile(unanswered("icmp", "", target=aim, **FORGED))
    assert "from many sources" in first(many)
    certain = profile(unanswered("icmp", "", target=aim, **FORGED, reserved=6.0))
    assert "from forged sources" in first(certain)


def test_backend_that_does_not_answer_is_named_with_the_address_it_is_behind():
    behind = {"translated": 100.0, "backends": (target("10.244.1.7", 8443),)}
    table = profile(unanswered(state="SYN_SENT", **FORGED, **behind))
    assert first(table) == (
        "10.244.1.7 tcp/8443 (198.51.100.1 tcp/443) does not answer many sources (90% SYN_SENT)"
    )
    same_port = {"translated": 100.0, "backends": (target("10.244.1.7"),)}
    table = profile(unanswered(state="SYN_SENT", **FORGED, **same_port))
    assert first(table).startswith("10.244.1.7 tcp/443 (198.51.100.1) does not answer")
    said = advice(table)
    assert "'</dev/tcp/10.244.1.7/443' && echo open" in said
    assert "Take 10.244.1.7 out of the translation" in said
    assert "-d 198.51.100.1 --dport 443 --state SYN_SENT --reply-src 10.244.1.7 -o extended" in said


def test_all_backends_that_do_not_answer_are_named_and_tried():
    backends = tuple(target(f"10.244.1.{n}", 8443, 20.0) for n in range(1, 6))
    text = advice(
        profile(unanswered(state="SYN_SENT", **FORGED, translated=100.0, backends=backends))
    )
    assert "why what is behind 198.51.100.1 tcp/443 does not answer" in text
    assert "go to 20% 10.244.1.1 tcp/8443, 20% 10.244.1.2 tcp/8443, 20%" in text
    assert "10.244.1.4 tcp/8443 and 1 more: take those that are down out" in text
    for n in range(1, 5):
        assert f"timeout 3 bash -c '</dev/tcp/10.244.1.{n}/8443' && echo open" in text
    # The address of a service leads nowhere on some hosts, and a list of thousands to nothing.
    assert "/dev/tcp/198.51.100.1/" not in text
    assert "conntrack -L" not in text


def test_backend_is_found_in_a_table_where_all_unanswered_flows_go_to_one(file, inspect):
    def syn_sent(number, backend):
        return (
            f"ipv4     2 tcp      6 100 SYN_SENT src={tables.host(number)} dst=10.96.0.1 "
            f"sport={2000 + number} dport=443 [UNREPLIED] src={backend} dst={tables.host(number)} "
            f"sport=8443 dport={2000 + number} mark=0 use=1"
        )

    one = [syn_sent(number, "10.244.1.7") for number in range(900)]
    run = inspect("--source", file(one))
    assert "10.244.1.7 tcp/8443 (10.96.0.1 tcp/443) does not answer many sources" in run.text
    two = [*one[:450], *(syn_sent(number, "10.244.1.8") for number in range(450, 900))]
    run = inspect("--source", file(two))
    assert "10.96.0.1 tcp/443 does not answer many sources" in run.text
    assert "(10.96.0.1" not in run.text
    udp = [
        tables.udp(tables.host(n), "10.96.0.10", 2000 + n, 53, replied=False, behind="10.244.1.9")
        for n in range(900)
    ]
    run = inspect("--source", file(udp))
    assert "10.244.1.9 udp/53 (10.96.0.10) is down, one-way or under a UDP flood" in run.text


def test_scan_names_the_scanner_and_what_it_scans():
    scanned = {
        "target": target("198.51.0.1", 22, 0.1),
        "destination": address("198.51.0.1", 0.1),
        "destination_network": address("198.51.0.0/16", 100.0),
        "targets": 900,
    }
    table = profile(unanswered(state="SYN_SENT", **scanned))
    assert first(table) == "scan of 198.51.0.0/16 tcp/22 from 203.0.113.9 (90% SYN_SENT)"
    one_host = {**scanned, "destination": address("198.51.0.1", 100.0), "ports": 900}
    table = profile(unanswered(**one_host))
    assert "scan of 198.51.0.1, 900 ports" in first(table)
    at_length = diagnosis.diagnose(table)[0].sentence(table)
    assert at_length.endswith("from 203.0.113.9, 100% to 198.51.0.1")


def test_peer_to_peer_program_is_limited_and_not_blocked():
    spread = {
        "target": target("203.0.112.5", 51413, 0.1, protocol="udp"),
        "destination": address("203.0.112.5", 0.1),
        "destination_network": address("203.0.0.0/16", 99.0),
        "targets": 900,
        "ports": 880,
    }
    table = profile(unanswered("udp", "", **spread))
    assert first(table) == (
        "scan or peer-to-peer traffic from 203.0.113.9 to 900 destinations (90% unreplied UDP)"
    )
    phones = "A telephone system, whose audio (RTP) goes to many ports, looks the same"
    assert diagnosis.diagnose(table)[0].sentence(table).endswith(f", to 900 destinations. {phones}")
    assert "Limit 203.0.113.9 to 1000 connections" in advice(table)
    assert "check_conntrack_block" not in advice(table)
    scan = profile(unanswered("udp", "", **{**spread, "ports": 3}))
    assert "peer-to-peer" not in first(scan)
    assert "check_conntrack_block" in advice(scan)


def test_peer_to_peer_program_over_tcp_is_limited_and_not_blocked():
    spread = {
        "target": target("203.0.112.5", 51413, 0.1),
        "destination": address("203.0.112.5", 0.1),
        "targets": 900,
        "ports": 880,
    }
    table = profile(unanswered(state="SYN_SENT", **spread))
    assert first(table) == (
        "scan or peer-to-peer traffic from 203.0.113.9 to 900 destinations (90% SYN_SENT)"
    )
    assert "Limit 203.0.113.9 to 1000 connections" in advice(table)
    assert "check_conntrack_block" not in advice(table)
    for scan in ({"ports": 3}, {"destination_network": address("203.0.0.0/16", 99.0)}):
        table = profile(unanswered(state="SYN_SENT", **{**spread, **scan}))
        assert "peer-to-peer" not in first(table)
        assert "check_conntrack_block" in advice(table)


def test_own_connections_that_nobody_answers_are_no_flood():
    one = unanswered(state="SYN_SENT", source=address("10.5.5.5"))
    table = profile(one, own=frozenset({"10.5.5.5"}))
    assert first(table) == (
        "198.51.100.1 tcp/443 does not answer 10.5.5.5 (this host) (90% SYN_SENT)"
    )
    assert "saddr 10.5.5.5" not in advice(table)
    assert "ss -tanp src 10.5.5.5" in advice(table)


def test_own_address_of_ipv6_is_written_as_ss_takes_it():
    own = {"own": frozenset({"2001:db8::5"}), "command": "nsenter -n "}
    silent = profile(unanswered(state="SYN_SENT", source=address("2001:db8::5")), **own)
    assert "  nsenter -n ss -tanp src '[2001:db8::5]'" in advice(silent).splitlines()
    busy = profile(source=address("2001:db8::5", 80.0), **own)
    assert "  nsenter -n ss -tuanp src '[2001:db8::5]'" in advice(busy).splitlines()


@pytest.mark.parametrize("item", ["address", "network"])
def test_advice_says_what_it_does_not_know_of_a_source(item):
    more = {} if item == "address" else {"source": address("203.0.113.9", 10.0)}
    one = unanswered(**more)
    whose = {"address": "is not", "network": "does not hold"}[item]
    text = advice(profile(one))
    assert f"{whose} this host's own address and is no gateway or proxy of yours:" in text
    assert "fib saddr type != local drop" in text
    text = advice(profile(one, own_known=True, gateways_known=True))
    assert "if it has no business here:" in text
    assert "fib" not in text
    there = profile(source=address("10.5.5.5", 80.0), here="this namespace")
    assert "must not hold more and is not this namespace's own address:" in advice(there)


@pytest.mark.parametrize("whose", ["own", "gateways"])
def test_network_that_holds_an_own_address_or_the_gateway_is_not_blocked(whose):
    network = frozenset({"203.0.113.0/24"})
    one = unanswered(source=address("203.0.113.9", 10.0))
    text = advice(profile(one, own_known=True, **{whose: network}))
    assert "check_conntrack_block" not in text
    of = {"own": "this host", "gateways": "the default gateway"}[whose]
    assert f"203.0.113.0/24 holds an address of {of}: block hosts in it, not all of it." in text


def test_program_of_an_own_address_is_looked_for_in_its_namespace():
    there = {"own": frozenset({"10.5.5.5"}), "here": "this namespace", "command": "nsenter -n "}
    table = profile(source=address("10.5.5.5", 80.0), **there)
    assert "10.5.5.5 is this namespace itself" in advice(table)
    assert advice(table).splitlines()[-1] == "  nsenter -n ss -tuanp src 10.5.5.5"
    leak = profile(close_wait=80.0, **there)
    assert "  nsenter -n ss -tanp state close-wait" in advice(leak).splitlines()


def test_no_rule_is_against_a_default_gateway():
    table = profile(unanswered(), gateways=frozenset({"203.0.113.9"}))
    assert "10.0.0.1" not in advice(table)
    assert "check_conntrack_block" not in advice(table)
    assert "203.0.113.9 is the default gateway" in advice(table)


def test_syn_proxy_is_advised_only_where_nothing_is_translated():
    table = profile(unanswered(**FORGED))
    text = advice(table)
    assert "synproxy mss 1460 wscale 7 timestamp sack-perm" in text
    assert "conntrack -D -p tcp --state SYN_RECV -d 198.51.100.1 --dport 443" in text
    assert "this frees 900 entries now" in text
    assert "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1" in text
    assert "tcp_loose=" not in advice(table._replace(tcp_loose=0))
    behind = advice(profile(unanswered(translated=100.0, **FORGED)))
    assert "notrack" not in behind
    assert "ct count over" in behind


def test_commands_choose_one_zone():
    one = unanswered(source=address("203.0.113.9", zone=5), target=target("198.51.100.1", zone=5))
    text = advice(profile(one, zones=True, own_known=True))
    assert "ct original zone 5 ip saddr @zone5_v4 drop" in text
    assert "conntrack -D -p tcp --state SYN_RECV -s 203.0.113.9 -w 5 " in text
    assert "--orig-zone 5 " in advice(profile(one, zones=True, original_zones=True))
    # Entries of no zone beside those of others.
    text = advice(profile(unanswered(), zones=True))
    assert "ct original zone 0 " in text
    assert "-s 203.0.113.9 -w 0 " in text
    assert "conntrack -D" not in advice(profile(unanswered(), zones=True, original_zones=True))


def test_few_entries_in_a_nearly_empty_table_are_no_cause():
    few = {"entries": 300, "total": 300}
    assert first(profile(unanswered(), usage=1.0, **few)) == ""
    assert first(profile(unanswered(), usage=50.0, **few))
    assert first(profile(unanswered(), usage=1.0))
    assert first(profile(unanswered(), entries=FEWEST - 1)) == ""


# --- other causes


def test_dominant_source_and_destination_are_named_whatever_the_cause():
    table = profile(
        time_wait=80.0,
        time_wait_service=TopItem("tcp/5432", 80.0),
        source=address("10.0.0.7", 75.0),
        destination=address("10.9.9.9", 90.0),
        service=TopItem("tcp/5432", 90.0),
    )
    assert first(table) == (
        "short-lived connections: 80% of entries in TIME_WAIT to tcp/5432, 75% from 10.0.0.7, "
        "90% to 10.9.9.9 tcp/5432"
    )
    negligible = table._replace(
        time_wait_service=TopItem("tcp/1039", 0.7),
        source=address("10.0.0.7", 3.0),
        destination=address("10.9.9.9", 2.0),
        service=TopItem("tcp/1039", 0.7),
    )
    assert first(negligible) == "short-lived connections: 80% of entries in TIME_WAIT"


def test_idle_connections_whose_sockets_are_open_here_are_not_leaked():
    table = profile(idle=80.0, established_service=TopItem("tcp/1883", 80.0, port=1883))
    assert "leaked connections" in first(table)
    assert "leaked" not in first(table._replace(open_sockets=860))
    assert "leaked" in first(table._replace(open_sockets=12))


def test_idle_connections_are_freed_where_they_go_to():
    table = profile(
        idle=80.0,
        established=95.0,
        established_service=TopItem("tcp/3306", 95.0, 1045, port=3306),
        idle_ends=LeakEnds(target=target("10.9.9.9", 3306)._replace(entries=800), to_target=900),
    )
    text = advice(table)
    assert "this frees 900 entries now, of which 800 are idle" in text
    command = "conntrack -D -p tcp --state ESTABLISHED -d 10.9.9.9 --dport 3306 > /dev/null"
    assert command in text
    assert "conntrack -U" not in text


def test_kube_proxy_flag_stands_in_for_its_sysctl():
    table = profile(close_wait=80.0, kube_proxy=True)
    assert "--conntrack-tcp-timeout-close-wait=30s" in advice(table)
    assert "sysctl" not in advice(table)
    table = profile(idle=80.0, kube_proxy=True)
    assert "--conntrack-tcp-timeout-established=86400s" in advice(table)
    assert "sysctl" not in advice(table)


def test_source_that_asks_for_most_names_may_be_forged():
    table = profile(dns=80.0, source=address("203.0.113.200", 80.0))
    assert "If 203.0.113.200 is no client of yours, its address is probably forged" in advice(table)
    assert "nft add element inet check_conntrack_block v4 { 203.0.113.200 }" in advice(table)
    own = table._replace(own=frozenset({"203.0.113.200"}))
    assert "check_conntrack_block" not in advice(own)


def test_network_is_named_where_no_source_stands_out():
    table = profile(source=address("10.7.0.9", 1.0), network=address("10.7.0.0/24", 90.0))
    assert "from 10.7.0.0/24" in first(table)
    assert "10.7.0.0/24" not in first(table._replace(network=address("10.7.0.0/24", 40.0)))


def test_dns_advice_never_takes_queries_out_of_tracking():
    table = profile(dns=80.0, translated=90.0, source=address("10.0.0.7", 80.0))
    assert first(table).startswith("DNS churn: 80% to port 53, 80% from 10.0.0.7")
    assert "notrack" not in advice(table)
    assert "tcp_timeout" not in advice(table)


def test_resolver_that_does_not_answer_is_no_dns_churn():
    dead = unanswered("udp", "", target=target("10.9.0.53", 53, 100.0, protocol="udp"), **FORGED)
    names = [cause.name for cause in diagnosis.diagnose(profile(dead, dns=90.0))]
    assert names == ["unreplied"]
    half = dead._replace(share=45.0)
    names = [cause.name for cause in diagnosis.diagnose(profile(half, dns=90.0))]
    assert names == ["unreplied", "dns"]


def test_service_that_does_not_answer_anywhere_is_named():
    poll = unanswered(
        "udp",
        "",
        source=address("10.5.5.5"),
        target=target("10.9.0.1", 161, 0.4, protocol="udp"),
        destination=address("10.9.0.1", 0.4),
        destination_network=address("10.9.0.0/24", 99.0),
        targets=254,
    )
    table = profile(poll, own=frozenset({"10.5.5.5"}))
    assert first(table).startswith("10.9.0.0/24 udp/161 does not answer 10.5.5.5 (this host)")
    everywhere = poll._replace(destination_network=TopItem())
    assert first(profile(everywhere, own=frozenset({"10.5.5.5"}))).startswith(
        "many destinations udp/161 do not answer 10.5.5.5"
    )
    # Of a socket that is bound to no address the source is not known.
    assert "  ss -uanp" in advice(table).splitlines()


LAN = {
    "source": address("192.168.1.74", 2.0, 20),
    "network": address("192.168.1.0/24", 99.0),
    "target": target("192.0.2.7", 443, 1.0),
    "destination": address("192.0.2.7", 1.0),
    "sources": 120,
    "targets": 700,
    "ports": 2,
}


@pytest.mark.parametrize(
    "served", [{"private": 100.0}, {"source_translated": 95.0}, {"own": "192.168.1.0/24"}]
)
@pytest.mark.parametrize(("protocol", "state"), [("tcp", "SYN_SENT"), ("udp", ""), ("icmp", "")])
def test_network_whose_way_out_is_broken_is_neither_a_scan_nor_a_flood(served, protocol, state):
    more = dict(served)
    own = frozenset(filter(None, [more.pop("own", "")]))
    table = profile(unanswered(protocol, state, **LAN, **more), own=own)
    assert first(table).startswith("many destinations do not answer 192.168.1.0/24 (90% ")
    sentence = diagnosis.diagnose(table)[0].sentence(table)
    assert sentence.endswith(
        "That is a broken way there or back (upstream, route, firewall), or hosts that are down; "
        "or a scan or a flood from many hosts"
    )
    steps = diagnosis.diagnose(table)[0].steps(table)
    assert steps[0].commands == ("ip route get 192.0.2.7", "ping -c 3 -W 1 192.0.2.7")
    assert "nft" not in advice(table)
    # The most of them go to one resolver.
    busy = {**LAN, "target": target("192.0.2.53", 53, 33.0, protocol=protocol), **more}
    table = profile(unanswered(protocol, state, **busy), own=own)
    assert first(table).startswith("many destinations do not answer 192.168.1.0/24 (90% ")


@pytest.mark.parametrize(
    "named", [{"private": 0.0}, {"sources": 3}, {"source": address("192.168.1.74", 60.0)}]
)
def test_network_of_others_or_one_host_of_it_scans(named):
    table = profile(unanswered(state="SYN_SENT", **{**LAN, "private": 100.0, **named}))
    assert first(table).startswith("scan of 700 destinations from 192.168.1.")


def test_service_is_named_once():
    service = TopItem("tcp/8080", 99.0, 900, "", 0, "tcp", 8080)
    table = profile(
        time_wait=99.0,
        time_wait_service=service,
        source=address("10.0.0.7", 99.0),
        destination=address("10.1.3.1", 2.0),
        service=service,
    )
    assert first(table) == (
        "short-lived connections: 99% of entries in TIME_WAIT to tcp/8080, 99% from 10.0.0.7"
    )


def test_second_cause_is_named_where_there_is_room(file, inspect):
    lines = [tables.udp("203.0.113.31", "10.9.0.27", n, 9, replied=False) for n in range(1800)]
    lines += [tables.tcp("CLOSE_WAIT", "10.7.7.8", "10.1.0.90", n, 80) for n in range(1400)]
    run = inspect("--source", file(lines))
    flood = "; UDP flood on 10.9.0.27 udp/9 from 203.0.113.31 (56% unreplied)"
    assert run.text.endswith(f"{flood}; also leaked connections")
    run = inspect("--source", file(lines[300:]))
    assert run.text.endswith("; also leaked connections")


def test_largest_cause_of_those_that_go_on_now_comes_first():
    scan = unanswered(state="SYN_SENT", share=30.0, target=target("192.0.2.1", 22, 1.0), targets=99)

    def names(**named):
        return [cause.name for cause in diagnosis.diagnose(profile(scan, **named))]

    assert names(close_wait=60.0) == ["close_wait", "scan"]
    assert names(close_wait=26.0) == ["scan", "close_wait"]
    assert names(fin_wait=40.0, last_ack=5.0) == ["closing", "scan"]
    assert names(reset=60.0) == ["reset", "scan"]
    # What has lasted for days is not why it alarms now.
    assert names(idle=60.0) == ["scan", "idle"]
    pool = {"pool": target("192.0.2.1"), "pool_address": "203.0.113.1", "pool_size": 9}
    assert names(close_wait=60.0, **pool) == ["nat ports", "close_wait", "scan"]


def test_restricted_pool_is_widened_with_the_addresses_found():
    table = profile(
        pool=target("192.0.2.14", 443, 95.0),
        pool_address="203.0.113.1",
        pool_ports=950,
        pool_size=1000,
        pool_range=(20000, 20999),
    )
    assert "takes 950 of 1000 ports (20000-20999)" in first(table)
    assert "ip daddr 192.0.2.14 tcp dport 443 snat to 203.0.113.1:1024-65535" in advice(table)
    whole = table._replace(pool_range=None, pool_size=64512, pool_ports=64000)
    assert "snat to FIRST-LAST" in advice(whole)
    assert "Replace FIRST-LAST by" in advice(whole)


def test_ports_of_closed_connections_are_freed_where_there_are_any():
    table = profile(pool=target("192.0.2.14", share=95.0), pool_address="203.0.113.1", pool_size=9)
    assert "TIME_WAIT" not in advice(table)
    command = "  conntrack -D -p tcp -d 192.0.2.14 --dport 443 --state TIME_WAIT > /dev/null"
    assert command in advice(table._replace(time_wait=5.0)).splitlines()


def test_timeout_that_is_short_already_is_left_alone():
    table = profile(time_wait=80.0, timeouts={"tcp_timeout_time_wait": (30, 120)})
    assert "is 30 s (kernel default 120 s). It is short already." in advice(table)
    assert "sysctl -w" not in advice(table)


def test_every_timeout_says_that_existing_entries_keep_theirs():
    for groups, named in (
        ([unanswered()], {}),
        ([], {"close_wait": 80.0}),
        ([], {"idle": 80.0}),
        ([], {"time_wait": 80.0}),
        ([], {"dns": 80.0}),
    ):
        lines = advice(profile(*groups, **named)).splitlines()
        shortened = [line for line in lines if "Shorten it for new entries" in line]
        assert shortened
        assert all("Existing entries keep the timeout they have." in line for line in shortened)


def test_proxy_that_opens_connections_for_its_clients_is_no_source_that_dominates():
    proxy = {"source": address("10.0.0.5", 52.0), "destination": address("198.51.100.5", 48.0)}
    own = {"own": frozenset({"10.0.0.5", "198.51.100.5"})}
    table = profile(usage=80.0, **proxy, **own)
    assert first(table) == (
        "no cause stands out: the table may be too small, 52% from 10.0.0.5 (this host), "
        "48% to 198.51.100.5 (this host)"
    )
    few = table._replace(destination=address("198.51.100.5", 10.0))
    assert first(few).startswith("one source dominates")
    client = table._replace(own=frozenset({"10.0.0.5"}))
    assert first(client).startswith("one source dominates")


def test_own_address_is_not_limited():
    table = profile(source=address("10.5.5.5", 80.0), own=frozenset({"10.5.5.5"}))
    assert first(table) == "one source dominates, 80% from 10.5.5.5 (this host)"
    assert advice(table).splitlines()[-1] == "  ss -tuanp src 10.5.5.5"


# --- all of them


@pytest.mark.parametrize(
    ("name", "table"), [pytest.param(*case, id=f"{case[0]} {n}") for n, case in enumerate(cases())]
)
def test_every_cause_speaks_ascii_and_its_commands_lead_into_the_namespace(name, table):
    table = table._replace(command="nsenter --net=/run/netns/r1 ")
    (cause, *_) = diagnosis.diagnose(table)
    assert cause.name == name
    assert len(cause.headline(table)) <= 100
    for text in (cause.headline(table), cause.sentence(table)):
        assert text.isascii()
        assert "|" not in text
    steps = cause.steps(table)
    for step in steps:
        assert step.text.isascii()
        for command in (*step.commands, *step.undo):
            assert "|" not in command
            assert "\\" not in command
            assert shlex.split(command)
            if not command.startswith("ss "):
                assert command.startswith("nsenter --net=/run/netns/r1 ")
        changes = [c for c in step.commands if " nft " in c or " sysctl " in c]
        assert bool(step.undo) >= bool(changes)
    assert name == "small" or any(step.commands for step in steps)


def test_causes_of_this_table_cover_all_causes():
    assert {name for name, _ in cases()} == {cause.name for cause in diagnosis.CAUSES}


@pytest.mark.parametrize(
    ("usage", "share", "expected"), [(10.0, 90.0, False), (90.0, 44.9, False), (90.0, 45.0, True)]
)
def test_time_wait_is_a_cause_in_a_full_table_only(usage, share, expected):
    causes = diagnosis.diagnose(profile(usage=usage, time_wait=share))
    assert any(cause.name == "time_wait" for cause in causes) == expected


# --- the host


def test_open_sockets_are_counted_by_port(monkeypatch):
    lines = (
        b"  sl  local_address rem_address   st\n"
        b"   0: 0100007F:075B 0100007F:C350 01 00000000:00000000\n"
        b"   1: 0100007F:C350 0100007F:075B 01 00000000:00000000\n"
        b"   2: 0100007F:075B 0100007F:C351 08 00000000:00000000\n"
        b"   3: 00000000:075B 00000000:0000 0A 00000000:00000000\n"
    )

    def read(path, most=0):
        return FileReading(path, lines) if path.endswith("tcp") else missing(path)

    def missing(path):
        return FileReading(path, errno=2)

    monkeypatch.setattr(sockets, "read_long_file", read)
    assert sockets.number_of(1883, sockets.ESTABLISHED) == 2
    assert sockets.number_of(80, sockets.ESTABLISHED) == 0
    monkeypatch.setattr(sockets, "read_long_file", lambda path, _: missing(path))
    assert sockets.number_of(80, sockets.ESTABLISHED) is None


def test_udp_server_is_a_socket_that_takes_packets_from_anybody():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert sockets.has_udp_server(port) is True
        server.connect(("127.0.0.1", 9))
        assert sockets.has_udp_server(port) is False
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::1", 0))
        assert sockets.has_udp_server(server.getsockname()[1]) is True


def test_udp_servers_are_not_known_where_they_cannot_be_read(monkeypatch):
    monkeypatch.setattr(sockets, "read_long_file", lambda path, _: FileReading(path, errno=2))
    assert sockets.has_udp_server(53) is None


@pytest.mark.parametrize(
    ("known", "bound", "reached"),
    [
        (Destination("failed", "lan"), None, "failed"),
        (Destination("failed", "lan", certain=False), None, ""),
        (Destination("unknown"), None, "unknown"),
        (Destination("there", "lan"), False, "there"),
        (Destination("there"), False, "closed"),
        (Destination("there"), True, "listens"),
        (Destination("there"), None, "there"),
    ],
)
def test_profile_says_what_the_kernel_knows_of_the_target(monkeypatch, known, bound, reached):
    monkeypatch.setattr(destinations, "look_up", lambda _: {"10.0.0.53": known})
    monkeypatch.setattr(sockets, "has_udp_server", lambda _: bound)
    monkeypatch.setattr(host, "has_ipvs", lambda: False)
    one = many_clients().unanswered[0]
    assert table_profile._reached(one, here=True).reached == reached
    assert table_profile._reached(one, here=False) == one
    if reached == "closed":
        monkeypatch.setattr(host, "has_ipvs", lambda: True)
        assert table_profile._reached(one, here=True).reached == "there"
    several = one._replace(backends=(target("10.1.0.1"), target("10.1.0.2")))
    assert table_profile._reached(several, here=True) == several


def test_profile_knows_private_sources_and_what_the_target_answers(file, inspect):
    def lines(source, **answered):
        dead = [
            tables.udp(source(n), "10.0.0.5", 2000 + n, 9125, replied=False) for n in range(900)
        ]
        fine = [
            tables.udp(f"198.51.100.{n}", "10.0.0.5", 900 + n, 9125, **answered) for n in range(20)
        ]
        return dead + (fine if answered else [])

    def public(number):
        return f"203.{number >> 8}.{number & 255}.9"

    own = inspect("--source", file(lines(lambda n: f"10.7.{n >> 8}.{n & 255}")), "-v")
    assert "10.0.0.5 udp/9125 does not answer many sources" in own.text
    assert "100% of the sources are private addresses" in own.rest
    others = inspect("--source", file(lines(public)))
    assert "10.0.0.5 udp/9125 is down, one-way or under a UDP flood" in others.text
    answered = inspect("--source", file(lines(public, replied=True)), "-v")
    assert ", while others were answered before. A service that is down" in answered.rest


def test_default_gateways_are_those_of_both_families(monkeypatch):
    files = {
        "/proc/net/route": (
            b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"
            b"eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
            b"eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        ),
        "/proc/net/ipv6_route": (
            b"0" * 32 + b" 00 " + b"0" * 32 + b" 00 20010db8" + b"0" * 23 + b"1 00000400 eth0\n"
        ),
    }
    monkeypatch.setattr(host, "read_long_file", lambda path: FileReading(path, files[path]))
    assert host.default_gateways() == {"192.168.1.1", "2001:db8::1"}


def test_headline_never_loses_an_address_when_it_is_shortened():
    headline = (
        "leaked connections: 77% idle for hours, 77% from 192.0.2.7, 85% to 192.0.2.9 tcp/5432"
    )
    versions = summary._headline_versions(headline, (), 20)
    assert versions[-1] == "77% idle for hours, from 192.0.2.7, to 192.0.2.9 tcp/5432"
    assert all("192.0.2.7" in each and "192.0.2.9 tcp/5432" in each for each in versions)
    flood = "UDP flood on 192.0.2.9 udp/9 from 2001:db8::/64 (99% unreplied)"
    assert summary._headline_versions(flood, (), 20)[-1] == flood.partition(" (")[0]


def test_headline_loses_an_owner_last_and_only_without_room_for_it():
    headline = (
        "SYN flood on 10.0.0.9 tcp/443 (pod shop/cart) from 192.0.2.7 (lxc web) (73% SYN_RECV)"
    )
    versions = summary._headline_versions(headline, ("pod shop/cart", "lxc web"), 200)
    assert versions[-1] == headline.removesuffix(" (73% SYN_RECV)")
    versions = summary._headline_versions(headline, ("pod shop/cart", "lxc web"), 40)
    assert versions[-1] == "SYN flood on 10.0.0.9 tcp/443 from 192.0.2.7"
    long = "pod shop/" + "cart" * 20
    cut = summary._headline_versions(f"one source dominates, from 10.0.0.9 ({long})", (long,), 90)
    assert cut[-1] == f"one source dominates, from 10.0.0.9 ({long[:32]}...)"
    source = "one source dominates, 64% from 10.0.0.9 (pod shop/cart)"
    versions = summary._headline_versions(source, ("pod shop/cart",), 200)
    assert versions == [source, source.replace("64% ", "")]


def test_translated_destination_is_not_refused():
    one = unanswered(state="SYN_SENT", translated=50.0, **FORGED)
    text = advice(profile(one))
    assert "reject" not in text
    assert "conntrack -L -g -p tcp -d 198.51.100.1 --dport 443 --state SYN_SENT" in text


def test_udp_from_few_clients_to_an_unknown_port_is_no_flood():
    aim = target("10.0.0.5", 9125, protocol="udp")
    clients = {"source": address("10.1.0.1", 2.0), "network": address("10.1.0.0/24", 20.0)}
    one = unanswered("udp", "", target=aim, sources=60, spread=3.0, **clients)
    assert first(profile(one)).startswith("10.0.0.5 udp/9125 does not answer many sources")
    assert "or a flood" in diagnosis.diagnose(profile(one))[0].sentence(profile(one))


@pytest.mark.parametrize(
    ("state", "means", "timeout"),
    [
        ("fin_wait", "no packet has passed here since: neither", "tcp_timeout_fin_wait=30"),
        ("last_ack", "one has repeated it, and no acknowledgement", "tcp_timeout_last_ack=10"),
    ],
)
def test_connections_that_do_not_finish_closing_are_named_with_their_ends(state, means, timeout):
    ends = LeakEnds(address("192.0.2.5", 60.0), target("10.0.0.80", 443, 99.0))
    table = profile(**{state: 95.0}, closing_ends=ends)
    assert first(table) == (
        f"connections that do not finish closing: 95% of entries in {state.upper()}, of these 60% "
        "from 192.0.2.5, 99% to 10.0.0.80 tcp/443"
    )
    assert means in diagnosis.diagnose(table)[0].sentence(table)
    text = advice(table)
    assert "look on the client 192.0.2.5 and on the server 10.0.0.80 tcp/443" in text
    assert f"conntrack -D -p tcp --state {state.upper()} > /dev/null" in text
    assert timeout in text
    assert "nf_conntrack_max" not in text


def test_sockets_of_other_hosts_are_not_looked_for_in_the_namespace():
    ends = LeakEnds(address("192.0.2.5", 60.0), target("10.0.0.80", 443, 99.0))
    table = profile(fin_wait=95.0, closing_ends=ends, command="nsenter -n ")
    lines = advice(table).splitlines()
    assert any(line.startswith("  ss -tan state fin-wait-1") for line in lines)
    assert "  nsenter -n ip route get 192.0.2.5" in lines
    own = advice(table._replace(own=frozenset({"10.0.0.80"})))
    assert "  nsenter -n ss -tan state fin-wait-1" in own


def test_both_states_of_closing_are_named_and_freed():
    table = profile(last_ack=30.0, fin_wait=25.0, closing_service=target("", 443, 30.0))
    assert "30% of entries in LAST_ACK and 25% in FIN_WAIT" in first(table)
    text = advice(table)
    assert text.count("conntrack -D") == 2
    assert "fin_wait=30" in text
    assert "last_ack=10" in text
    assert [cause.name for cause in diagnosis.diagnose(profile(last_ack=20.0, fin_wait=19.0))] == [
        "small"
    ]


@pytest.mark.parametrize("state", ["FIN_WAIT", "LAST_ACK"])
def test_closing_connections_without_a_reply_are_no_flood(state):
    one = unanswered(state=state, **FORGED)
    table = profile(one, **{state.lower(): 90.0})
    assert [cause.name for cause in diagnosis.diagnose(table)] == ["closing"]
    sentence = diagnosis.diagnose(table)[0].sentence(table)
    assert sentence.endswith("Of most of them only one direction passes here")


def test_ends_of_closed_connections_are_sought_behind_a_translated_address():
    own = {"own": frozenset({"198.51.100.1"}), "translated": 95.0}
    ends = LeakEnds(address("192.0.2.5", 60.0), target("198.51.100.1", 443, 99.0))
    text = advice(profile(fin_wait=95.0, closing_ends=ends, **own))
    server = "198.51.100.1 tcp/443 (this host) or where that is translated to"
    assert f"on the server {server}." in text
    assert "ip route get 192.0.2.5" in text
    assert "ip route get 198.51.100.1" not in text
    text = advice(profile(reset=95.0, reset_ends=ends, **own))
    assert f"look into the logs of {server}, of 192.0.2.5, and of load balancers" in text


def test_resets_have_a_cause_that_leaves_the_limit_open():
    ends = LeakEnds(address("192.0.2.5", 10.0), target("10.0.0.80", 443, 99.0))
    table = profile(reset=95.0, reset_ends=ends)
    (cause,) = diagnosis.diagnose(table)
    assert (cause.name, cause.room) == ("reset", True)
    assert first(table) == (
        "connections ended by a reset: 95% of entries in CLOSE, of these 99% to 10.0.0.80 tcp/443"
    )
    assert "look into the logs of 10.0.0.80 tcp/443, and of load balancers" in advice(table)
    assert "look into the logs of the servers" in advice(profile(reset=95.0))


def test_closing_connections_are_found_in_a_table_with_their_ends(file, inspect):
    lines = [
        tables.tcp(state, f"10.7.{n >> 8}.{n & 255}", "10.9.0.80", 2000 + n, 443, 60)
        for state, number in (("FIN_WAIT", 300), ("LAST_ACK", 600))
        for n in range(number)
    ]
    run = inspect("--source", file(lines))
    assert (
        "connections that do not finish closing: 67% of entries in LAST_ACK and 33% in FIN_WAIT, "
        "to 10.9.0.80 tcp/443"
    ) in run.text
    resets = [line.replace("FIN_WAIT", "CLOSE").replace("LAST_ACK", "CLOSE") for line in lines]
    assert "ended by a reset: 100% of entries in CLOSE, of these 100% to 10.9.0.80 tcp/443" in (
        inspect("--source", file(resets)).text
    )


def test_leak_names_the_ends_of_leaked_connections_and_no_others():
    named = {
        "source": address("192.0.2.5", 55.0),
        "destination": address("192.0.2.80", 55.0),
        "service": target("", 443, 55.0)._replace(name="tcp/443", address=""),
    }
    leak = target("", 9000, 45.0)._replace(name="tcp/9000", address="")
    table = profile(close_wait=45.0, close_wait_service=leak, **named)
    assert first(table) == "leaked connections: 45% of entries in CLOSE_WAIT to tcp/9000"
    ends = LeakEnds(address("10.0.0.7", 93.0), target("10.9.9.9", 9000, 99.6))
    assert first(table._replace(close_wait_ends=ends)) == (
        "leaked connections: 45% of entries in CLOSE_WAIT, of these 93% from 10.0.0.7, 99% to "
        "10.9.9.9 tcp/9000"
    )


def test_program_that_does_not_close_is_looked_for_on_both_sides():
    ends = LeakEnds(address("10.0.0.7", 93.0), target("10.9.9.9", 9000, 99.6))
    table = profile(close_wait=80.0, close_wait_ends=ends)
    server, client = "on the server, 10.9.9.9 tcp/9000,", "on the client, 10.0.0.7,"
    assert f"look {server} and {client} for sockets in CLOSE_WAIT" in advice(table)
    # It is this host's, or certainly not.
    mine = table._replace(own=frozenset({"10.0.0.7"}))
    assert f"look {server} and on the client, 10.0.0.7 (this host)," in advice(mine)
    assert f"look {server} for sockets" in advice(mine._replace(closing_sockets=3))
    # A published port of a container is this host's address, and the program is elsewhere.
    docker = table._replace(own=frozenset({"10.9.9.9"}), closing_sockets=0, translated=99.0)
    published = "look on the server, 10.9.9.9 tcp/9000 (this host) or where that is translated to,"
    assert f"{published} and {client}" in advice(docker)
    here = advice(mine._replace(closing_sockets=900))
    assert "a program on this host has not: there are 900 sockets in CLOSE_WAIT" in here
    assert "10.9.9.9" not in here


IDLE_HOST = LeakEnds(
    address("10.0.0.7", 3.0),
    target("10.9.9.9", 5671, 34.0),
    400,
    address("10.9.9.9", 99.0, 880),
    890,
    30,
)


def test_leak_to_several_services_of_one_host_names_the_host():
    table = profile(idle=80.0, established=90.0, idle_ends=IDLE_HOST)
    assert first(table).endswith("of these 99% to 10.9.9.9")
    assert "conntrack -D -p tcp --state ESTABLISHED -d 10.9.9.9 > /dev/null" in advice(table)
    assert "this frees 890 entries now, of which 880 are idle" in advice(table)


def test_leak_of_one_source_is_freed_there():
    ends = LeakEnds(address("10.0.0.7", 93.0, 800), target("10.9.9.9", 5671, 4.0), from_source=810)
    table = profile(idle=80.0, established=90.0, idle_ends=ends)
    assert "conntrack -D -p tcp --state ESTABLISHED -s 10.0.0.7 > /dev/null" in advice(table)
    assert "this frees 810 entries now, of which 800 are idle" in advice(table)


def test_connections_of_all_are_not_deleted_behind_nat():
    ends = LeakEnds(address("10.0.0.7", 3.0), target("10.9.9.9", 5671, 4.0))
    table = profile(idle=80.0, established=90.0, idle_ends=ends)
    assert "conntrack -D -p tcp --state ESTABLISHED > /dev/null" in advice(table)
    assert "conntrack -D" not in advice(table._replace(translated=50.0))


def test_leak_in_the_shade_of_other_traffic_is_named(file, inspect):
    busy = [
        tables.tcp("ESTABLISHED", "192.0.2.5", "192.0.2.80", 1024 + n, 443, tables.LONG - n % 60)
        for n in range(2200)
    ]
    stuck = [tables.tcp("CLOSE_WAIT", "10.0.0.7", "10.9.9.9", 1024 + n, 9000) for n in range(1500)]
    run = inspect("--source", file(busy + stuck))
    assert "of these 100% from 10.0.0.7, 100% to 10.9.9.9 tcp/9000" in run.text
    assert "192.0.2.5" not in run.text
    old = [
        tables.tcp("ESTABLISHED", "10.0.0.7", "10.9.9.9", 1024 + n, 3306, tables.LONG - 90000 - n)
        for n in range(1500)
    ]
    fresh = [
        tables.tcp("ESTABLISHED", "10.0.0.8", "10.9.9.9", 1024 + n, 3306, tables.LONG - n % 60)
        for n in range(400)
    ]
    run = inspect("--source", file(busy[:1500] + old + fresh), "-v")
    assert "of these 100% from 10.0.0.7, 100% to 10.9.9.9 tcp/3306" in run.text
    assert "Free them: this frees 1900 entries now, of which 1500 are idle." in run.rest
    assert (
        "  conntrack -D -p tcp --state ESTABLISHED -d 10.9.9.9 --dport 3306 > /dev/null"
        in run.lines
    )
