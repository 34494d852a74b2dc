#!/usr/bin/env python3
"""Writes the graphs from one description: templates for Icinga Web's Graphite module, dashboards.

A panel says which labels of which check it draws, and how. From it come a template for
icingaweb2-module-graphite, and a panel of the Grafana dashboard for Graphite and for InfluxDB (both
as Icinga 2's own writers fill them). Run it after a change here; a test compares what it writes
with the files beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
CHECKS = ("usage", "full", "table")
WIDTH, HEIGHT = 12, 8  # of a panel, in Grafana's grid of 24 columns
BLUE, GREEN, ORANGE, RED, GREY = "#1a7dd7", "#44bb77", "#ffaa44", "#ff5566", "#8a94a6"
VIOLET, TEAL, BROWN, PINK = "#8855cc", "#22a6a6", "#a0714f", "#e377c2"


class Curve(NamedTuple):
    """A line: `field` of a label is what Icinga's writers send of it (value, warn, crit, max)."""

    label: str
    name: str
    color: str
    field: str = "value"

    @property
    def dashed(self) -> bool:
        """Whether it is a bound, not a figure."""
        return self.field in ("warn", "crit")


class Panel(NamedTuple):
    """What is drawn together. `unit` is Grafana's word for it.

    `rate`: the labels are counters that only rise, drawn per second. `factor` is for Icinga Web
    alone, whose graphs know no units of time.
    """

    check: str
    key: str
    title: str
    unit: str
    curves: tuple[Curve, ...]
    text: str
    stacked: bool = False
    rate: bool = False
    factor: float = 1
    factor_unit: str = ""
    most: float | None = None


def bounds(label: str) -> tuple[Curve, Curve]:
    """The thresholds of a label; they are there with enable_send_thresholds."""
    return Curve(label, "warning", ORANGE, "warn"), Curve(label, "critical", RED, "crit")


