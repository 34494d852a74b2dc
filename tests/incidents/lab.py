"""The laboratory: a network, checks run in it, their answers, and the advice they print, pasted."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple, TypeVar

from support import machine, packets
from support.contract import Run
from support.netns import Namespace, wait_until
from support.router import Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")
PROGRAMS = (
    *("nft", "iptables", "conntrack", "sysctl", "nsenter", "ip", "echo", "printf", "ss", "nc"),
    *("ping", "timeout"),
)
_OF_THE_MACHINE = re.compile(r"nf_conntrack_(max|buckets|expect_max)|parameters/hashsize")


class Step(NamedTuple):
    """One step of advice: its sentence, its commands, and the commands that undo it."""

    text: str
    commands: tuple[str, ...]
    undo: tuple[str, ...]


def is_command(line: str) -> bool:
    """Return whether a line of long output is a command to paste."""
    return line.startswith("  ") and line.split()[0] in PROGRAMS


def steps(lines: Iterable[str]) -> list[Step]:
    """Return the steps of the advice in long output: sentences with commands below them."""
    found: list[Step] = []
    undoing = False
    for line in lines:
        if not is_command(line):
            undoing = line.startswith("Undo")
            if not undoing:
                found.append(Step(line, (), ()))
        elif found and undoing:
            found[-1] = found[-1]._replace(undo=(*found[-1].undo, line.strip()))
        elif found:
            found[-1] = found[-1]._replace(commands=(*found[-1].commands, line.strip()))
    return [step for step in found if step.commands]


class Lab:
    """The network of one incident, and the checks that look at it.

    `answers` are what the checks printed, by the name of the check; `files` are those made for
    them, by the words that stand for them in their options.
    """

    def __init__(self, tree: Path, python: str, state: Path) -> None:
        self._tree, self._python, self._state = tree, python, state
        self._stack = contextlib.ExitStack()
        self._network: Network | None = None
        self.answers: dict[str, Run] = {}
        self.files: dict[str, Path] = {}

    def close(self) -> None:
        """Remove the network and restore the machine's limits."""
        self._stack.close()

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that is left when the incident ends."""
        return self._stack.enter_context(context)

    @property
    def network(self) -> Network:
        """The router between clients and servers."""
        if self._network is None:
            self._network = self.enter(Network())
        return self._network

    @property
    def clients(self) -> Namespace:
        """The clients' side."""
        return self.network.clients

    @property
    def router(self) -> Namespace:
        """The router, in which checks run."""
        return self.network.router

    @property
    def servers(self) -> Namespace:
        """The servers' side."""
        return self.network.servers

    def limit(self, entries: int) -> None:
        """Set the machine's limit, with as many hash buckets, as the kernel's defaults have it."""
        buckets = max(1024, -(-entries // 512) * 512)
        self.enter(machine.machine_wide(nf_conntrack_max=entries, nf_conntrack_buckets=buckets))

    def buckets(self, number: int) -> None:
        """Set the number of hash buckets."""
        self.enter(machine.machine_wide(nf_conntrack_buckets=number))

    def file(self, word: str, text: str) -> Path:
        """Make a file that everybody may read, for a word in the options of a check."""
        folder = Path(self.enter(tempfile.TemporaryDirectory(prefix="cct-")))
        folder.chmod(0o755)
        path = folder / "kern.log"
        path.write_text(text)
        path.chmod(0o644)
        self.files[word] = path
        return path

    def network_of(self, router: str) -> None:
        """Make the network with a router of this name."""
        self._network = self.enter(Network(router))

    @contextlib.contextmanager
    def aged(self, seconds: int, namespace: Namespace | None = None) -> Iterator[None]:
        """Have connections that are established meanwhile look idle for so long."""
        where = namespace or self.router
        sysctl = "netfilter__nf_conntrack_tcp_timeout_established"
        where.sysctl(**{sysctl: 432_000 - seconds})
        yield
        where.sysctl(**{sysctl: 432_000})

    def server(self, port: int, address: str = "") -> packets.Server:
        """Start a server on the servers' side: TCP, or UDP where an address is given."""
        return self.enter(packets.Server(self.servers, port, address))

    def send(self, sent: Iterable[packets.Packet]) -> None:
        """Send packets from the clients' side."""
        packets.send(self.clients, sent)

    @contextlib.contextmanager
    def kept_full(self, entries: int, packet: Callable[[], packets.Packet]) -> Iterator[None]:
        """Keep so many entries in the router's table: send a packet for each that is missing.

        The kernel evicts some of its own accord for a minute after any table was full.
        """
        done = threading.Event()

        def send() -> None:
            while not done.wait(0.005):
                self.send(packet() for _ in range(entries - self.router.count()))

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            done.set()
            sender.join()

    def wait_for_entries(self, entries: int, namespace: Namespace | None = None) -> None:
        """Wait until the router counts so many entries."""
        where = namespace or self.router
        if not wait_until(lambda: where.count() >= entries):
            counters = where.run("conntrack", "-S")
            raise AssertionError(f"only {where.count()} entries:\n{counters}")

    def wait_for_state(self, state: str, entries: int) -> None:
        """Wait until so many entries of the router are in a state of TCP."""

        def states() -> Counter[str]:
            return Counter(line.split()[5] for line in self.router.entries("-p", "tcp"))

        assert wait_until(lambda: states()[state] >= entries, 40), states()

    def check(self, check: str, *options: object, where: str = "router") -> Run:
        """Run a check as root: in the router, clients or servers, or on the host of them all."""
        name = f"check_conntrack_{check}"
        words = [str(self.files.get(str(option), option)) for option in options]
        command = [self._python, str(self._tree / name), "--state-dir", str(self._state), *words]
        command = self._inside(where, command)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.answers[check] = Run(done.returncode, done.stdout, done.stderr, words)
        return self.answers[check]

    def step(self, pattern: str, check: str = "table") -> Step:
        """Return the first step of advice whose sentence or commands match a pattern."""
        advice = steps(self.answers[check].lines)
        for step in advice:
            if re.search(pattern, "\n".join((step.text, *step.commands))):
                return step
        raise AssertionError(f"no advice matches {pattern!r}:\n{self.answers[check].out}")

    def _inside(self, where: str, command: list[str]) -> list[str]:
        return command if where == HOST else getattr(self.network, where).command(*command)

    def paste(self, commands: Iterable[str], where: str = "router") -> str:
        """Run commands as they stand in the output; each has to succeed. Return what they print.

        The machine's own limits are set on the host, and restored when the incident ends; files
        below /etc are left alone.
        """
        printed = []
        for command in commands:
            if "/etc/" in command:
                continue
            words = ["sh", "-c", command]
            match = _OF_THE_MACHINE.search(command)
            if match:
                name = match[0] if match[0].startswith("nf_") else "nf_conntrack_buckets"
                self.enter(machine.machine_wide(**{name: machine.sysctl(name)}))
            else:
                words = self._inside(where, words)
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            printed.append(done.stdout)
        return "".join(printed)

    def paste_twice(self, step: Step) -> None:
        """Paste a step, then again: it must not stack."""
        self.paste(step.commands)
        once = self.ruleset()
        self.paste(step.commands)
        assert self.ruleset() == once, "pasted twice, it stacks"

    def ruleset(self) -> str:
        """Return the router's nft rules, without counters."""
        rules = self.router.run("nft", "-s", "list", "ruleset")
        return re.sub(r"counter packets \d+ bytes \d+", "counter", rules)


def first(number: int, addresses: Iterable[str]) -> list[str]:
    """Return the first addresses of an endless series."""
    return list(itertools.islice(addresses, number))


HOST = "host"  # the namespace of the test itself, where the others have names


Story = Callable[[Lab], "Iterable[None]"]


class Expect(NamedTuple):
    """The answer that a check has to give: a state, and patterns.

    `state` may offer several, as in `WARNING|CRITICAL`. `says`: in the status line; `below`: in
    the long output; `never`: nowhere in the output.
    """

    check: str
    state: str
    says: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    where: str = "router"

    def faults(self, run: Run) -> list[str]:
        """Return what differs."""
        found = [] if run.state in self.state.split("|") else [f"{run.state}, not {self.state}"]
        found += [f"status line without {one!r}" for one in self.says if not _in(one, run.text)]
        found += [f"no line with {one!r}" for one in self.below if not _in(one, run.rest)]
        output = f"{run.status}\n{run.rest}"
        found += [f"{one!r} in the output" for one in self.never if _in(one, output)]
        if run.text.rstrip().endswith("..."):
            found.append("the status line is cut")
        if _in(r"timeout\w*=0\b", output):
            found.append("a timeout of 0 is advised")
        return found


def _in(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE | re.MULTILINE) is not None


class Incident(NamedTuple):
    """One scenario: `story` stages it up to its yield, and tries the advice after that.

    `ci` marks those that run in `make test`. `pending` says what the suite has yet to learn.
    """

    name: str
    story: Story
    expect: tuple[Expect, ...]
    ci: bool = False
    pending: str = ""


class Row(NamedTuple):
    """The line of one check in one incident, and whether that was right."""

    incident: str
    line: str
    verdict: str


INCIDENTS: list[Incident] = []


def incident(
    name: str, *expect: Expect, ci: bool = False, pending: str = ""
) -> Callable[[Story], Story]:
    """Add a story to the incidents."""

    def add(story: Story) -> Story:
        INCIDENTS.append(Incident(name, story, expect, ci, pending))
        return story

    return add
