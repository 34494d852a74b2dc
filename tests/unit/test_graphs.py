"""The graphs as files: what they draw is what the checks print, all of it, and both ways alike."""

from __future__ import annotations

import configparser
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from check_conntrack.full import full_check
from check_conntrack.full import labels as full_labels
from check_conntrack.table import table_check
from check_conntrack.usage import labels as usage_labels
from check_conntrack.usage import usage_check

GRAPHS = Path(__file__).parents[2] / "graphs"
CHECKS = {"usage": usage_check, "full": full_check, "table": table_check}
SERIES = [(name, label.name) for name, check in CHECKS.items() for label in check.LABELS]
NAMESPACED = [(name, label) for name, check in CHECKS.items() for label in check.NAMESPACE_LABELS]
COUNTERS = {label.name for label in full_check.LABELS if label.unit == "c"}
ON_EC2 = {*usage_labels.INSTANCE_LABELS, *full_labels.INSTANCE_LABELS}
LOW_IS_BAD = {"time_to_full", "instance_available"}
NO_DATA = {"datasource", *CHECKS, "host", "namespace"}


def load(name):
    """A module of graphs/, which finds the others there."""
    sys.path.insert(0, str(GRAPHS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(GRAPHS))


PANELS = load("panels")
DESCRIBED = PANELS.read(GRAPHS / "panels.ini")


def template_file(check):
    file = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    file.optionxform = str
    file.read(GRAPHS / "icingaweb2" / f"conntrack_{check}.ini")
    return file


def curves():
    """Every curve of Icinga Web's templates: check, namespaced, label, field, its function."""
    for check in CHECKS:
        file = template_file(check)
        for section in file.sections():
            name, _, part = section.rpartition(".")
            assert part in ("graph", "metrics_filters", "urlparams", "functions"), section
            if part != "metrics_filters":
                continue
            assert file[f"{name}.graph"]["check_command"] == f'"conntrack_{check}"'
            assert set(file[section]) == set(file[f"{name}.functions"]), name
            for key, pattern in file[section].items():
                match = re.fullmatch(
                    r'"\$service_name_template\$\.perfdata\.(\$namespace\$\.)?(\w+)\.(\w+)"',
                    pattern,
                )
                assert match, pattern
                assert key == f"{match[2]}.{match[3]}"
                function = file[f"{name}.functions"][key]
                yield check, bool(match[1]), match[2], match[3], function


def dashboard(kind):
    return json.loads((GRAPHS / "grafana" / f"conntrack-{kind}.json").read_text())


def panels(kind):
    return [panel for panel in dashboard(kind)["panels"] if panel["type"] != "row"]


def queries(kind):
    """Every query of a dashboard: check, namespaced, label, field, its text."""
    for panel in panels(kind):
        for target in panel["targets"]:
            if kind == "graphite":
                text = target["target"]
                match = re.search(
                    r"icinga2\.\$host\.services\.\$(\w+)\.\*\.perfdata"
                    r"\.(\$namespace\.)?(\w+)\.(\w+)[),]",
                    text,
                )
                assert match, text
                yield match[1], bool(match[2]), match[3], match[4], text
            else:
                text = target["query"]
                field = re.search(r'SELECT .*?\("(\w+)"\)', text)[1]
                check = re.search(r"\"service\" = '\$(\w+)'", text)[1]
                assert f"FROM /^(conntrack_{check}|" in text
                match = re.search(
                    r"\"metric\" (?:= '(\w+)'|=~ /\^\$\{namespace:regex\}::(\w+)\$/)", text
                )
                assert match, text
                yield check, bool(match[2]), match[1] or match[2], field, text


DRAWN = {
    "icingaweb2": list(curves()),
    "graphite": list(queries("graphite")),
    "influxdb": list(queries("influxdb")),
}


@pytest.mark.parametrize("where", DRAWN)
def test_every_label_that_is_drawn_is_one_of_its_checks(where):
    for check, namespaced, label, field, text in DRAWN[where]:
        assert (check, label) in (NAMESPACED if namespaced else SERIES), text
        assert field in ("value", "warn", "crit"), text


@pytest.mark.parametrize("where", DRAWN)
def test_every_label_is_drawn_or_left_out_with_a_reason(where):
    plain = {(check, label) for check, namespaced, label, *_ in DRAWN[where] if not namespaced}
    further = {(check, label) for check, namespaced, label, *_ in DRAWN[where] if namespaced}
    left_out = {key for key, reason in DESCRIBED.left_out.items() if reason}
    assert plain | left_out == set(SERIES), "see graphs/panels.ini"
    assert further | left_out & set(NAMESPACED) == set(NAMESPACED), "see graphs/panels.ini"
    assert not plain & left_out


@pytest.mark.parametrize("where", DRAWN)
def test_thresholds_are_drawn_where_there_are_defaults_of_both_kinds(where):
    for check, module in CHECKS.items():
        for label in module.LABELS:
            fields = {
                field
                for of, namespaced, name, field, _ in DRAWN[where]
                if not namespaced and (of, name) == (check, label.name)
            }
            both = bool(label.warning and label.critical)
            assert ({"warn", "crit"} <= fields) == both, label.name


@pytest.mark.parametrize("where", DRAWN)
def test_counters_are_drawn_by_the_second_and_nothing_else_is(where):
    for _, _, label, _, text in DRAWN[where]:
        rate = "perSecond(interpolate(" in text or "non_negative_derivative(last(" in text
        assert rate == (label in COUNTERS), text


@pytest.mark.parametrize("where", ["icingaweb2", "graphite"])
def test_runs_five_minutes_apart_are_joined_and_longer_gaps_are_not(where):
    gaps = {
        curve.label: PANELS.INTERVALS[panel.check] // 60 - 1
        for panel in DESCRIBED.panels
        for curve in panel.curves
        if panel.gaps
    }
    assert gaps["time_to_full"] == gaps["growth"] == 0
    for _, _, label, _, text in DRAWN[where]:
        # Not known in every run: over a run that did not know it, to join would show what nobody
        # measured.
        points = gaps.get(label, 5)
        wanted = [f"{points}"] if points else []
        assert re.findall(r"interpolate\([^(),]+, (\d+)\)", text) == wanted, text


@pytest.mark.parametrize("where", DRAWN)
def test_peaks_remain_where_points_are_merged(where):
    for _, _, label, field, text in DRAWN[where]:
        kept = "min" if label in LOW_IS_BAD else "max"
        if where == "influxdb":
            assert label in COUNTERS or text.startswith(f'SELECT {kept}("{field}")'), text
        else:
            # Most functions forget what a series is consolidated by, so it has to come last; color,
            # alias and dashed only name and paint.
            path = r'"?(?:(?:alias|color|dashed|aliasByNode)\()*consolidateBy\('
            assert re.match(path, text), text
            assert re.search(r"consolidateBy\(.*?, '(\w+)'\)", text)[1] == kept, text


@pytest.mark.parametrize("where", DRAWN)
def test_time_to_full_has_the_scale_of_an_incident(where):
    texts = [text for _, _, label, _, text in DRAWN[where] if label == "time_to_full"]
    assert len(texts) == 2
    wanted = '"value" <= 43200 ' if where == "influxdb" else "removeAboveValue("
    assert all(wanted in text for text in texts)
    if where == "icingaweb2":
        looks = template_file("usage")["conntrack_usage-time_to_full.urlparams"]
        assert looks["max"] == '"12"'
        # The module's default joins over any gap.
        assert looks["lineMode"] == '"staircase"'
        return
    for panel in panels(where):
        if "Time to full" in panel["title"]:
            assert panel["fieldConfig"]["defaults"]["max"] == 12 * 3600
            scale = panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"]
            assert scale["type"] == "symlog"
            assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False


def test_icinga_web_joins_no_gap_by_itself():
    for check in CHECKS:
        for name, section in template_file(check).items():
            if name.endswith(".urlparams"):
                assert section["lineMode"] in ('"slope"', '"staircase"'), name
                stacked = section["areaMode"] == '"stacked"'
                assert section["lineWidth"] == ('"1"' if stacked else '"2"'), name


def test_the_two_graphs_that_icinga_web_shows_first_are_those_that_matter():
    first = {
        check: [
            [curve.label for curve in panel.curves if curve.field == "value"]
            for panel in DESCRIBED.panels
            if panel.check == check
        ][:2]
        for check in CHECKS
    }
    assert first["usage"] == [["usage"], ["time_to_full"]]
    assert first["full"][0] == ["full_drops", "early_drops"]
    assert "tcp_established" in first["table"][0]
    assert "top_source_share" in first["table"][1]


def test_titles_name_the_window_of_what_is_counted_in_one():
    minutes = int(full_check.DEFAULT_WINDOW) // 60
    for panel in DESCRIBED.panels:
        if panel.check == "full" and panel.keep != "rate":
            assert panel.title.endswith(f", last {minutes} min"), panel.title
        if panel.keep == "rate":
            assert panel.text.startswith("Per second"), panel.title


@pytest.mark.parametrize("kind", ["graphite", "influxdb"])
def test_at_most_one_curve_of_a_panel_is_filled_unless_they_are_stacked(kind):
    for panel in panels(kind):
        custom = panel["fieldConfig"]["defaults"]["custom"]
        filled = [
            each["matcher"]["options"]
            for each in panel["fieldConfig"]["overrides"]
            for change in each["properties"]
            if change["id"] == "custom.fillOpacity" and change["value"]
        ]
        stacked = custom["stacking"]["mode"] == "normal"
        assert bool(custom["fillOpacity"]) == stacked, panel["title"]
        assert len(filled) <= (0 if stacked else 1), panel["title"]
        assert not {"limit", "warning", "critical"} & set(filled), panel["title"]


@pytest.mark.parametrize("kind", ["graphite", "influxdb"])
def test_a_large_figure_of_one_namespace_does_not_flatten_another(kind):
    for panel in panels(kind):
        defaults = panel["fieldConfig"]["defaults"]
        if panel["title"].endswith(" by namespace") and defaults["unit"] in ("short", "pps"):
            assert defaults["custom"]["scaleDistribution"]["type"] == "symlog", panel["title"]


def test_a_stack_has_no_empty_point_between_two_runs():
    for panel in panels("influxdb"):
        custom = panel["fieldConfig"]["defaults"]["custom"]
        if custom["stacking"]["mode"] == "normal":
            # In ten minutes there is always a run of a check that runs every five.
            assert (panel["interval"], custom["spanNulls"]) == ("10m", False), panel["title"]
            assert all(" fill(null)" in target["query"] for target in panel["targets"])


def test_intervals_are_those_of_the_services():
    basket = json.loads((GRAPHS.parent / "icinga2" / "conntrack-basket.json").read_text())
    for check in CHECKS:
        service = basket["ServiceTemplate"][f"conntrack-{check}"]
        assert service["check_interval"] == str(PANELS.INTERVALS[check])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("line  limit", "area  limit"), "an area that is not the first label"),
        (("stack  other", "line  other"), "a stack of some labels only"),
        (("unit = ratio", "unit = buckets"), "the unit"),
        (("scale = log", "scale = root"), "the scale"),
        (("gaps = yes", "holes = yes"), "an unknown key"),
        (("keep = rate", "keep = last"), "keep"),
        (("[usage hash]", "[uses hash]"), "the check"),
    ],
)
def test_a_mistake_in_the_description_is_named(tmp_path, change, why):
    text = (GRAPHS / "panels.ini").read_text()
    # The first occurrence outside the comment.
    head, cut, body = text.partition("\n[usage usage]")
    assert change[0] in body
    file = tmp_path / "panels.ini"
    file.write_text(head + cut + body.replace(*change, 1))
    with pytest.raises(ValueError, match=why):
        PANELS.read(file)


