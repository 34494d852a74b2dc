"""Arguments from the network: each reaches the check as one, or is refused, and never a shell.

The agent is nrpe built to take arguments. What a check is given is told by a program in its place;
the last tests are of the checks themselves.
"""

from __future__ import annotations

import json
import os

import pytest

from support.nrpe_agent import commands

RECORDER = """#!/usr/bin/python3
import json, os, sys
with open("/var/lib/nagios/given", "a") as file:
    print(json.dumps([os.fsencode(word).hex() for word in sys.argv[1:]]), file=file)
print("recorded")
"""
UNKNOWN = 3


class Given:
    """Asks for the usage check with arguments and tells what reached it."""

    def __init__(self, agent):
        self.agent = agent
        self.file = agent.top / "home/given"

    def __call__(self, *arguments, options=()):
        """The arguments of the check, after the --sudo that it always gets; None if it was not run.

        A refusal is UNKNOWN, and has run nothing else.
        """
        self.file.unlink(missing_ok=True)
        before = sorted(os.listdir(self.agent.top / "home"))
        done = self.agent.ask("check_conntrack_usage_args", *arguments, options=options)
        made = set(os.listdir(self.agent.top / "home")) - set(before)
        self.out = done.stdout
        if not self.file.exists():
            assert (done.returncode, made) == (UNKNOWN, set()), done
            assert b"recorded" not in done.stdout
            return None
        assert (done.returncode, done.stdout, made) == (0, b"recorded\n", {"given"})
        (run,) = self.file.read_text().splitlines()
        first, *words = (bytes.fromhex(word) for word in json.loads(run))
        assert first == b"--sudo"
        return words


@pytest.fixture(scope="module")
def given(agents, need):
    """An agent that takes arguments, with a program in the usage check's place."""
    from support.nrpe_agent import nrpe_with_arguments

    need("gcc", "make", "apt-get", "dpkg-query")
    built = nrpe_with_arguments()
    with agents("sudo", arguments=built, settings="dont_blame_nrpe=1\n") as agent:
        program = agent.top / "plugins/check_conntrack_usage"
        program.write_text(RECORDER)
        yield Given(agent)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "  space  around  ",
        'double " quotes "',
        "$HOME",
        "$HOME/x",
        "$$",
        "$ARG2$",
        "$",
        "~",
        "*",
        "/etc/*",
        "?",
        "(id)",
        "#comment",
        "%s%n%d",
        "a\tb",
        "^@,:/=+-_.",
        "--",
        "-x",
        "end",
        "\u00e4\u00f6\u00fc \u2013 \u540d\u524d \U0001f600",
        "\x01\x07\x1b0title\x7f",
    ],
)
def test_an_argument_arrives_as_one_word_as_it_was_sent(given, text):
    argument = f"--state-key={text}"
    assert given(argument) == [argument.encode()]
    assert given("--warning=70", argument, "--exit-ok") == [
        b"--warning=70",
        argument.encode(),
        b"--exit-ok",
    ]


def test_bytes_that_are_no_text_arrive(given):
    assert given(b"--state-key=\xff\xfe\x80") == [b"--state-key=\xff\xfe\x80"]


