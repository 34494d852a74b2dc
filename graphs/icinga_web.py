"""Templates for the Graphite module of Icinga Web (icingaweb2-module-graphite)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphite_functions import drawn
from panels import HOUR

if TYPE_CHECKING:
    from panels import Graphs, Panel

# What stands behind the title; its graphs have no unit on the axis.
UNITS = {
    "percent": "%",
    "hours": "hours",
    "seconds": "seconds",
    "entries/s": "entries per second",
    "packets/s": "per second",
}
# Into how many steps an axis is divided that has an end: Graphite's own steps would move it.
STEPS = {"percent": 5, "hours": 6}
AREAS = {"line": "none", "area": "first", "stack": "stacked"}


def templates(graphs: Graphs, check: str) -> str:
    """Return the INI file of a check. The module shows the first two of its graphs."""
    return "\n\n".join(_template(panel) for panel in graphs.panels if panel.check == check)


def _template(panel: Panel) -> str:
    namespaced = "namespace-" if panel.namespaced else ""
    name = f"conntrack_{panel.check}-{namespaced}{panel.key}"
    sections = {
        "graph": {"check_command": f"conntrack_{panel.check}"},
        "metrics_filters": _filters(panel),
        "urlparams": _parameters(panel),
        "functions": _functions(panel),
    }
    return "\n".join(
        "\n".join((f"[{name}.{part}]", *(f'{key} = "{text}"' for key, text in lines.items()), ""))
        for part, lines in sections.items()
    )


def _filters(panel: Panel) -> dict[str, str]:
    folder = "$service_name_template$.perfdata." + ("$namespace$." if panel.namespaced else "")
    keys = [f"{curve.label}.{curve.field}" for curve in panel.curves]
    return {key: folder + key for key in keys}


def _functions(panel: Panel) -> dict[str, str]:
    scale = 1 / HOUR if panel.unit == "hours" else 1
    found = {}
    for curve in panel.curves:
        metric = drawn(panel, curve, "$metric$", scale)
        if curve.style == "dash":
            metric = f"dashed({metric})"
        metric = f"alias(color({metric}, '{curve.color}'), '{curve.name}')"
        found[f"{curve.label}.{curve.field}"] = metric
    return found


def _parameters(panel: Panel) -> dict[str, str]:
    title = panel.title + (" of $namespace$" if panel.namespaced else "")
    found = {
        "title": f"{title} ({UNITS[panel.unit]})" if panel.unit in UNITS else title,
        "areaMode": AREAS[panel.style],
        "areaAlpha": "0.5",
        "lineWidth": "1" if panel.style == "stack" else "2",
        # The module's own mode joins points over any gap. A slope does not show a single point.
        "lineMode": "staircase" if panel.gaps else "slope",
        "yUnitSystem": "si" if panel.unit == "count" else "none",
    }
    if not panel.signed:
        found["min"] = "0"
    if panel.ceiling is not None:
        found["max"] = f"{panel.ceiling:g}"
        found["yStep"] = f"{panel.ceiling / STEPS[panel.unit]:g}"
    return found