def test_both_dashboards_show_the_same():
    def shown(kind):
        found = []
        for panel in panels(kind):
            field = panel["fieldConfig"]
            del field["defaults"]["custom"]["spanNulls"]
            found.append((panel["title"], panel["gridPos"], field, len(panel["targets"])))
        return found

    assert shown("graphite") == shown("influxdb")
    assert [each[:4] for each in DRAWN["graphite"]] == [each[:4] for each in DRAWN["influxdb"]]


@pytest.mark.parametrize("kind", ["graphite", "influxdb"])
def test_a_dashboard_can_be_imported(kind):
    made = dashboard(kind)
    names = [variable["name"] for variable in made["templating"]["list"]]
    assert set(names) == NO_DATA
    assert made["templating"]["list"][0]["query"] == kind
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels(kind):
        for target in panel["targets"]:
            assert target["datasource"] == {"type": kind, "uid": "${datasource}"}
            text = json.dumps(target).replace("$timeFilter", "").replace("$__interval", "")
            used = set(re.findall(r"\$\{?([a-z]+)", text)) - {"tag"}
            assert used <= set(names), text
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
            assert len(panel["targets"]) > 1


def test_states_and_protocols_are_stacked():
    for prefix in ("tcp_", "ipv"):
        (panel,) = [
            panel
            for panel in panels("graphite")
            if all(f".{prefix}" in target["target"] for target in panel["targets"])
        ]
        assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"


