"""Dashboards for Grafana, one for each kind of data source: graphite and influxdb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphite_functions import drawn
from panels import CHECKS, INTERVALS

if TYPE_CHECKING:
    from panels import Curve, Graphs, Panel

KINDS = {"graphite": "Graphite", "influxdb": "InfluxDB"}
# The oldest Grafana against whose types the dashboards are checked.
OLDEST = "10.0.0"
WIDTH, HEIGHT = 12, 8  # of a panel, in Grafana's grid of 24 columns
UNITS = {
    "percent": "percent",
    "count": "short",
    "ratio": "short",
    "seconds": "s",
    "hours": "s",
    "entries/s": "cps",
    "packets/s": "pps",
}
FILL = {"line": 0, "area": 15, "stack": 50, "dash": 0}
TITLES = ("How full is it?", "Has it been full?", "What fills it?")


# --- queries


def _graphite_query(panel: Panel, curve: Curve) -> dict[str, Any]:
    """Return the query of a curve for what Icinga's GraphiteWriter writes."""
    folder = f"icinga2.$host.services.${panel.check}.*.perfdata."
    namespace = "$namespace." if panel.namespaced else ""
    metric = drawn(panel, curve, f"{folder}{namespace}{curve.label}.{curve.field}")
    # The sixth level below icinga2 is the namespace, the one after it the label.
    named = (
        f"aliasByNode({metric}, 6, 7)" if panel.namespaced else f"alias({metric}, '{curve.name}')"
    )
    return {"target": named, "textEditor": True}


def _influxdb_query(panel: Panel, curve: Curve) -> dict[str, Any]:
    """Return the same in InfluxQL, for Icinga's InfluxdbWriter."""
    figure = f'{ {"avg": "mean"}.get(panel.keep, panel.keep) }("{curve.field}")'
    if panel.keep == "rate":
        figure = f'non_negative_derivative(last("{curve.field}"), 1s)'
    label = curve.label
    metric = f"=~ /^${{namespace:regex}}::{label}$/" if panel.namespaced else f"= '{label}'"
    bounded = f'AND "{curve.field}" <= {panel.highest:g} ' if panel.highest is not None else ""
    select = (
        f"SELECT {figure}",
        f"FROM {_measurement(panel.check)}",
        f"WHERE \"hostname\" = '$host' AND \"service\" = '${panel.check}'",
        f'AND "metric" {metric} {bounded}AND $timeFilter',
        "GROUP BY time($__interval)" + (', "metric"' if panel.namespaced else ""),
        "fill(null)",
    )
    return {
        "query": " ".join(select),
        "rawQuery": True,
        "resultFormat": "time_series",
        "alias": "$tag_metric" if panel.namespaced else curve.name,
    }


def _measurement(check: str) -> str:
    """Return the measurements of a check's figures: its command's name, or that of NRPE or SSH."""
    return f"/^(conntrack_{check}|nrpe|by_ssh)$/"


QUERIES = {"graphite": _graphite_query, "influxdb": _influxdb_query}


# --- variables


