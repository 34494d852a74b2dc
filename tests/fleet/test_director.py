"""The Director takes the shipped basket: restored, dumped again, rendered, checked by Icinga."""

from __future__ import annotations

import json
import re

import pytest

from support import director as rig
from support.graph_stores import folder
from support.icinga_nodes import SHIPPED

BASKET = (SHIPPED / "conntrack-basket.json").read_text()
TYPES = [kind for kind in json.loads(BASKET) if kind != "Datafield"]
WIKI = "https://wiki.example.org/conntrack/runbook"


@pytest.fixture(scope="module")
def database(need):
    """MariaDB."""
    need(*rig.PROGRAMS)
    with folder() as top, rig.Database(top).started() as running:
        yield running


@pytest.fixture
def director(database):
    """A Director with nothing in it but the basket."""
    database.query("DROP DATABASE director; CREATE DATABASE director CHARACTER SET utf8", "mysql")
    with folder() as top:
        made = rig.Director(top, database)
        made.prepare()
        made.restore(BASKET)
        yield made


@pytest.fixture
def checked(director):
    """A function that renders the configuration and has Icinga check it: its services by name."""

    def check():
        with folder() as rendered, folder() as top:
            director.render(rendered)
            code, said, listed = rig.validate(rendered, top)
        assert code == 0, said
        found = {}
        for part in re.split(r"^(?=Object )", listed, flags=re.MULTILINE)[1:]:
            name = re.match(r"Object '([^']+)'", part)[1]
            found[name] = part
        return found

    return check


def test_the_director_dumps_the_basket_as_it_is_shipped(director):
    # Whatever differed would be "modified" in its comparison, before anybody changed anything.
    assert director.dump(TYPES) == BASKET


def test_a_second_restore_changes_nothing(director):
    before = director.changes()
    assert before > 0
    director.restore(BASKET)
    assert director.changes() == before


def test_a_host_with_the_template_is_checked_by_its_agent(director, checked):
    director.host("gateway", imports=["conntrack"], address="192.0.2.1", check_command="hostalive")
    director.host("other", address="192.0.2.2", check_command="hostalive", object_type="object")
    services = checked()
    assert set(services) == {f"gateway!conntrack-{name}" for name in ("usage", "full", "table")}
    for name, said in services.items():
        assert '* command_endpoint = "gateway"' in said, name
        assert '* notes_url = ""' in said, name
        assert "runbook.md" in said, name


def test_each_namespace_has_a_service(director, checked):
    director.host(
        "gateway",
        imports=["conntrack"],
        check_command="hostalive",
        vars={"conntrack_netns": ["blue", "red"], "conntrack_usage_warning": ["70"]},
    )
    services = checked()
    for name in ("blue", "red"):
        said = services[f"gateway!conntrack-usage-{name}"]
        assert f'* conntrack_usage_netns = "{name}"' in said
        assert f'* conntrack_usage_state_key = "{name}"' in said
    assert len(services) == 5


def test_a_variable_of_one_service_is_overridden_for_a_host(director, checked):
    director.host("gateway", imports=["conntrack"], check_command="hostalive")
    director.call(
        "service", "set", "conntrack-table", "--host", "gateway", "--allow-overrides",
        "--json", '{"vars": {"conntrack_table_top": 5}}',
    )  # fmt: skip
    services = checked()
    assert "* conntrack_table_top = 5" in services["gateway!conntrack-table"]
    assert "conntrack_table_top" not in services["gateway!conntrack-usage"]


def test_a_namespace_with_thresholds_of_its_own_is_a_service_of_the_host(director, checked):
    director.host(
        "gateway",
        imports=["conntrack"],
        check_command="hostalive",
        vars={"conntrack_netns": ["blue"]},
    )
    own = {
        "host": "gateway",
        "imports": ["conntrack-usage"],
        "object_type": "object",
        "vars": {
            "conntrack_usage_netns": ["red"],
            "conntrack_usage_state_key": "red",
            "conntrack_usage_warning": ["60"],
        },
    }
    director.call("service", "create", "conntrack-usage-red", "--json", json.dumps(own))
    services = checked()
    assert '* conntrack_usage_warning = [ "60" ]' in services["gateway!conntrack-usage-red"]
    assert "conntrack_usage_warning" not in services["gateway!conntrack-usage-blue"]


def test_the_address_of_the_runbook_is_set_in_one_place(director, checked):
    director.host("gateway", imports=["conntrack"], check_command="hostalive")
    # What a browser does in the template of all services.
    changed = json.loads(BASKET)
    changed["ServiceTemplate"]["conntrack-service"]["notes_url"] = WIKI
    director.restore(json.dumps(changed))
    services = checked()
    assert len(services) == 3
    assert all(f'* notes_url = "{WIKI}"' in said for said in services.values())
    # A restore changes what the basket names, and leaves the rest.
    director.restore(BASKET)
    kept = json.loads(director.dump(TYPES))["ServiceTemplate"]["conntrack-service"]
    assert kept["notes_url"] == WIKI


def test_the_host_template_names_the_agent_because_icinga_needs_it(director):
    director.host("gateway", imports=["conntrack"], check_command="hostalive", has_agent=False)
    with folder() as rendered, folder() as top:
        director.render(rendered)
        code, said, _ = rig.validate(rendered, top)
    assert code == 1
    assert "'command_endpoint'" in said


def test_the_set_without_its_usage_service_is_refused_with_the_reason(director):
    director.host("gateway", imports=["conntrack"], check_command="hostalive")
    director.database.query(
        "INSERT INTO icinga_host_service_blacklist (host_id, service_id)"
        " SELECT host.id, service.id FROM icinga_host host, icinga_service service"
        " WHERE host.object_name = 'gateway' AND service.object_name = 'conntrack-usage'"
        " AND service.service_set_id IS NOT NULL"
    )
    with folder() as rendered, folder() as top:
        director.render(rendered)
        code, said, _ = rig.validate(rendered, top)
    assert code == 1
    assert "gateway!conntrack-table!conntrack-usage" in said, said
