"""The dashboards have the types of Grafana, those of its oldest and its newest version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.graph_stores import GRAPHS

NEEDED = Path(__file__).parents[1] / "grafana"
# To install takes as long as the network does.
pytestmark = pytest.mark.timeout(600)
BOARDS = {
    kind: json.loads((GRAPHS / "grafana" / f"conntrack-{kind}.json").read_text())
    for kind in ("graphite", "influxdb")
}
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext")
VERSIONS = ("Newest", "Oldest")
# What the types have to find in a dashboard.
MISTAKES = {
    "cursor": ('"graphTooltip": 1', '"graphTooltip": 7'),
    "line": ('"drawStyle": "line"', '"drawStyle": "lines"'),
    "legend": ('"displayMode": "list"', '"displayMode": "lists"'),
    "key": ('"spanNulls"', '"spanNull"'),
    "place": ('"gridPos"', '"gridPlace"'),
    "scale": ('"type": "symlog"', '"type": "logarithmic"'),
}


def assigned(name: str, text: str) -> dict[str, str]:
    """A dashboard and its panels' own fields, assigned to the types of each version."""
    board = json.loads(text)
    # What an import needs is not part of the dashboard itself.
    plain = json.dumps({key: each for key, each in board.items() if key != "__requires"})
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    fields = json.dumps([panel["fieldConfig"]["defaults"]["custom"] for panel in panels])
    found = {}
    for version in VERSIONS:
        found[f"{name}_{version}"] = f"types.{version}Board = {plain}"
        found[f"{name}_{version}_fields"] = f"types.{version}Field[] = {fields}"
    return found


@pytest.fixture(scope="module")
def errors(need, tmp_path_factory):
    """Return what the compiler says of each constant: the dashboards, and one with each mistake."""
    need("node", "npm", root=False)
    top = tmp_path_factory.mktemp("grafana")
    for name in ("package.json", "types.ts"):
        shutil.copy(NEEDED / name, top)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(install, cwd=top, capture_output=True, text=True, timeout=280)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"npm install: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    constants = {}
    for kind, board in BOARDS.items():
        constants.update(assigned(kind, json.dumps(board)))
    for name, change in MISTAKES.items():
        text = json.dumps(BOARDS["graphite"])
        assert change[0] in text
        constants.update(assigned(name, text.replace(*change)))
    lines = ['import type * as types from "./types";']
    lines += [f"export const {name}: {value};" for name, value in constants.items()]
    (top / "boards.ts").write_text("\n".join(lines))
    words = ["node_modules/.bin/tsc", *OPTIONS, "--moduleResolution", "bundler", "boards.ts"]
    done = subprocess.run(words, cwd=top, capture_output=True, text=True, timeout=280)
    found = {name: [] for name in constants}
    names = list(constants)
    for line in done.stdout.splitlines():
        place = re.match(r"boards\.ts\((\d+),", line)
        if place:
            found[names[int(place[1]) - 2]].append(line)
        else:
            # A further line of an error, or one of the types themselves.
            assert line.startswith(" "), done.stdout
    return found


@pytest.mark.parametrize("kind", BOARDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_dashboard_has_the_types_of_the_oldest_and_the_newest_grafana(errors, kind, version):
    assert errors[f"{kind}_{version}"] == []
    assert errors[f"{kind}_{version}_fields"] == []


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_mistake_in_a_dashboard_is_found(errors, mistake, version):
    assert errors[f"{mistake}_{version}"] + errors[f"{mistake}_{version}_fields"]


def test_the_oldest_grafana_that_is_named_is_the_one_that_is_checked():
    package = json.loads((NEEDED / "package.json").read_text())
    version = package["devDependencies"]["@grafana/schema-oldest"].rpartition("@")[2]
    for board in BOARDS.values():
        (grafana,) = [each for each in board["__requires"] if each["type"] == "grafana"]
        assert grafana["version"] == version
    deploy = (GRAPHS.parent / "docs" / "deploy.md").read_text()
    assert re.search(r"Grafana ([0-9.]+) or later", deploy)[1] == version.removesuffix(".0")