def _choices(kind: str) -> dict[str, tuple[str, str]]:
    """Return the queries behind the dashboard's variables, each with what is taken of an answer."""
    if kind == "graphite":
        # Only expand() gives whole paths, of which the expression takes a part.
        services = {check: f"icinga2.$host.services.conntrack-{check}*" for check in CHECKS}
        host = "expand(icinga2.*.services.conntrack-usage*)"
        namespace = "expand(icinga2.$host.services.*.*.perfdata.*.{usage,table_full}.value)"
        parts = (r"/^icinga2\.([^.]+)\./", r"/\.perfdata\.([^.]+)\.[^.]+\.value$/")
    else:
        host = _tag_values("usage", "hostname", '"service" =~ /^conntrack-usage/')
        here = "\"hostname\" = '$host' AND"
        services = {
            check: _tag_values(check, "service", f'{here} "service" =~ /^conntrack-{check}/')
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


def _tag_values(check: str, key: str, where: str) -> str:
    return f'SHOW TAG VALUES FROM {_measurement(check)} WITH KEY = "{key}" WHERE {where}'


# What "All" stands for in a path, and in a regular expression.
ALL = {
    kind: {"allValue": every, "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    for kind, every in (("graphite", "*"), ("influxdb", ".*"))
}


def _variables(kind: str) -> list[dict[str, Any]]:
    """Return the variables at the top of the dashboard: data source, host, services, namespaces."""
    labels = {"host": "Host", "namespace": "Namespaces"}
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": kind}
    ]
    for name, (query, regex) in _choices(kind).items():
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


# --- panels


def _panel(kind: str, panel: Panel, at: tuple[int, int]) -> dict[str, Any]:
    """Return a panel of type timeseries, at a column and a line of the grid."""
    source = {"type": kind, "uid": "${datasource}"}
    # The thresholds of each of many namespaces would hide the curves.
    curves = [curve for curve in panel.curves if not (panel.namespaced and curve.style == "dash")]
    column, line = at
    interval, joined = _resolution(kind, panel)
    return {
        "type": "timeseries",
        "title": panel.title + (" by namespace" if panel.namespaced else ""),
        "description": panel.text,
        "datasource": source,
        "gridPos": {"x": column, "y": line, "w": WIDTH, "h": HEIGHT},
        "interval": f"{interval // 60}m",
        "fieldConfig": {
            "defaults": _defaults(panel, joined),
            "overrides": [] if panel.namespaced else [_override(curve) for curve in curves],
        },
        "options": {
            "legend": {
                "calcs": [],
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": source,
                **QUERIES[kind](panel, curve),
            }
            for number, curve in enumerate(curves)
        ],
    }


def _resolution(kind: str, panel: Panel) -> tuple[int, int]:
    """Return the shortest interval between points, and the longest gap to join, in seconds.

    Graphite's own functions join runs. In InfluxDB two intervals of the check always hold a run, as
    a stack and a label that is not always known need it: an empty point within a stack is drawn as
    zero, and joining would show what was not there. All others have a point for each run, and are
    joined over one that was late.
    """
    every = INTERVALS[panel.check]
    if kind == "graphite":
        return every, 0
    if panel.gaps or panel.style == "stack":
        return 2 * every, 0
    return every, 2 * every + 60


def _defaults(panel: Panel, joined: int) -> dict[str, Any]:
    stack = panel.style == "stack"
    # Below a minute a table is as good as full; of what is counted one is the least.
    least = 60 if panel.unit == "hours" else 1
    scale: dict[str, Any] = {"type": "linear"}
    if panel.log:
        scale = {"type": "symlog", "log": 10, "linearThreshold": least}
    found: dict[str, Any] = {
        "unit": UNITS[panel.unit],
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": FILL["stack"] if stack else 0,
            "showPoints": "auto",
            "spanNulls": joined * 1000 or False,
            "scaleDistribution": scale,
            "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        },
    }
    if not panel.signed:
        found["min"] = 0
    if panel.highest is not None:
        found["max"] = panel.highest
    return found


def _override(curve: Curve) -> dict[str, Any]:
    properties: list[dict[str, Any]] = [
        {"id": "color", "value": {"mode": "fixed", "fixedColor": curve.color}}
    ]
    if curve.style == "dash":
        properties.append({"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}})
    if curve.style == "area":
        properties.append({"id": "custom.fillOpacity", "value": FILL["area"]})
    return {"matcher": {"id": "byName", "options": curve.name}, "properties": properties}


# --- the dashboard


def dashboard(graphs: Graphs, kind: str) -> dict[str, Any]:
    """Return the dashboard for a kind of data source."""
    groups = [
        (title, [panel for panel in graphs.panels if panel.check == check and not panel.namespaced])
        for check, title in zip(CHECKS, TITLES)
    ]
    groups.append(("Network namespaces", [panel for panel in graphs.panels if panel.namespaced]))
    panels: list[dict[str, Any]] = []
    line = 0
    for title, members in groups:
        place = {"x": 0, "y": line, "w": 24, "h": 1}
        row = {"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        panels.append(row)
        line += 1
        for number, panel in enumerate(members):
            at = (WIDTH * (number % 2), line + HEIGHT * (number // 2))
            panels.append(_panel(kind, panel, at))
        line += HEIGHT * -(-len(members) // 2)
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": OLDEST},
            {"type": "datasource", "id": kind, "name": KINDS[kind], "version": "1.0.0"},
            {"type": "panel", "id": "timeseries", "name": "Time series", "version": ""},
        ],
        "title": f"Connection tracking ({KINDS[kind]})",
        "uid": f"check-conntrack-{kind}",
        "description": "The Linux connection-tracking table, as check_conntrack_usage, "
        "check_conntrack_full and check_conntrack_table see it.",
        "tags": ["conntrack", "icinga"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables(kind)},
        "panels": panels,
    }
