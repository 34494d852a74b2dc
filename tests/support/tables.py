"""Tables as text, each built to show one thing, or nothing but health."""

from __future__ import annotations

import random

LONG, SOON = 431900, 300


def tcp(state, source, target, sport, dport, timeout=100, *, flags="[ASSURED] ", nat=""):
    unreplied = "[UNREPLIED] " if state == "SYN_SENT" else ""
    if state in ("SYN_SENT", "SYN_RECV"):
        flags = ""
    return (
        f"ipv4     2 tcp      6 {timeout} {state} src={source} dst={target} sport={sport} "
        f"dport={dport} {unreplied}src={target} dst={nat or source} sport={dport} dport={sport} "
        f"{flags}mark=0 use=1"
    )


def udp(source, target, sport, dport, *, replied=True, nat="", behind=""):
    unreplied = "" if replied else "[UNREPLIED] "
    return (
        f"ipv4     2 udp      17 20 src={source} dst={target} sport={sport} dport={dport} "
        f"{unreplied}src={behind or target} dst={nat or source} sport={dport} dport={sport} "
        f"mark=0 use=1"
    )


def icmp(source, target, number):
    return (
        f"ipv4     2 icmp     1 20 src={source} dst={target} type=8 code=0 id={number} "
        f"[UNREPLIED] src={target} dst={source} type=0 code=0 id={number} mark=0 use=1"
    )


def host(number, base="198.18"):
    return f"{base}.{number // 250 % 250}.{number % 250 + 1}"


def web_server():
    """Thousands of clients, keep-alive, a third just closed."""
    me = "203.0.113.80"
    states = ["ESTABLISHED"] * 12 + ["TIME_WAIT"] * 6 + ["FIN_WAIT", "SYN_RECV"]
    return [
        tcp(
            states[n % 20],
            host(n % 1500),
            me,
            20000 + n,
            443 if n % 7 else 80,
            LONG - n % 60 if states[n % 20] == "ESTABLISHED" else n % 100,
        )
        for n in range(4000)
    ]


def nat_gateway():
    """An office behind one address."""
    out = "203.0.113.1"
    rng = random.Random(1)
    lines = []
    for n in range(4000):
        inside = host(rng.randrange(200), "10.0")
        outside = host(rng.randrange(900), "192.88")
        if n % 5 == 0:
            lines.append(udp(inside, "192.0.2.53", 20000 + n, 53, nat=out, replied=n % 20 > 0))
        elif n % 5 == 1:
            lines.append(tcp("TIME_WAIT", inside, outside, 20000 + n, 443, nat=out))
        else:
            left = LONG - rng.randrange(1800)
            lines.append(tcp("ESTABLISHED", inside, outside, 20000 + n, 443, left, nat=out))
    return lines


def resolver():
    """Asked by many, asking many."""
    me = "203.0.113.53"
    return [
        udp(host(n % 1200), me, 20000 + n, 53)
        if n % 3
        else udp(me, host(n % 800, "192.88"), 20000 + n, 53, replied=n % 30 > 0)
        for n in range(4000)
    ]


def kubernetes_node():
    """Pods that talk to services and to the cluster's resolver, both translated."""
    lines = []
    for n in range(3000):
        pod = host(n % 60, "10.244")
        if n % 4 == 0:
            lines.append(udp(pod, "10.96.0.10", 20000 + n, 53, behind="10.244.3.7"))
        elif n % 4 == 1:
            lines.append(tcp("TIME_WAIT", pod, f"10.96.7.{n % 40}", 20000 + n, 8080))
        else:
            left = 86400 - n % 900
            lines.append(tcp("ESTABLISHED", pod, f"10.96.7.{n % 40}", 20000 + n, 8080, left))
    return lines


def calm(number):
    """So many entries of nothing in particular."""
    return [line for line in web_server() if "SYN_RECV" not in line][:number]


def syn_flood():
    lines = [tcp("SYN_SENT", "203.0.113.9", "198.51.100.1", 1024 + n, 443) for n in range(1380)]
    lines += [tcp("SYN_RECV", host(n), "198.51.100.1", 1024 + n, 443) for n in range(780)]
    return lines + calm(880)


def scan():
    lines = [
        tcp("SYN_SENT", "203.0.113.9", host(n, "198.51"), 40000, 1 + n % 3000) for n in range(3000)
    ]
    return lines + calm(880)


def time_wait():
    lines = [tcp("TIME_WAIT", host(n % 8, "10.0"), "10.9.9.9", 1024 + n, 5432) for n in range(3000)]
    return lines + calm(1000)


