"""The graphs draw: what the checks print goes through Icinga 2 into both stores, and comes back."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check
from support import perfdata
from support.commands import passing, run
from support.graph_stores import (
    GRAPHS,
    Graphite,
    InfluxDB,
    InfluxDB2,
    folder,
    icinga,
    templates,
    until,
)
from support.machine import machine_limit
from support.netns import Namespace

HOST = "gw-1.example.org"
LABELS = {
    "usage": usage_check.LABELS,
    "full": full_check.LABELS,
    "table": table_check.LABELS,
}
FURTHER = {
    "usage": usage_check.NAMESPACE_LABELS,
    "full": full_check.NAMESPACE_LABELS,
    "table": table_check.NAMESPACE_LABELS,
}
CHECKS = tuple(LABELS)
STEPS = {"usage": 60, "full": 300, "table": 300}  # seconds between two runs, as shipped
HOUR = 3600
# New flows that a table at its limit turns away.
OVERFLOW = """
import contextlib, socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 200):
    with contextlib.suppress(OSError):
        sender.sendto(b"", ("127.9.9.9", port))
"""


@pytest.fixture(scope="module")
def namespaces(need):
    """Two network namespaces with entries in them."""
    need("ip", "nft", "unshare", "setpriv")
    with Namespace() as one, Namespace() as other:
        for namespace in (one, other):
            namespace.track()
        yield one, other


@pytest.fixture(scope="module")
def printed(namespaces, installed):
    """Return what each check printed of both namespaces, and its exit code, by its service's name.

    The tables grow by 6 and 3 entries a second, then packets are dropped at the limit.
    """
    tree, python = installed
    state = Path(tempfile.mkdtemp(prefix="check-conntrack-state-"))
    shutil.chown(state, 65534, 65534)
    both = [word for namespace in namespaces for word in ("--netns", namespace.name)]

    def check(name, *before):
        command = [*before, python, tree / f"check_conntrack_{name}", "--state-dir", state]
        result = run(*command, *both)
        assert result.err == ""
        return result.code, result.out

    try:
        found = {}
        check("full")
        for number in range(1, 5):
            for namespace, entries in zip(namespaces, (600, 300)):
                namespace.fill(entries * number)
            found["conntrack-usage"] = check("usage", *passing(1000 + 100 * number))
        with machine_limit(1000):
            for namespace in namespaces:
                namespace.run(sys.executable, "-c", OVERFLOW)
        found["conntrack-full"] = check("full")
        found["conntrack-table"] = check("table")
        yield found
    finally:
        shutil.rmtree(state)


@pytest.fixture(scope="module")
def written_down(printed, namespaces):
    """The same, and beside them the labels that are not known here: of EC2, of growth."""
    found = {}
    for service, (code, out) in printed.items():
        check = service.rpartition("-")[2]
        first, line_break, rest = out.partition("\n")
        status, bar, data = first.partition(" | ")
        has = perfdata.parse(data)
        names = [label.name for label in LABELS[check] if label.name not in has]
        more = "".join(f"{name}={7 + at};80;90 " for at, name in enumerate(names))
        # In front: to Icinga all that follows NAMESPACE::LABEL is of that namespace.
        names = [f"{namespaces[1].name}::{label}" for label in FURTHER[check]]
        unknown = [name for name in names if name not in has]
        last = "".join(f" '{name}'={7 + at};80;90" for at, name in enumerate(unknown))
        found[service] = (code, status + bar + more + data + last + line_break + rest)
    return found


@pytest.fixture(scope="module")
def figures(written_down):
    """The perfdata of each check, by the check's name."""
    return {
        service.rpartition("-")[2]: perfdata.parse(out.partition("\n")[0].partition(" | ")[2])
        for service, (_, out) in written_down.items()
    }


def told(figures, check: str, label: str, field: str) -> float:
    """Return what a check printed of a label: the value, or a bound."""
    item = figures[check][label]
    return float({"value": item.text, "warn": item.warn, "crit": item.crit}[field])


