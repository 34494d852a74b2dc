#!/usr/bin/env python3
"""Draws every template with graphite-web, as Icinga Web shows it: `make graphs`, build/graphs/.

The data is made up: a gateway whose table fills for an hour until packets are dropped, and which
somebody then relieves. Runs as anybody; takes the Debian packages graphite-carbon, graphite-web.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "plugins")]

from check_conntrack.full import full_check  # noqa: E402
from check_conntrack.table import table_check  # noqa: E402
from check_conntrack.usage import usage_check  # noqa: E402
from support.graph_stores import Graphite, folder, templates, until  # noqa: E402

LIMIT = 262144
HOURS, STEP = 6, 60
# Minutes between two runs, as the services are shipped.
EVERY = {"usage": 1, "full": 5, "table": 5}
HOST = "gateway"
WHEN_KNOWN = ("lifetime", "time_to_full")
PREFIX = "icinga2." + HOST + ".services.conntrack-{0}.conntrack_{0}"
# Shares of the entries, in percent, before the incident and at its height.
SHARES = {
    "tcp": (80, 92), "udp": (18, 7), "icmp": (2, 1), "assured": (75, 35), "unreplied": (8, 60),
    "protected": (70, 32), "nat": (85, 95), "ipv4": (97, 99), "ipv6": (3, 1),
    "tcp_established": (50, 20), "tcp_time_wait": (20, 8), "tcp_syn_sent": (3, 55),
    "top_source_entries": (6, 58), "top_destination_entries": (9, 12), "stale": (0, 1),
    "tcp_syn_recv": (1, 5), "tcp_fin_wait": (3, 2), "tcp_close_wait": (2, 1), "tcp_close": (1, 1),
}  # fmt: skip
TOPS = {
    "top_source_share": (6, 58), "top_destination_share": (9, 12), "top_service_share": (45, 61),
    "snat_port_usage": (35, 84), "top_zone_share": (40, 75),
}  # fmt: skip


def fill(minute: float) -> float:
    """How far the incident has come, 0 to 1."""
    rise = (minute - 150) / 75
    fall = (minute - 270) / 20
    return max(0.0, min(1.0, rise)) - max(0.0, min(1.0, fall))


def values(minute: float) -> dict[str, float]:
    """The figures of that minute, by label."""
    height = fill(minute)
    entries = min(LIMIT, LIMIT * (0.35 + 0.03 * math.sin(minute / 30) + 0.70 * height))
    growth = (entries - LIMIT * (0.35 + 0.70 * fill(minute - 20))) / 1200
    lost = max(0.0, height - 0.9) * 900
    ending = entries / 120
    told = {
        "new_rate": ending + growth,
        "end_rate": ending,
        "settles_at": 100 * (entries + 1500 * max(0.0, growth)) / LIMIT,
        "insert_failures": 40 * height,
        "chain_overflows": 15 * height,
        "invalid_packets": 270 + 900 * height,
        "usage": 100 * entries / LIMIT,
        "entries": entries,
        "limit": LIMIT,
        "load_factor": entries / LIMIT,
        "growth": growth,
        "protected_usage": 100 * entries / LIMIT * (0.7 - 0.38 * height),
        "table_full": lost / 9,
        "suppressed": lost * 40,
        "full_drops": lost * 300,
        "early_drops": max(0.0, height - 0.8) * 40000,
        "drop_total": 20 * minute + 90000 * max(0.0, min(60, minute - 222)),
        "early_drop_total": 40000 * max(0.0, min(66, minute - 212)),
        "insert_failed_total": 30 * minute,
        "clash_resolve_total": 12 * minute,
        "invalid_total": 300 * minute,
        "instance_available": 150000 - entries / 2,
        "instance_usage": entries / 3000,
        "instance_refused": lost * 40,
        "linklocal_refused": 20 * height,
    }
    if growth > 0 and (LIMIT - entries) / growth < 30 * 86400:
        told["time_to_full"] = (LIMIT - entries) / growth
    if growth < 5:
        told["lifetime"] = 120 + 5 * math.sin(minute / 50)
    for label, (before, then) in {**SHARES, **TOPS}.items():
        share = before + (then - before) * height
        told[label] = share if label in TOPS else entries * share / 100
    return told


def lines(start: int):
    """The metrics of all minutes: path, value, time."""
    bounds = {"snat_port_usage": (80, 90), "instance_usage": (80, 90)}
    bounds["instance_refused"] = (100, 1000)
    # As shipped.
    usage = {"usage": (95, 98), "table": (80, 98)}
    for minute in range(HOURS * 60):
        told = values(minute)
        for name, check in (("usage", usage_check), ("full", full_check), ("table", table_check)):
            if minute % EVERY[name]:
                continue
            own = {**bounds, "usage": usage[name]} if name in usage else bounds
            folder_ = PREFIX.format(name) + ".perfdata"
            for label in check.LABELS:
                for part in ("", "router-1.") if label.name in check.NAMESPACE_LABELS else ("",):
                    path = f"{folder_}.{part}{label.name}"
                    value = told.get(label.name, None if label.name in WHEN_KNOWN else 0)
                    if value is not None:
                        yield f"{path}.value", value, start + minute * STEP
                    for field, bound in zip(("warn", "crit"), own.get(label.name, ())):
                        yield f"{path}.{field}", bound, start + minute * STEP


def main() -> int:
    """Draw them."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    start = (int(time.time()) // 60 - HOURS * 60) * 60
    with folder() as top, Graphite(top).started() as graphite:
        graphite.send(lines(start))
        last = PREFIX.format("table") + ".perfdata.router-1.snat_port_usage.crit"
        until(lambda: graphite.newest(last), "carbon")
        for check, name, parts in templates():
            service = PREFIX.format(check)
            targets = [
                parts["functions"][curve].replace(
                    "$metric$",
                    pattern.replace("$service_name_template$", service).replace(
                        "$namespace$", "router-1"
                    ),
                )
                for curve, pattern in parts["metrics_filters"].items()
            ]
            look = {
                key: text.replace("$namespace$", "router-1")
                for key, text in parts["urlparams"].items()
            }
            picture = graphite.png(targets, **{"from": start, "width": 700, "height": 350}, **look)
            (target / f"{name}.png").write_bytes(picture)
            print(target / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
