"""Photograph the dashboard for Graphite: Grafana's own panel draws the incident of draw_graphs.py.

There is no Grafana in Debian, so the panels are drawn by the component of @grafana/ui, which npm
installs (half a gigabyte), and photographed with Chromium. Part of `make screens`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import draw_graphs

from support.graph_stores import GRAPHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.graph_stores import Graphite

PAGE = Path(__file__).parents[1] / "grafana" / "page"
WIDTH, HEIGHT = 1360, 316  # of two panels side by side
POINTS = 640  # at most: a panel's width
HTML = """\
<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="board.css">
<style>
body {{ margin: 0; background: {background}; color: {color} }}
button {{ color: inherit; font: inherit }}
</style>
<div id="root"></div><script>window.mode = "{mode}"; window.board = {board};</script>
<script src="board.js"></script>
"""
COLOURS = {"dark": ("#181b1f", "#ccccdc"), "light": ("#ffffff", "#24292e")}


def built(top: Path) -> Path:
    """Install what the page needs and bundle it; return the folder."""
    shutil.copytree(PAGE, top, dirs_exist_ok=True)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run([*install, "--loglevel=error"], cwd=top, check=True, stdout=subprocess.DEVNULL)
    bundle = ["node_modules/.bin/esbuild", "board.jsx", "--bundle", "--outfile=board.js"]
    bundle += ["--loader:.svg=dataurl", '--define:process.env.NODE_ENV="production"']
    bundle += ["--define:global=window", "--log-level=error"]
    subprocess.run(bundle, cwd=top, check=True)
    return top


def panels(graphite: Graphite, start: int, end: int) -> Iterator[dict[str, Any]]:
    """Yield each panel with the series that Graphite answers to its queries."""
    board = json.loads((GRAPHS / "grafana" / "conntrack-graphite.json").read_text())
    for panel in board["panels"]:
        series = []
        for target in panel.get("targets", ()):
            text = target["target"].replace("$host", draw_graphs.HOST).replace("$namespace", "*")
            for check in ("usage", "full", "table"):
                text = text.replace(f"${check}.", f"conntrack-{check}.")
            most = min(POINTS, (end - start) // (60 * int(panel["interval"].rstrip("m"))))
            asked = {"from": start, "until": end, "maxDataPoints": most}
            series += [
                {"name": each["target"], "points": each["datapoints"]}
                for each in graphite.render([text], empty=True, **asked)
            ]
        if series:
            yield {"title": panel["title"], "fieldConfig": panel["fieldConfig"], "series": series}


def draw(
    graphite: Graphite, top: Path, start: int, photograph: Callable[[str, str, int], None]
) -> None:
    """Photograph the dashboard in both themes: `photograph` takes address, name and height."""
    end = start + draw_graphs.HOURS * 3600
    folder = built(top)
    shown = {"from": start, "to": end, "panels": list(panels(graphite, start, end))}
    height = HEIGHT * -(-len(shown["panels"]) // 2)
    for mode, (background, color) in COLOURS.items():
        text = HTML.format(mode=mode, background=background, color=color, board=json.dumps(shown))
        (folder / f"{mode}.html").write_text(text)
        photograph(f"file://{folder}/{mode}.html", f"grafana-{mode}", height)
