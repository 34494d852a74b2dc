"""Graphite's part of a graph: the functions around a metric, and how carbon aggregates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panels import INTERVALS

if TYPE_CHECKING:
    from panels import Curve, Graphs, Panel

# Points that are joined: of a check that runs every 5 minutes 4 of 5 minutes are empty, and one
# more when a run is late. Longer gaps stay: nobody measured then.
JOINED = 5

AGGREGATION = """\
# For carbon's storage-aggregation.conf, above its default: the first pattern that matches wins.
# xFilesFactor 0: of a check that runs every 5 minutes, 4 of 5 points of a minute are empty, and the
# default of 0.5 would keep nothing past the first archive.
"""
PREFIX = r"^icinga2\.[^.]+\.services\.conntrack-"
METHODS = {"max": "max", "min": "min", "avg": "average", "rate": "last"}


def drawn(panel: Panel, curve: Curve, metric: str, scale: float = 1) -> str:
    """Return the expression that draws a metric as a curve of a panel.

    perSecond alone shows nothing where runs are farther apart than the points. consolidateBy comes
    last, because most functions forget it. scale: the unit of the drawing, in units of the label.
    """
    # Where a gap says something, two runs are joined only if none was missing between them.
    joined = INTERVALS[panel.check] // 60 - 1 if panel.gaps else JOINED
    if joined:
        metric = f"interpolate({metric}, {joined})"
    if panel.keep == "rate":
        metric = f"perSecond({metric})"
    if panel.highest is not None:
        metric = f"removeAboveValue({metric}, {panel.highest:g})"
    if scale != 1:
        metric = f"scale({metric}, {scale:.9f})"
    kept = "max" if panel.keep == "rate" or curve.field != "value" else METHODS[panel.keep]
    return f"consolidateBy({metric}, '{kept}')"


def aggregation(graphs: Graphs) -> str:
    """Return the text of storage-aggregation.conf; the peak remains of what has no rule."""
    parts = [AGGREGATION]
    for keep, method in METHODS.items():
        labels = {
            curve.label
            for panel in graphs.panels
            for curve in panel.curves
            if panel.keep == keep and keep != "max"
        }
        if labels:
            pattern = rf"{PREFIX}.*\.({'|'.join(sorted(labels))})\.value$"
            parts.append(_rule(f"icinga2_conntrack_{method}", pattern, method))
    parts.append(_rule("icinga2_conntrack", PREFIX, "max"))
    return "\n".join(parts)


def _rule(name: str, pattern: str, method: str) -> str:
    return f"[{name}]\npattern = {pattern}\nxFilesFactor = 0\naggregationMethod = {method}\n"
