"""A day of runs at the interval of each service, drawn in the views of Icinga Web and Grafana."""

from __future__ import annotations

import json
import re
import time

import pytest

from support.graph_stores import GRAPHS, Graphite, InfluxDB, folder, templates, until

MINUTE, HOUR, DAY = 60, 3600, 86400
STEPS = {"usage": 60, "full": 300, "table": 300}  # seconds between two runs, as shipped
# Seconds that a run is late, or early. Those of a minute stay in their minute.
LATE = {"usage": 10, "full": 25, "table": 25}
POINTS = 330  # the width of a graph beside a service in Icinga Web
# Minutes of the day: nobody measured, the table would be full soon, two runs see a peak.
OUTAGE = range(600, 660)
FILLING = range(900, 940)
PEAK = (1197, 1198)
PEAK_VALUE, COMMON_VALUE = 98.0, 52.0
# Those of labels that are known in every run.
TEMPLATES = [
    pytest.param(*each, id=each[1])
    for each in templates()
    if each[2]["urlparams"]["lineMode"] == "slope"
]


def runs(check: str, start: int) -> list[int]:
    """The minutes of the day at which a check ran, and the seconds, which waver."""
    found = []
    for number, at in enumerate(range(start + MINUTE + 30, start + DAY, STEPS[check])):
        minute = (at - start) // MINUTE
        if minute not in OUTAGE:
            found.append(at + (LATE[check] if number % 3 else -LATE[check]))
    return found


def value(label: str, minute: int) -> float | None:
    """Return what a label is at a minute of the day; None where it is not known."""
    if label == "time_to_full":
        return 7200.0 - 120 * (minute - FILLING[0]) if minute in FILLING else None
    if label.endswith("_total"):
        # 100 a second, and in two minutes 10,000 a second.
        return 6000.0 * minute + 594000 * sum(minute > peak for peak in PEAK)
    return PEAK_VALUE if minute in PEAK else COMMON_VALUE


def points(start: int):
    """Everything that was measured: check, label, field, value, time."""
    drawn = {}
    for check, _, parts in templates():
        for curve, pattern in parts["metrics_filters"].items():
            label, _, field = curve.rpartition(".")
            more = "r1::" if "$namespace$" in pattern else ""
            drawn[check, more + label, field] = label
    for (check, name, field), label in drawn.items():
        for at in runs(check, start):
            minute = (at - start) // MINUTE
            figure = value(label, minute) if field == "value" else 80.0
            if figure is not None:
                yield check, name, field, figure, at


def path(check: str, label: str, field: str = "value") -> str:
    """Return where Icinga's GraphiteWriter puts a label."""
    name = label.replace("::", ".")
    return f"icinga2.day.services.conntrack-{check}.conntrack_{check}.perfdata.{name}.{field}"


@pytest.fixture(scope="module")
def start():
    """The second at which the day began."""
    return int(time.time()) // MINUTE * MINUTE - DAY


@pytest.fixture(scope="module")
def graphite(need, start):
    """Graphite with the day."""
    need("carbon-cache", root=False)
    with folder() as top, Graphite(top).started() as store:
        measured = list(points(start))
        store.send((path(*each[:3]), each[3], each[4]) for each in measured)
        files = {store.file(path(*each[:3])) for each in measured}

        def written() -> bool:
            if not all(file.exists() for file in files):
                return False
            return max(file.stat().st_mtime for file in files) < time.time() - 1

        until(written, "carbon")
        yield store


@pytest.fixture(scope="module")
def influxdb(need, start):
    """InfluxDB with the day."""
    need("influxd", root=False)
    with folder() as top, InfluxDB(top).started() as store:
        measured = [
            f"conntrack_{check},hostname=day,service=conntrack-{check},metric={label} "
            f"{field}={figure} {at}"
            for check, label, field, figure, at in points(start)
        ]
        for number in range(0, len(measured), 5000):
            store.write(measured[number : number + 5000])
        yield store


def web_targets(check: str, parts: dict[str, dict[str, str]]) -> list[str]:
    """The targets of a template, as Icinga Web asks for them."""
    service = path(check, "").partition(".perfdata")[0]
    return [
        parts["functions"][curve].replace(
            "$metric$",
            pattern.replace("$service_name_template$", service).replace("$namespace$", "r1"),
        )
        for curve, pattern in parts["metrics_filters"].items()
    ]


def grafana_panels(kind: str):
    """Each panel of a dashboard with its queries for the day."""
    for panel in json.loads((GRAPHS / "grafana" / f"conntrack-{kind}.json").read_text())["panels"]:
        queries = []
        for target in panel.get("targets", ()):
            text = target["target" if kind == "graphite" else "query"]
            for name, text_of in {
                "${namespace:regex}": "r1",
                "$namespace": "r1",
                "$host": "day",
                "$timeFilter": f"time > now() - {DAY}s",
            }.items():
                text = text.replace(name, text_of)
            queries.append(re.sub(r"\$(usage|full|table)\b", r"conntrack-\1", text))
        if queries:
            yield panel, queries


def shown(store: Graphite, targets: list[str], seconds: int, width: int = 0):
    """Return what graphite-web draws of the last seconds: values by target, None for a gap."""
    now = int(time.time())
    more = {"maxDataPoints": width} if width else {}
    answer = store.render(targets, empty=True, **{"from": now - seconds, "until": now, **more})
    assert len(answer) == len(targets)
    return [[figure for figure, _ in series["datapoints"]] for series in answer]


def inner(values: list[float | None]) -> list[float | None]:
    """The values without what is empty at both ends."""
    known = [number for number, each in enumerate(values) if each is not None]
    return values[known[0] : known[-1] + 1] if known else []


