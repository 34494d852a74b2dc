"""Floods, scans and dead backends: entries that nobody answers, or nobody completes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incidents.lab import Expect, Lab, Step, incident
from support.packets import connects, hosts, tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 4096
WEB, WEB_SERVICE = "10.1.0.80", r"10\.1\.0\.80.*(tcp/443|:443)|(tcp/443|:443).*10\.1\.0\.80"
NO_LARGER_LIMIT = (r"sysctl.*nf_conntrack_max", r"raise the limit")


def healthy_clients(lab: Lab, number: int = 200) -> list[str]:
    """Serve clients that keep their connections; return their entries in the router."""
    server = lab.server(443)
    server.connect(lab.clients, [next(hosts("198.18.1.0/24", n)) for n in range(number)], WEB)
    return lab.router.entries("-p", "tcp", "--state", "ESTABLISHED")


def unharmed(lab: Lab, number: int = 200) -> None:
    """Assert that the clients kept their entries, and that new connections work."""
    assert len(lab.router.entries("-p", "tcp", "--state", "ESTABLISHED")) >= number
    assert connects(lab.clients, "198.18.2.1", WEB, 443)


def undone(lab: Lab, step: Step, before: str) -> None:
    """Assert that a step's undo restores the rules."""
    assert step.undo, f"no undo beside: {step.text}"
    lab.paste(step.undo)
    assert lab.ruleset() == before


@incident(
    "SYN flood, forged sources",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", WEB_SERVICE, "forged|spoofed|many sources"),
        below=("SYN_RECV", "synproxy"),
        never=NO_LARGER_LIMIT,
    ),
    Expect("usage", "CRITICAL", never=NO_LARGER_LIMIT),
    ci=True,
    pending="the first line is cut, and `usage` advises a larger limit",
)
def syn_flood_forged(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    forged = hosts("203.0.0.0/16", 7)
    lab.send(tcp(next(forged), WEB, 1024 + n, 443) for n in range(LIMIT - 300))
    lab.wait_for_entries(LIMIT - 150)
    yield
    before = lab.ruleset()
    step = lab.step("conntrack -D")
    lab.paste(step.commands)
    assert lab.router.count() < 400
    step = lab.step("synproxy")
    lab.paste(step.commands)
    once = lab.ruleset()
    lab.paste(step.commands)
    assert lab.ruleset() == once, "pasted twice, it stacks"
    lab.send(tcp(next(forged), WEB, 1024 + n, 443) for n in range(1000))
    assert lab.router.count() < 400
    unharmed(lab)
    undone(lab, step, before)


@incident(
    "SYN flood from one source",
    Expect(
        "table",
        "CRITICAL",
        says=("SYN flood", r"203\.0\.113\.9\b", WEB_SERVICE),
        never=NO_LARGER_LIMIT,
    ),
    ci=True,
    pending="the first line is cut",
)
def syn_flood_one_source(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    lab.send(tcp("203.0.113.9", WEB, 1024 + n, 443) for n in range(LIMIT - 300))
    lab.wait_for_entries(LIMIT - 150)
    yield
    before = lab.ruleset()
    step = lab.step(r"nft .*203\.0\.113\.9")
    lab.paste(step.commands)
    once = lab.ruleset()
    lab.paste(step.commands)
    assert lab.ruleset() == once, "pasted twice, it stacks"
    lab.paste(lab.step(r"conntrack -D.*203\.0\.113\.9").commands)
    lab.send(tcp("203.0.113.9", WEB, 1024 + n, 443) for n in range(1000))
    assert not lab.router.entries("-s", "203.0.113.9")
    unharmed(lab)
    undone(lab, step, before)


@incident(
    "dead backend",
    Expect(
        "table",
        "CRITICAL",
        says=(r"10\.9\.0\.80", r"tcp/8080|:8080", "not answer|no answer|never answer|unreplied"),
        never=(*NO_LARGER_LIMIT, "SYN flood", "scan", "synproxy"),
    ),
    ci=True,
    pending="is called a SYN flood",
)
def dead_backend(lab: Lab) -> Iterator[None]:
    lab.limit(LIMIT)
    healthy_clients(lab)
    clients = hosts("198.18.8.0/24")
    lab.send(tcp(next(clients), "10.9.0.80", 1024 + n, 8080) for n in range(LIMIT - 300))
    lab.wait_for_entries(LIMIT - 150)
    yield
    lab.paste(lab.step(r"conntrack -D").commands)
    assert not lab.router.entries("-d", "10.9.0.80")
    unharmed(lab)