PANELS = (
    Panel(
        "usage",
        "usage",
        "Usage",
        "percent",
        (Curve("usage", "usage", BLUE), *bounds("usage")),
        "Entries of the limit. At 100 % new connections are dropped.",
    ),
    Panel(
        "usage",
        "entries",
        "Entries and limit",
        "short",
        (Curve("entries", "entries", BLUE), Curve("limit", "limit", RED)),
        "A step in the limit is a sysctl, or kube-proxy.",
    ),
    Panel(
        "usage",
        "growth",
        "Growth",
        "cps",
        (Curve("growth", "growth", BLUE),),
        "The slope over the trend window of the check, an hour by default.",
    ),
    Panel(
        "usage",
        "time_to_full",
        "Time to full",
        "s",
        (Curve("time_to_full", "time to full", BLUE),),
        "At that growth. Drawn only while the table grows and would be full within 30 days.",
        factor=1 / 3600,
        factor_unit="hours",
    ),
    Panel(
        "usage",
        "hash",
        "Entries per hash bucket",
        "short",
        (Curve("load_factor", "entries per bucket", BLUE),),
        "Each entry stands in the hash twice. Long chains cost time, and in the end refusals.",
    ),
    Panel(
        "full",
        "messages",
        "Kernel messages in the window",
        "short",
        (
            Curve("table_full", "table full", RED),
            Curve("other_loss", "other loss", ORANGE),
        ),
        "The kernel prints ten lines in 5 s at most.",
    ),
    Panel(
        "full",
        "suppressed",
        "Suppressed messages in the window, up to",
        "short",
        (Curve("suppressed", "suppressed", GREY),),
        "What the kernel's rate limit swallowed, of all networking.",
    ),
    Panel(
        "full",
        "loss",
        "Losses in the window",
        "short",
        (
            Curve("full_drops", "full drops", RED),
            Curve("early_drops", "early drops", ORANGE),
            Curve("insert_failures", "insert failures", BLUE),
            Curve("chain_overflows", "chain overflows", VIOLET),
        ),
        "How far the counters rose in the window of the check, 15 minutes by default.",
    ),
    Panel(
        "full",
        "drops",
        "Drops and early drops",
        "pps",
        (Curve("drop_total", "drop", RED), Curve("early_drop_total", "early_drop", ORANGE)),
        "Per second, from the kernel's counters. early_drop rises before drop does.",
        rate=True,
    ),
    Panel(
        "full",
        "inserts",
        "Refused and resolved inserts",
        "pps",
        (
            Curve("insert_failed_total", "insert_failed", BLUE),
            Curve("chaintoolong_total", "chaintoolong", VIOLET),
            Curve("clash_resolve_total", "clash_resolve", GREEN),
        ),
        "Per second, from the kernel's counters.",
        rate=True,
    ),
    Panel(
        "full",
        "invalid",
        "Invalid packets and restarted look-ups",
        "pps",
        (
            Curve("invalid_total", "invalid", ORANGE),
            Curve("search_restart_total", "search_restart", GREY),
        ),
        "Per second, from the kernel's counters.",
        rate=True,
    ),
    Panel(
        "table",
        "usage",
        "Usage, and what is protected",
        "percent",
        (
            Curve("usage", "usage", BLUE),
            Curve("protected_usage", "protected", VIOLET),
            *bounds("usage"),
        ),
        "Protected entries are freed for nobody. When these alone near 100 %, nothing gives way.",
    ),
    Panel(
        "table",
        "states",
        "TCP by state",
        "short",
        (
            Curve("tcp_established", "ESTABLISHED", GREEN),
            Curve("tcp_time_wait", "TIME_WAIT", BLUE),
            Curve("tcp_syn_sent", "SYN_SENT", RED),
            Curve("tcp_syn_recv", "SYN_RECV", ORANGE),
            Curve("tcp_fin_wait", "FIN_WAIT", TEAL),
            Curve("tcp_close_wait", "CLOSE_WAIT", VIOLET),
            Curve("tcp_last_ack", "LAST_ACK", PINK),
            Curve("tcp_close", "CLOSE", BROWN),
            Curve("tcp_other", "other", GREY),
        ),
        "Stacked.",
        stacked=True,
    ),
    Panel(
        "table",
        "protocols",
        "Entries by protocol",
        "short",
        (
            Curve("tcp", "TCP", BLUE),
            Curve("udp", "UDP", GREEN),
            Curve("icmp", "ICMP", ORANGE),
            Curve("icmpv6", "ICMPv6", BROWN),
            Curve("sctp", "SCTP", VIOLET),
            Curve("gre", "GRE", TEAL),
            Curve("other", "other", GREY),
        ),
        "Stacked.",
        stacked=True,
    ),
    Panel(
        "table",
        "families",
        "Entries by family",
        "short",
        (Curve("ipv4", "IPv4", BLUE), Curve("ipv6", "IPv6", GREEN)),
        "Stacked.",
        stacked=True,
    ),
    Panel(
        "table",
        "kinds",
        "Entries by what they are",
        "short",
        (
            Curve("entries", "entries", BLUE),
            Curve("assured", "assured", GREEN),
            Curve("protected", "protected", VIOLET),
            Curve("unreplied", "unreplied", RED),
            Curve("nat", "translated", ORANGE),
            Curve("offloaded", "offloaded", TEAL),
            Curve("expected", "expected", GREY),
        ),
        "An entry may be several of these.",
    ),
    Panel(
        "table",
        "shares",
        "Top shares",
        "percent",
        (
            Curve("top_source_share", "largest source", BLUE),
            Curve("top_destination_share", "largest destination", ORANGE),
            Curve("top_service_share", "largest service", GREEN),
        ),
        "Share of all entries.",
        most=100,
    ),
    Panel(
        "table",
        "nat",
        "Source-NAT ports of the fullest pool",
        "percent",
        (Curve("snat_port_usage", "ports in use", BLUE), *bounds("snat_port_usage")),
        "Of 64512 ports. When they end, connections are dropped and nothing is logged.",
    ),
)
# Of further namespaces (`--netns`), whose labels read NAMESPACE::LABEL.
NAMESPACED = (
    Panel(
        "usage",
        "namespace-usage",
        "Usage",
        "percent",
        (Curve("usage", "usage", BLUE), *bounds("usage")),
        "Each namespace has its own count against the same limit.",
    ),
    Panel(
        "usage",
        "namespace-entries",
        "Entries",
        "short",
        (Curve("entries", "entries", BLUE),),
        "",
    ),
    Panel(
        "usage",
        "namespace-time_to_full",
        "Time to full",
        "s",
        (Curve("time_to_full", "time to full", BLUE),),
        "Drawn only while the table grows and would be full within 30 days.",
        factor=1 / 3600,
        factor_unit="hours",
    ),
    Panel(
        "full",
        "namespace-loss",
        "Messages and full drops in the window",
        "short",
        (Curve("table_full", "table full", RED), Curve("full_drops", "full drops", ORANGE)),
        "",
    ),
    Panel(
        "full",
        "namespace-drops",
        "Drops and early drops",
        "pps",
        (Curve("drop_total", "drop", RED), Curve("early_drop_total", "early_drop", ORANGE)),
        "Per second, from the kernel's counters.",
        rate=True,
    ),
    Panel(
        "table",
        "namespace-usage",
        "Usage, as the table check sees it",
        "percent",
        (Curve("usage", "usage", BLUE),),
        "",
    ),
    Panel(
        "table",
        "namespace-entries",
        "Entries, as the table check sees them",
        "short",
        (Curve("entries", "entries", BLUE),),
        "",
    ),
    Panel(
        "table",
        "namespace-nat",
        "Source-NAT ports of the fullest pool",
        "percent",
        (Curve("snat_port_usage", "ports in use", BLUE), *bounds("snat_port_usage")),
        "",
    ),
)


