"""The graphs as files: what they draw is what the checks print, all of it, and both ways alike."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
from pathlib import Path

import pytest

from check_conntrack.full import full_check
from check_conntrack.table import table_check
from check_conntrack.usage import usage_check

GRAPHS = Path(__file__).parents[2] / "graphs"
CHECKS = {"usage": usage_check, "full": full_check, "table": table_check}
SERIES = [(name, label.name) for name, check in CHECKS.items() for label in check.LABELS]
NAMESPACED = [(name, label) for name, check in CHECKS.items() for label in check.NAMESPACE_LABELS]
COUNTERS = {label.name for label in full_check.LABELS if label.unit == "c"}
NO_DATA = {"datasource", *CHECKS, "host", "namespace"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, GRAPHS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curves():
    """Every curve of Icinga Web's templates: check, namespaced, label, field, its function."""
    for check in CHECKS:
        file = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        file.optionxform = str
        file.read(GRAPHS / "icingaweb2" / f"conntrack_{check}.ini")
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
def test_every_label_is_drawn(where):
    plain = [(check, label) for check, namespaced, label, *_ in DRAWN[where] if not namespaced]
    further = [(check, label) for check, namespaced, label, *_ in DRAWN[where] if namespaced]
    assert set(plain) == set(SERIES)
    assert set(further) == set(NAMESPACED)


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


def test_both_dashboards_show_the_same():
    def shown(kind):
        return [
            (panel["title"], panel["gridPos"], panel["fieldConfig"], len(panel["targets"]))
            for panel in panels(kind)
        ]

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
        for kind in ("icingaweb2", "grafana")
        for path in (GRAPHS / kind).iterdir()
    }
    assert there == set(written)


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
        kept = "last" if name in COUNTERS | {"limit"} else "min" if "time" in name[:4] else "max"
        assert (rule["aggregationMethod"], rule["xFilesFactor"]) == (kept, "0"), path
        assert re.search(schemas[schema]["pattern"], path)