@pytest.fixture(scope="module")
def past():
    """The times of the runs of each check in the last hour, oldest first, in seconds."""
    now = int(time.time()) // 60 * 60
    return {check: list(range(now - HOUR, now, step)) for check, step in STEPS.items()}


def value_then(number: int, label: str) -> float:
    """Return a label of the past at a run: each rises at its own pace, below its ceiling."""
    pace = {"share": 0.01, "at": 0.001, "full": 0.2}.get(label.rpartition("_")[2], 1)
    return 1 + pace * (len(label) + 1) * number**2


def expected(label: str, step: int, *, rate: bool) -> list[float]:
    """Return a curve of the past at each run: values, or from the second on their rise."""
    values = [value_then(number, label) for number in range(HOUR // step)]
    if not rate:
        return values
    return [(after - before) / step for before, after in zip(values, values[1:])]


@pytest.fixture(scope="module")
def stores(need, written_down, figures, past, namespaces):
    """Graphite and InfluxDB with the host whose checks Icinga ran, and with one of the past.

    Beside them what Icinga writes for InfluxDB 2.
    """
    need("icinga2", "carbon-cache", "influxd")
    with (
        folder() as one,
        folder() as other,
        Graphite(one).started() as graphite,
        InfluxDB(other).started() as influxdb,
        InfluxDB2().started() as influxdb2,
    ):
        labels = [(check, label) for check in CHECKS for label in figures[check]]
        graphite.send(
            (metric(check, label.replace("::", "."), "past"), value_then(number, label), at)
            for check, label in labels
            for number, at in enumerate(past[check])
        )
        influxdb.write(
            f"conntrack_{check},hostname=past,service=conntrack-{check},metric={label} "
            f"value={value_then(number, label)},warn=80,crit=90 {at}"
            for check, label in labels
            for number, at in enumerate(past[check])
        )
        with icinga(HOST, written_down, graphite.port, influxdb.port, influxdb2.port):
            for check in CHECKS:
                last = metric(check, list(figures[check])[-1].replace("::", "."))
                until(lambda path=last: graphite.newest(path) is not None, last)
            until(lambda: len(written(influxdb)) == len(labels), "InfluxDB")
            until(lambda: len(series_of(influxdb2.lines)) == len(labels), "InfluxDB 2")
            assert influxdb2.refused == []
            influxdb.create("second")
            influxdb.write(influxdb2.lines, "second")
            yield graphite, influxdb


def series_of(lines: list[str]) -> set[str]:
    """The series of lines of the line protocol: measurement and tags. No name here has a blank."""
    return {line.split(" ")[0] for line in lines if "conntrack" in line}


def metric(check: str, label: str, host: str = HOST, field: str = "value") -> str:
    """Return where Icinga's GraphiteWriter puts a label."""
    name = host.replace(".", "_")
    return f"icinga2.{name}.services.conntrack-{check}.conntrack_{check}.perfdata.{label}.{field}"


def written(influxdb: InfluxDB) -> list[str]:
    """The labels of the host that Icinga has written."""
    where = f"\"hostname\" = '{HOST}'"
    answer = influxdb.query(f'SELECT last("value") FROM /./ WHERE {where} GROUP BY "metric"')
    return [f"{series['name']} {series['tags']['metric']}" for series in answer]


# --- Icinga Web's module


TEMPLATES = [pytest.param(*each, id=each[1]) for each in templates()]


def resolved(pattern: str, check: str, namespace: str, host: str = HOST) -> str:
    """A metrics filter with the module's macros put in."""
    name = metric(check, "", host).partition(".perfdata")[0]
    return pattern.replace("$service_name_template$", name).replace("$namespace$", namespace)


@pytest.mark.parametrize(("check", "name", "parts"), TEMPLATES)
def test_every_series_of_a_template_holds_what_the_check_printed(
    stores, figures, namespaces, check, name, parts
):
    graphite, _ = stores
    for curve, pattern in parts["metrics_filters"].items():
        label, _, field = curve.rpartition(".")
        if "$namespace$" in pattern:
            label = f"{namespaces[1].name}::{label}"
        path = resolved(pattern, check, namespaces[1].name)
        assert graphite.newest(path) == told(figures, check, label, field), path


@pytest.mark.parametrize(("check", "name", "parts"), TEMPLATES)
def test_every_curve_is_drawn_from_the_past(stores, past, namespaces, check, name, parts):
    graphite, _ = stores
    for curve, pattern in parts["metrics_filters"].items():
        label, _, field = curve.rpartition(".")
        if field != "value":
            continue
        path = resolved(pattern, check, namespaces[1].name, "past")
        function = parts["functions"][curve].replace("$metric$", path)
        (series,) = graphite.render([function], **{"from": past[check][0] - 60})
        if "$namespace$" in pattern:
            label = f"{namespaces[1].name}::{label}"
        rate = "perSecond" in function
        scale = float((re.search(r"scale\(.*, (0[0-9.]+)\)", function) or [0, 1])[1])
        wanted = [value * scale for value in expected(label, STEPS[check], rate=rate)]
        shown = [value for value, _ in series["datapoints"]]
        # A point for each minute: those between two runs are joined.
        minutes = STEPS[check] // 60
        shown = shown[minutes - 1 if rate else 0 :: minutes]
        assert shown == pytest.approx(wanted, rel=1e-3), function
        assert series["target"] in parts["functions"][curve]


def test_the_usage_graph_is_a_picture(stores, past):
    graphite, _ = stores
    (parts,) = [parts for _, name, parts in templates() if name == "conntrack_usage-usage"]
    size = {"width": 350, "height": 200, "from": past["usage"][0]}
    targets = [
        function.replace("$metric$", resolved(parts["metrics_filters"][curve], "usage", "", "past"))
        for curve, function in parts["functions"].items()
    ]
    picture = graphite.png(targets, **size, **parts["urlparams"])
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = picture[16:20], picture[20:24]
    assert (int.from_bytes(width, "big"), int.from_bytes(height, "big")) == (350, 200)
    assert picture != graphite.png(["no.such.metric"], **size, **parts["urlparams"])


# --- Grafana


def dashboard(kind):
    return json.loads((GRAPHS / "grafana" / f"conntrack-{kind}.json").read_text())


def queries(kind):
    """Each query of a dashboard: the panel's title and the query."""
    for panel in dashboard(kind)["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target


def answer_of(variable, values):
    """Return what Grafana offers of the answers to a variable's query."""
    taken = variable["regex"].strip("/")
    if not taken:
        return set(values)
    return {match[1] for match in (re.search(taken, value) for value in values) if match}


def filled(text: str, host: str, namespace: str) -> str:
    """A query as Grafana sends it, its variables put in."""
    for name, value in {
        "${namespace:regex}": namespace,
        "$timeFilter": "time > now() - 2h",
        "$__interval": "1m",
        "$host": host,
        "$namespace": namespace,
        **{f"${check}": f"conntrack-{check}" for check in CHECKS},
    }.items():
        text = text.replace(name, value)
    assert "$" not in text.replace("/$", "").replace("$/", ""), text
    return text


def offered(kind, ask, host, namespace):
    """The answers to all variables of a dashboard."""
    variables = dashboard(kind)["templating"]["list"]
    assert variables[0]["type"] == "datasource"
    return {
        variable["name"]: answer_of(variable, ask(filled(variable["query"], host, namespace)))
        for variable in variables[1:]
    }


def test_grafana_offers_hosts_services_and_namespaces_of_graphite(stores, namespaces):
    graphite, _ = stores
    host = HOST.replace(".", "_")
    found = offered("graphite", graphite.find, host, "")
    assert found.pop("host") == {host, "past"}
    assert found.pop("namespace") == {namespaces[1].name}
    assert found == {check: {f"conntrack-{check}"} for check in CHECKS}


@pytest.mark.parametrize(
    ("title", "target"),
    [pytest.param(*each, id=f"{number}") for number, each in enumerate(queries("graphite"))],
)
def test_grafanas_queries_draw_from_graphite(stores, figures, namespaces, past, title, target):
    graphite, _ = stores
    text = target["target"]
    label, field = re.search(r"\.perfdata\.(?:\$namespace\.)?(\w+)\.(\w+)", text).groups()
    check = re.search(r"\$(usage|full|table)", text)[1]
    if "$namespace" in text:
        label = f"{namespaces[1].name}::{label}"
    rate = "perSecond" in text
    host = "past" if rate else HOST.replace(".", "_")
    (series,) = graphite.render([filled(text, host, "*")], **{"from": past[check][0] - 60})
    wanted = (
        expected(label, STEPS[check], rate=True)[-1] if rate else told(figures, check, label, field)
    )
    assert series["datapoints"][-1][0] == pytest.approx(wanted, rel=1e-3)
    if "$namespace" in text:
        assert series["target"] == label.replace("::", ".")


def test_grafana_offers_hosts_services_and_namespaces_of_influxdb(stores, namespaces):
    _, influxdb = stores

    def ask(query):
        return {value for series in influxdb.query(query) for _, value in series["values"]}

    found = offered("influxdb", ask, HOST, "")
    assert found.pop("host") == {HOST, "past"}
    assert found.pop("namespace") == {namespaces[1].name}
    assert found == {check: {f"conntrack-{check}"} for check in CHECKS}


@pytest.mark.parametrize(
    ("title", "target"),
    [pytest.param(*each, id=f"{number}") for number, each in enumerate(queries("influxdb"))],
)
def test_grafanas_queries_draw_from_influxdb(stores, figures, namespaces, past, title, target):
    _, influxdb = stores
    text = target["query"]
    label = re.search(r"\"metric\" (?:=~ /\^\$\{namespace:regex\}::(\w+)|= '(\w+)')", text)
    label = f"{namespaces[1].name}::{label[1]}" if label[1] else label[2]
    check = re.search(r"\$(usage|full|table)", text)[1]
    field = re.search(r'\("(\w+)"\)', text)[1]
    rate = "derivative" in text
    host = "past" if rate else HOST
    (series,) = influxdb.query(filled(text, host, re.escape(namespaces[1].name)))
    assert influxdb.query(filled(text, host, ".*")) == [series]
    values = [value for _, value in series["values"] if value is not None]
    if rate:
        assert values == pytest.approx(expected(label, STEPS[check], rate=True))
    else:
        assert values[-1] == told(figures, check, label, field)
    if "::" in label:
        assert series["tags"] == {"metric": label}


@pytest.mark.parametrize("what", ["SERIES", "FIELD KEYS"])
def test_icinga_writes_the_same_series_and_fields_for_influxdb_2(stores, what):
    _, influxdb = stores
    asked = f"SHOW {what}" + (f" WHERE \"hostname\" = '{HOST}'" if what == "SERIES" else "")
    assert influxdb.query(asked, "second") == influxdb.query(asked)


def test_grafanas_queries_draw_from_what_icinga_writes_for_influxdb_2(stores):
    _, influxdb = stores
    for title, target in queries("influxdb"):
        if "derivative" in target["query"]:
            continue
        text = filled(target["query"], HOST, ".*")
        found = [influxdb.query(text, database) for database in ("icinga2", "second")]
        assert found[0], title
        values = [
            [
                (
                    series["name"],
                    series.get("tags"),
                    [value for _, value in series["values"] if value is not None][-1],
                )
                for series in each
            ]
            for each in found
        ]
        assert values[1] == values[0], title