# --- Graphite's functions


def per_second(metric: str) -> str:
    """What a counter rose a second between two runs.

    perSecond alone shows nothing where runs are farther apart than the points that are kept.
    """
    return f"perSecond(interpolate({metric}))"


# --- Icinga Web's Graphite module


def template(panel: Panel, *, namespaced: bool) -> str:
    """A template for icingaweb2-module-graphite: four sections of an INI file."""
    name = f"conntrack_{panel.check}-{panel.key}"
    folder = "$service_name_template$.perfdata." + ("$namespace$." if namespaced else "")
    title = panel.title + (" of $namespace$" if namespaced else "")
    unit = panel.factor_unit or {
        "percent": "%",
        "pps": "per second",
        "cps": "entries per second",
    }.get(panel.unit, "")
    figures = [curve for curve in panel.curves if not curve.dashed]
    area = "stacked" if panel.stacked else "first" if len(figures) == 1 else "none"
    parameters = {
        "title": f"{title} ({unit})" if unit else title,
        "areaMode": area,
        "areaAlpha": "0.5",
        **({} if panel.key == "growth" else {"min": "0"}),
        **({"max": f"{panel.most:g}"} if panel.most else {}),
        "lineWidth": "2",
        "yUnitSystem": "si" if panel.unit == "short" else "none",
    }
    filters, functions = [], []
    for curve in panel.curves:
        key = f"{curve.label}.{curve.field}"
        filters.append(f'{key} = "{folder}{key}"')
        metric = per_second("$metric$") if panel.rate else "$metric$"
        if panel.factor != 1:
            metric = f"scale({metric}, {panel.factor:.9f})"
        if curve.dashed:
            metric = f"dashed({metric})"
        functions.append(f"{key} = \"alias(color({metric}, '{curve.color}'), '{curve.name}')\"")
    return "\n".join(
        (
            f"[{name}.graph]",
            f'check_command = "conntrack_{panel.check}"',
            "",
            f"[{name}.metrics_filters]",
            *filters,
            "",
            f"[{name}.urlparams]",
            *(f'{key} = "{value}"' for key, value in parameters.items()),
            "",
            f"[{name}.functions]",
            *functions,
            "",
        )
    )