# --- gaps


@pytest.mark.parametrize(("check", "name", "parts"), TEMPLATES)
@pytest.mark.parametrize("hours", [1, 24])
def test_a_view_of_icinga_web_has_no_gap_but_the_outage(graphite, hours, check, name, parts):
    for values in shown(graphite, web_targets(check, parts), hours * HOUR):
        missing = inner(values).count(None)
        # In the outage, and in the minutes around it until the next run.
        wanted = (len(OUTAGE) - 5, len(OUTAGE) + 10) if hours == 24 else (0, 0)
        assert wanted[0] <= missing <= wanted[1], name


@pytest.mark.parametrize("hours", [1, 24])
def test_a_stack_of_grafana_has_no_empty_point_in_graphite(graphite, hours):
    for panel, queries in grafana_panels("graphite"):
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] != "normal":
            continue
        series = [inner(values) for values in shown(graphite, queries, hours * HOUR)]
        empty = [[number for number, each in enumerate(one) if each is None] for one in series]
        # All curves of a stack lack the same points: those of the outage.
        assert all(each == empty[0] for each in empty), panel["title"]
        assert len(empty[0]) <= (len(OUTAGE) + 10 if hours == 24 else 0), panel["title"]


def grouped(text: str, panel) -> str:
    """An InfluxQL query with the interval that Grafana chooses for POINTS points of a day."""
    minutes = max(int(panel["interval"].rstrip("m")), DAY // MINUTE // POINTS + 1)
    return text.replace("$__interval", f"{minutes}m")


def test_a_stack_has_no_empty_point_in_influxdb(influxdb):
    stacks = 0
    for panel, queries in grafana_panels("influxdb"):
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] != "normal":
            continue
        stacks += 1
        for query in queries:
            (series,) = influxdb.query(grouped(query, panel))
            values = inner([each for _, each in series["values"]])
            assert len(values) > 100
            assert values.count(None) <= len(OUTAGE) // 10, panel["title"]
    assert stacks >= 3


def test_a_gap_that_grafana_does_not_join_is_the_outage(influxdb):
    for panel, queries in grafana_panels("influxdb"):
        custom = panel["fieldConfig"]["defaults"]["custom"]
        if not custom["spanNulls"]:
            continue
        for query in queries:
            if "derivative" in query:
                continue
            (series,) = influxdb.query(grouped(query, panel))
            step = series["values"][1][0] - series["values"][0][0]
            known = [at for at, each in series["values"] if each is not None]
            apart = [after - before for before, after in zip(known, known[1:])]
            # Grafana joins over empty points only.
            gaps = [each for each in apart if each > step and each * 1000 > custom["spanNulls"]]
            assert len(gaps) == 1, panel["title"]
            assert gaps[0] >= len(OUTAGE) * MINUTE


# --- what is absent stays absent


def test_time_to_full_is_drawn_only_while_it_was_known(graphite, influxdb):
    (parts,) = [parts for _, name, parts in templates() if name == "conntrack_usage-time_to_full"]
    drawn = {"icingaweb2": shown(graphite, web_targets("usage", parts), DAY)[0]}
    for panel, queries in grafana_panels("graphite"):
        if panel["title"] == "Time to full, within 12 h":
            drawn["graphite"] = shown(graphite, queries, DAY)[0]
    for panel, queries in grafana_panels("influxdb"):
        if panel["title"] == "Time to full, within 12 h":
            (series,) = influxdb.query(queries[0].replace("$__interval", "1m"))
            drawn["influxdb"] = [each for _, each in series["values"]]
    assert set(drawn) == {"icingaweb2", "graphite", "influxdb"}
    for where, values in drawn.items():
        known = [each for each in values if each is not None]
        assert len(FILLING) - 2 <= len(known) <= len(FILLING), where
        assert min(known) == pytest.approx(
            (7200 - 120 * 39) / (3600 if where == "icingaweb2" else 1), rel=0.1
        )


# --- peaks


def test_a_peak_of_two_minutes_survives_the_width_of_a_graph(graphite, influxdb):
    (parts,) = [parts for _, name, parts in templates() if name == "conntrack_usage-usage"]
    found = {"icingaweb2": shown(graphite, web_targets("usage", parts)[:1], DAY, POINTS)[0]}
    for panel, queries in grafana_panels("graphite"):
        if panel["title"] == "Usage":
            found["graphite"] = shown(graphite, queries[:1], DAY, POINTS)[0]
    for panel, queries in grafana_panels("influxdb"):
        if panel["title"] == "Usage":
            (series,) = influxdb.query(grouped(queries[0], panel))
            found["influxdb"] = [each for _, each in series["values"]]
    assert set(found) == {"icingaweb2", "graphite", "influxdb"}
    for where, values in found.items():
        assert len(values) <= POINTS + 1, where
        assert max(each for each in values if each is not None) == PEAK_VALUE, where


def test_a_burst_of_drops_survives_the_width_of_a_graph(graphite):
    (parts,) = [parts for _, name, parts in templates() if name == "conntrack_full-drop_rate"]
    values = shown(graphite, web_targets("full", parts), DAY, POINTS)[0]
    # The check runs every five minutes, so two minutes at 10,000 a second are 4,060 over five.
    assert max(each for each in values if each is not None) > 3500


def test_the_time_to_full_that_remains_is_the_shortest(graphite):
    (parts,) = [parts for _, name, parts in templates() if name == "conntrack_usage-time_to_full"]
    fine = shown(graphite, web_targets("usage", parts), DAY)[0]
    coarse = shown(graphite, web_targets("usage", parts), DAY, 24)[0]
    assert min(each for each in coarse if each is not None) == min(
        each for each in fine if each is not None
    )