@pytest.mark.parametrize(
    "text",
    [
        "'",
        "'; touch ~/pwned; '",
        "' touch ~/pwned '",
        "; touch ~/pwned",
        "$(touch ~/pwned)",
        "$(",
        "`touch ~/pwned`",
        "| touch ~/pwned",
        "& touch ~/pwned",
        "> ~/pwned",
        "< /etc/passwd",
        "back\\slash",
        "\\'",
        "[a]",
        "{a,b}",
        "line\ntouch ~/pwned",
        "line\rend",
        "x" * 10240,
        "x" * 2048,
        "x" * 1024,
        "\n",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_a_shell_would_understand_is_refused_by_the_agent(given, text):
    assert given(f"--state-key={text}") is None
    assert given("--warning=70", f"--state-key={text}", "--critical=80") is None


@pytest.mark.parametrize(
    "argument",
    [
        "--log=/etc/shadow",
        "--source=/etc/shadow",
        "--source=conntrack",
        "--source=-",
        "--save=/var/lib/nagios/saved",
        "--state-dir=/var/lib/nagios/else",
        "--no-state",
        "--sudo",
        "--user=root",
        "--help",
        "--warning",
        "-w",
        "-w80",
        "80",
        "end",
        "--",
        "--trend-window",
        "--since=1h",
        "--top=5",
        "--state-keyx=1",
        "--state-key",
    ],
)
def test_an_option_that_is_not_for_the_network_is_refused(given, argument):
    assert given("--warning=70", argument) is None
    assert b"CONNTRACK_USAGE UNKNOWN - over NRPE: argument 2 is none of those" in given.out


def test_the_separator_of_nrpe_makes_two_arguments_of_one(given):
    assert given("--state-key=a!--warning=5") == [b"--state-key=a", b"--warning=5"]
    assert given("--state-key=a!touch ~/pwned") is None


def test_as_many_arguments_as_the_line_holds_and_no_more(given):
    many = [f"--state-key={number}" for number in range(1, 18)]
    assert given(*many[:15]) == [argument.encode() for argument in many[:15]]
    # NRPE drops the 17th in silence: a threshold that would never fire.
    for count in (16, 17):
        assert given(*many[:count]) is None
        assert b"CONNTRACK_USAGE UNKNOWN - over NRPE: more than 15 arguments" in given.out


def test_a_command_without_arguments_is_the_check_as_it_is(given):
    assert given() == []


@pytest.mark.parametrize("packets", [(), ("-2",)], ids=["v4", "v2"])
def test_a_request_that_is_cut_off_somewhere_is_refused_as_a_whole(given, packets):
    for length in (1, 400, 860, 861, 862, 930, 975, 1000, 1004, 1010, 1030, 1900, 1950, 2010, 2040):
        sent = [f"--state-key={'x' * (length // 2)}", f"--netns={'y' * (length - length // 2)}"]
        sent.append("--critical=20")
        words = [argument.encode() for argument in sent]
        assert given(*sent, options=packets) in ([words] if length < 800 else [words, None])


def test_a_line_that_nrpe_cuts_off_is_refused_as_a_whole(given):
    # The line alone, without the script's own limit, which no such line would pass.
    script = given.agent.top / "plugins/conntrack_arguments"
    text = script.read_text()
    assert text.count("-le 900 ]") == 1
    line = commands("conntrack-arguments.cfg")["check_conntrack_usage_args"]
    fixed = len(line) - sum(len(f"$ARG{number}$") for number in range(1, 17))
    last = "--critical=20"
    room = 2047 - fixed - len("--state-key=") - len(last)
    outcomes = []
    try:
        script.write_text(text.replace("-le 900 ]", "-le 9000 ]"))
        # Every length at which NRPE's 2048 bytes end in the second argument or in what follows it.
        for length in range(room - 12, room + 70):
            sent = [f"--state-key={'x' * length}", last]
            arrived = given(*sent)
            assert arrived in (None, [word.encode() for word in sent])
            outcomes.append(arrived is None)
    finally:
        script.write_text(text)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {True, False}


def test_thresholds_and_filters_reach_the_checks(open_agent):
    open_agent.limit(10000)
    open_agent.fill(300)
    ask = open_agent.result
    assert ask("check_conntrack_usage_args").code == 0
    assert ask("check_conntrack_usage_args", "--warning=1", "--critical=50").code == 1
    assert ask("check_conntrack_usage_args", "--warning=entries=100", "--critical=2").code == 2
    table = ask("check_conntrack_table_args", "--protocol=udp", "--port=7", "--warning=udp=0")
    assert (table.code, table.value("udp")) == (1, 1)
    full = ask("check_conntrack_full_args", "--since=1h", "--verbose")
    assert full.code == 0
    assert "not full in the last 1h" in full.status


@pytest.mark.parametrize(
    "text", ['"', "$HOME", "* (x) #", "\u00e4\u540d", "9" * 700, "%n%s", "\x1bc"], ids=ascii
)
def test_a_hostile_text_is_a_usage_error_of_the_check(open_agent, text):
    for command in ("usage", "full", "table"):
        result = open_agent.result(f"check_conntrack_{command}_args", f"--warning={text}")
        assert result.code == UNKNOWN
        assert result.status.startswith(f"CONNTRACK_{command.upper()} UNKNOWN - ")
        assert "\x1b" not in result.out