def templates(check: str) -> str:
    """The INI file of a check."""
    parts = [template(panel, namespaced=False) for panel in PANELS if panel.check == check]
    parts += [template(panel, namespaced=True) for panel in NAMESPACED if panel.check == check]
    return "\n\n".join(parts)


# --- Grafana


def graphite_query(panel: Panel, curve: Curve, *, namespaced: bool) -> dict[str, Any]:
    """A query of Grafana's Graphite data source, for what Icinga's GraphiteWriter files."""
    folder = f"icinga2.$host.services.${panel.check}.*.perfdata."
    metric = folder + ("$namespace." if namespaced else "") + f"{curve.label}.{curve.field}"
    if panel.rate:
        metric = per_second(metric)
    # The sixth level below icinga2 is the namespace, the one after it the label.
    named = f"aliasByNode({metric}, 6, 7)" if namespaced else f"alias({metric}, '{curve.name}')"
    return {"target": named, "textEditor": True}


def measurement(check: str) -> str:
    """The measurements a check's figures are in; NRPE and SSH have their own command's name."""
    return f"/^(conntrack_{check}|nrpe|by_ssh)$/"


def influxdb_query(panel: Panel, curve: Curve, *, namespaced: bool) -> dict[str, Any]:
    """A query of Grafana's InfluxDB data source in InfluxQL, for Icinga's InfluxdbWriter."""
    # Where a point stands for several runs, the worst one counts.
    figure = f'{"min" if curve.label == "time_to_full" else "max"}("{curve.field}")'
    if panel.rate:
        figure = f'non_negative_derivative(last("{curve.field}"), 1s)'
    metric = f"=~ /^${{namespace:regex}}::{curve.label}$/" if namespaced else f"= '{curve.label}'"
    select = (
        f"SELECT {figure}",
        f"FROM {measurement(panel.check)}",
        f"WHERE \"hostname\" = '$host' AND \"service\" = '${panel.check}'",
        f'AND "metric" {metric} AND $timeFilter',
        "GROUP BY time($__interval)" + (', "metric"' if namespaced else ""),
        "fill(none)",
    )
    return {
        "query": " ".join(select),
        "rawQuery": True,
        "resultFormat": "time_series",
        "alias": "$tag_metric" if namespaced else curve.name,
    }


QUERIES = {"graphite": graphite_query, "influxdb": influxdb_query}


def choices(kind: str) -> dict[str, tuple[str, str]]:
    """The queries behind the dashboard's variables, each with what is taken of an answer."""
    if kind == "graphite":
        # Only expand() gives whole paths, of which the expression takes a part.
        services = {check: f"icinga2.$host.services.conntrack-{check}*" for check in CHECKS}
        host = "expand(icinga2.*.services.conntrack-usage*)"
        namespace = "expand(icinga2.$host.services.*.*.perfdata.*.{usage,table_full}.value)"
        parts = (r"/^icinga2\.([^.]+)\./", r"/\.perfdata\.([^.]+)\.[^.]+\.value$/")
    else:
        host = tag_values("usage", "hostname", '"service" =~ /^conntrack-usage/')
        here = "\"hostname\" = '$host' AND"
        services = {
            check: tag_values(check, "service", f'{here} "service" =~ /^conntrack-{check}/')
            for check in CHECKS
        }
        metric = f'{here} "service" =~ /^conntrack-/ AND "metric" =~ /::/'
        namespace = f'SHOW TAG VALUES WITH KEY = "metric" WHERE {metric}'
        parts = ("", "/^(.*)::/")
    return {
        "host": (host, parts[0]),
        **{check: (query, "") for check, query in services.items()},
        "namespace": (namespace, parts[1]),
    }


def tag_values(check: str, key: str, where: str) -> str:
    """InfluxQL for the values of a tag of a check's series."""
    return f'SHOW TAG VALUES FROM {measurement(check)} WITH KEY = "{key}" WHERE {where}'


