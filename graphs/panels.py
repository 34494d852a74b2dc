"""The graphs as values, read from panels.ini, which describes its own form."""

from __future__ import annotations

import configparser
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600

CHECKS = ("usage", "full", "table")
# Seconds between two runs, as icinga2/ and nrpe/ schedule them; a test compares.
INTERVALS = {"usage": 60, "full": 300, "table": 300}
COLOURS = {
    "blue": "#1a7dd7",
    "green": "#44bb77",
    "orange": "#ffaa44",
    "red": "#ff5566",
    "grey": "#8a94a6",
    "violet": "#8855cc",
    "teal": "#22a6a6",
    "brown": "#a0714f",
    "pink": "#e377c2",
}
STYLES = ("line", "area", "stack", "dash")
KEEP = ("max", "min", "avg", "rate")
SCALES = ("linear", "log")
UNITS = ("percent", "count", "ratio", "seconds", "hours", "entries/s", "packets/s")
KEYS = {"title", "text", "unit", "labels", "thresholds", "keep", "gaps", "ceiling", "scale"}
KEYS |= {"signed"}
LEFT_OUT = "left out"


class Curve(NamedTuple):
    """One curve of a graph.

    label: the label of the check. name: its name in the legend. color: as #rrggbb. style: one of
    STYLES. field: what Icinga's writers send of a label (value, warn or crit).
    """

    label: str
    name: str
    color: str
    style: str
    field: str = "value"


class Panel(NamedTuple):
    """One graph: the attributes are those that panels.ini describes."""

    check: str
    key: str
    namespaced: bool
    title: str
    text: str
    unit: str
    curves: tuple[Curve, ...]
    keep: str
    gaps: bool
    ceiling: float | None
    log: bool
    signed: bool

    @property
    def style(self) -> str:
        """Return the style of the first curve: that of all, if they are stacked."""
        return self.curves[0].style

    @property
    def highest(self) -> float | None:
        """Return the ceiling in the unit of the label, which has seconds for hours."""
        if self.ceiling is None or self.unit != "hours":
            return self.ceiling
        return self.ceiling * HOUR


class Graphs(NamedTuple):
    """All graphs in their order, and the reasons for labels that none draws, by check and label."""

    panels: tuple[Panel, ...]
    left_out: dict[tuple[str, str], str]


def read(path: Path) -> Graphs:
    """Return the graphs of a file; raise ValueError where it does not follow its form."""
    file = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    file.read_string(path.read_text(encoding="utf-8"))
    left_out = {}
    for names, reason in file[LEFT_OUT].items():
        check, label = names.split()
        left_out[check, label] = reason
    panels = tuple(_panel(file[name]) for name in file.sections() if name != LEFT_OUT)
    kept: dict[str, str] = {}
    for panel in panels:
        for curve in panel.curves:
            if kept.setdefault(curve.label, panel.keep) != panel.keep:
                raise ValueError(f"{curve.label}: kept both as {kept[curve.label]}, {panel.keep}")
    return Graphs(panels, left_out)


def _panel(section: configparser.SectionProxy) -> Panel:
    check, *rest = section.name.split()
    namespaced = rest[:-1] == ["namespace"]
    curves = [_curve(line) for line in section["labels"].strip().splitlines()]
    bounded = section.get("thresholds")
    if bounded:
        curves.append(Curve(bounded, "warning", COLOURS["orange"], "dash", "warn"))
        curves.append(Curve(bounded, "critical", COLOURS["red"], "dash", "crit"))
    ceiling = section.get("ceiling")
    panel = Panel(
        check,
        rest[-1],
        namespaced,
        section["title"],
        section["text"],
        section["unit"],
        tuple(curves),
        section.get("keep", "max"),
        section.getboolean("gaps", False),
        float(ceiling) if ceiling else None,
        section.get("scale", "linear") == "log",
        section.getboolean("signed", False),
    )
    _examine(panel, section)
    return panel


def _curve(line: str) -> Curve:
    label, colour, style, name = line.split(None, 3)
    return Curve(label, name, COLOURS[colour], style)


def _examine(panel: Panel, section: configparser.SectionProxy) -> None:
    styles = [curve.style for curve in panel.curves]
    for right, what in (
        (panel.check in CHECKS, "the check"),
        (set(section) <= KEYS, "an unknown key"),
        (panel.unit in UNITS, "the unit"),
        (panel.keep in KEEP, "keep"),
        (section.get("scale", "linear") in SCALES, "the scale"),
        (set(styles) <= set(STYLES), "a style"),
        ("area" not in styles[1:], "an area that is not the first label"),
        (set(styles) == {"stack"} or "stack" not in styles, "a stack of some labels only"),
        ((panel.keep == "rate") == (panel.unit == "packets/s"), "a rate in another unit"),
    ):
        if not right:
            raise ValueError(f"[{section.name}]: {what}")