def test_the_files_are_what_the_description_says():
    build = load("build")
    written = build.files()
    for name, text in written.items():
        assert (GRAPHS / name).read_text() == text, f"run graphs/build.py: {name} is older"
    there = {
        str(path.relative_to(GRAPHS))
        for kind in ("icingaweb2", "grafana", "carbon")
        for path in (GRAPHS / kind).iterdir()
    }
    assert there - {"carbon/storage-schemas.conf"} == set(written)


def test_carbon_keeps_counters_as_counters():
    file = configparser.ConfigParser(interpolation=None)
    file.read(GRAPHS / "carbon" / "storage-aggregation.conf")
    rules = [(re.compile(rule["pattern"]), rule) for rule in map(file.__getitem__, file.sections())]
    schemas = configparser.ConfigParser(interpolation=None)
    schemas.read(GRAPHS / "carbon" / "storage-schemas.conf")
    (schema,) = schemas.sections()
    for check, label in SERIES + [(check, f"r1.{label}") for check, label in NAMESPACED]:
        command = f"conntrack-{check}.conntrack_{check}"
        path = f"icinga2.host.services.{command}.perfdata.{label}.value"
        rule = next(rule for pattern, rule in rules if pattern.search(path))
        name = label.rpartition(".")[2]
        kept = "last" if name in COUNTERS else "min" if name in LOW_IS_BAD else "max"
        assert (rule["aggregationMethod"], rule["xFilesFactor"]) == (kept, "0"), path
        assert re.search(schemas[schema]["pattern"], path)