# What "All" stands for in a path, and in a regular expression.
ALL = {
    kind: {"allValue": every, "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    for kind, every in (("graphite", "*"), ("influxdb", ".*"))
}


def variables(kind: str) -> list[dict[str, Any]]:
    """What is chosen at the top of the dashboard: data source, host, services, namespaces."""
    labels = {"host": "Host", "namespace": "Namespaces"}
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": kind}
    ]
    for name, (query, regex) in choices(kind).items():
        several = name == "namespace"
        found.append(
            {
                "name": name,
                "label": labels.get(name, f"Service ({name})"),
                "type": "query",
                "datasource": {"type": kind, "uid": "${datasource}"},
                "query": query,
                "regex": regex,
                "refresh": 2,
                "sort": 1,
                "multi": several,
                "includeAll": several,
                **(ALL[kind] if several else {}),
            }
        )
    return found


def panel_json(kind: str, panel: Panel, at: tuple[int, int], *, namespaced: bool) -> dict[str, Any]:
    """A panel of type timeseries, at a column and a line of the grid."""
    source = {"type": kind, "uid": "${datasource}"}
    curves = [curve for curve in panel.curves if not (namespaced and curve.dashed)]
    overrides = []
    for curve in () if namespaced else curves:
        properties: list[dict[str, Any]] = [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": curve.color}}
        ]
        if curve.dashed:
            style = {"fill": "dash", "dash": [10, 10]}
            properties += [
                {"id": "custom.lineStyle", "value": style},
                {"id": "custom.fillOpacity", "value": 0},
            ]
        matcher = {"id": "byName", "options": curve.name}
        overrides.append({"matcher": matcher, "properties": properties})
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 10,
        "showPoints": "auto",
        # Runs are minutes apart; a gap longer than an hour is one.
        "spanNulls": 3600000,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom}
    if panel.key != "growth":
        defaults["min"] = 0
    if panel.most:
        defaults["max"] = panel.most
    column, line = at
    return {
        "type": "timeseries",
        "title": panel.title + (" by namespace" if namespaced else ""),
        "description": panel.text,
        "datasource": source,
        "gridPos": {"x": column, "y": line, "w": WIDTH, "h": HEIGHT},
        "interval": "1m",
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": source,
                **QUERIES[kind](panel, curve, namespaced=namespaced),
            }
            for number, curve in enumerate(curves)
        ],
    }


def dashboard(kind: str) -> dict[str, Any]:
    """The dashboard for a kind of data source, "graphite" or "influxdb"."""
    groups = [
        (title, [(panel, False) for panel in PANELS if panel.check == check])
        for check, title in zip(CHECKS, ("How full is it?", "Has it been full?", "What fills it?"))
    ]
    groups.append(("Network namespaces", [(panel, True) for panel in NAMESPACED]))
    panels: list[dict[str, Any]] = []
    line = 0
    for title, members in groups:
        place = {"x": 0, "y": line, "w": 24, "h": 1}
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": place})
        panels[-1]["panels"] = []
        line += 1
        for number, (panel, namespaced) in enumerate(members):
            at = (WIDTH * (number % 2), line + HEIGHT * (number // 2))
            panels.append(panel_json(kind, panel, at, namespaced=namespaced))
        line += HEIGHT * -(-len(members) // 2)
    for number, each in enumerate(panels, 1):
        each["id"] = number
    name = {"graphite": "Graphite", "influxdb": "InfluxDB"}[kind]
    return {
        "title": f"Connection tracking ({name})",
        "uid": f"check-conntrack-{kind}",
        "description": "The Linux connection-tracking table, as check_conntrack_usage, "
        "check_conntrack_full and check_conntrack_table see it.",
        "tags": ["conntrack", "icinga"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables(kind)},
        "panels": panels,
    }


def files() -> dict[str, str]:
    """All that is written, by its path below this folder."""
    written = {f"icingaweb2/conntrack_{check}.ini": templates(check) for check in CHECKS}
    for kind in QUERIES:
        text = json.dumps(dashboard(kind), indent=2)
        written[f"grafana/conntrack-{kind}.json"] = text + "\n"
    return written


def main() -> int:
    """Write them."""
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