def close_wait():
    lines = [
        tcp("CLOSE_WAIT", host(n % 8, "10.0"), "10.9.9.9", 1024 + n, 8080) for n in range(1500)
    ]
    return lines + calm(2500)


def idle():
    lines = [
        tcp("ESTABLISHED", host(n % 900), "10.9.9.9", 1024 + n, 3306, LONG - 90000 - n)
        for n in range(2500)
    ]
    return lines + calm(1500)


def dns_churn():
    lines = [udp("10.0.0.7", "10.0.0.53", 1024 + n, 53, replied=n % 2 > 0) for n in range(3000)]
    return lines + calm(880)


def unreplied():
    lines = [
        udp(host(n % 900, "10.0"), "192.0.2.14", 1024 + n, 514, replied=False) for n in range(3000)
    ]
    return lines + calm(880)


def dead_backend():
    lines = [tcp("SYN_SENT", host(n % 900), "10.9.0.80", 1024 + n, 8080) for n in range(3000)]
    return lines + calm(880)


def udp_flood():
    lines = [udp("203.0.113.9", "198.51.100.1", 1024 + n, 9999, replied=False) for n in range(3000)]
    return lines + calm(880)


def icmp_flood():
    lines = [icmp(host(n, "198.18"), "198.51.100.1", n) for n in range(3000)]
    return lines + calm(880)


def nat_range():
    out = "203.0.113.1"
    lines = [
        tcp("ESTABLISHED", host(n % 200, "10.0"), "192.0.2.14", 32768 + n, 443, LONG, nat=out)
        for n in range(950)
    ]
    ports = [20000, 20999, *range(20001, 20949)]
    return [
        line.replace(f"dst={out} sport=443 dport={32768 + n}", f"dst={out} sport=443 dport={port}")
        for n, (line, port) in enumerate(zip(lines, ports))
    ]


def nat_ports():
    out = "203.0.113.1"
    return [
        tcp("ESTABLISHED", host(n % 200, "10.0"), "192.0.2.14", 1024 + n, 443, LONG, nat=out)
        for n in range(53000)
    ]


def one_source():
    lines = [
        tcp("ESTABLISHED", "10.0.0.66", host(n), 1024 + n, 443, LONG, nat="203.0.113.1")
        for n in range(3000)
    ]
    return lines + nat_gateway()[:1500]


HEALTHY = {
    "a busy web server": web_server,
    "a NAT gateway": nat_gateway,
    "a resolver": resolver,
    "a Kubernetes node": kubernetes_node,
}
CAUSES = {
    "syn flood": (
        syn_flood,
        "SYN flood on 198.51.100.1 tcp/443 from 203.0.113.9 (71% half open)",
    ),
    "scan": (scan, "scan of 198.51.0.0/16 from 203.0.113.9 (77% SYN_SENT)"),
    "time_wait": (
        time_wait,
        "83% of entries in TIME_WAIT to tcp/5432, 75% from 10.0.0.0/24, 75% to 10.9.9.9",
    ),
    "close_wait": (
        close_wait,
        "leaked connections: 38% of entries in CLOSE_WAIT, of these 100% to 10.9.9.9 tcp/8080",
    ),
    "idle": (idle, "leaked connections: 62% idle for hours, of these 100% to 10.9.9.9 tcp/3306"),
    "dns": (dns_churn, "DNS churn: 77% to port 53, 77% from 10.0.0.7, 77% to 10.0.0.53 udp/53"),
    "unreplied": (
        unreplied,
        "one-way messages from many sources to 192.0.2.14 udp/514 (77% unreplied UDP)",
    ),
    "dead backend": (
        dead_backend,
        "10.9.0.80 tcp/8080 does not answer many sources (77% SYN_SENT)",
    ),
    "udp flood": (
        udp_flood,
        "UDP flood on 198.51.100.1 udp/9999 from 203.0.113.9 (77% unreplied)",
    ),
    "icmp flood": (
        icmp_flood,
        "ICMP flood on 198.51.100.1 from many sources (77% unreplied)",
    ),
    "nat ports": (
        nat_ports,
        "source-NAT ports run out: 203.0.113.1 to 192.0.2.14 tcp/443 takes 53000 of 64512 ports",
    ),
    "nat range": (
        nat_range,
        "source-NAT ports run out: 203.0.113.1 to 192.0.2.14 tcp/443 takes 950 of 1000 ports (2",
    ),
    "source": (one_source, "one source dominates, 67% from 10.0.0.66"),
}


def listing(lines):
    return "".join(line + "\n" for line in lines).encode()
