#!/usr/bin/env python3
"""Photograph the front end: `make screens`, pictures in build/screens, in both themes.

Icinga 2 with its IDO and the shipped services, Icinga Web with its modules monitoring, graphite and
director, carbon and graphite-web with the incident of draw_graphs.py, MariaDB, and Chromium; and
the dashboard for Grafana, see draw_boards.py. All of it runs in temporary folders, on free ports of
the loopback. The checks' output is real: they look at tables and a log made for the purpose. Runs
as root on Debian.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

TREE = Path(__file__).parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "plugins"), str(Path(__file__).parent)]

import draw_boards  # noqa: E402
import draw_graphs  # noqa: E402

from support import tables  # noqa: E402
from support.director import MODULES, RESOURCE, Database, Director  # noqa: E402
from support.graph_stores import (  # noqa: E402
    GRAPHS,
    PATH,
    Graphite,
    folder,
    free_port,
    listens,
    running,
    until,
)
from support.icinga_nodes import COMMANDS, CONSTANTS, PLUGINS, SERVICES, SHIPPED  # noqa: E402
from support.netns import Namespace  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST, USER = draw_graphs.HOST, "icingaadmin"
THEMES = ("dark", "light")
WIDTH = 1400
FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"
SCHEMAS = {
    "icinga": "/usr/share/icinga2-ido-mysql/schema/mysql.sql",
    "icingaweb": "/usr/share/icingaweb2/schema/mysql.schema.sql",
}
# Six hours, those of the incident.
RANGE = f"graph_range={draw_graphs.HOURS * 3600}"
SERVICE = f"{RANGE}&host={HOST}&service=conntrack-"
# Each page: its name, its path, and the height of its picture.
PAGES = (
    ("services", f"monitoring/list/services?host={HOST}", 700),
    *((f"service-{name}", f"monitoring/service/show?{SERVICE}{name}", 1500) for name in
      ("usage", "full", "table", "usage-blue")),
    *((f"graphs-{name}", f"graphite/list/services?{RANGE}&graphs_limit=-1&service=conntrack-{name}",
       height)
      for name, height in (("usage", 1300), ("full", 1200), ("table", 1200))),
    ("director-baskets", "director/baskets", 600),
    ("director-command", "director/command?name=conntrack_usage", 700),
    ("director-arguments", "director/command/arguments?name=conntrack_usage", 1000),
    ("director-template", "director/service?name=conntrack-service&type=template", 1600),
    ("director-host", f"director/host?name={HOST}", 1600),
    ("director-services", f"director/host/services?name={HOST}", 900),
)  # fmt: skip

ICINGA = """\
library "db_ido_mysql"
object CheckerComponent "checker" {{ }}
object IdoMysqlConnection "ido" {{
  host = "127.0.0.1"
  port = {port}
  user = "icinga"
  password = "secret"
  database = "icinga"
}}
object Host "{host}" {{
  check_command = "dummy"
  address = "192.0.2.1"
  vars.conntrack = "local"
  vars.conntrack_netns = [ "blue" ]
}}
"""
CONFIGURATION = {
    "config.ini": '[global]\nconfig_backend = "db"\nconfig_resource = "icingaweb"\n',
    "authentication.ini": '[auto]\nbackend = "external"\n',
    "roles.ini": f'[all]\nusers = "{USER}"\npermissions = "*"\n',
    "modules/monitoring/backends.ini": '[icinga]\ntype = "ido"\nresource = "icinga"\n',
    "modules/monitoring/config.ini": '[security]\nprotected_customvars = "*pw*"\n',
}


def outputs(top: Path) -> dict[str, tuple[int, str]]:
    """Return what the checks print, and their exit codes, of an incident made for the purpose.

    usage looks at a network namespace with a real table, and a limit that only it sees.
    """
    limit, table, log = top / "limit", top / "table.txt", top / "kern.log"
    limit.write_text("1000\n")
    table.write_text(as_text(tables.listing(tables.syn_flood())))
    now = time.time()
    lines = [(2000, "an older line"), *((ago, FULL) for ago in range(600, 0, -20))]
    log.write_text(
        "".join(
            time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - ago))
            + f" {HOST} kernel: {text}\n"
            for ago, text in lines
        )
    )
    found = {}
    with Namespace() as namespace:
        namespace.track()
        namespace.fill(985)
        mount = f'mount --bind {limit} /proc/sys/net/netfilter/nf_conntrack_max; exec "$@"'
        there = namespace.command("unshare", "-m", "sh", "-ec", mount, "sh")
        for name, before, words in (
            ("usage", there, ("-w", "95", "-c", "98")),
            ("full", (), ("--log", log, "--since", "15m")),
            ("table", (), ("--source", table, "-w", "entries=1000")),
        ):
            command = [*before, sys.executable, TREE / "plugins" / f"check_conntrack_{name}"]
            command += [*words, "--no-state"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            found[name] = (done.returncode, done.stdout)
    return found


def as_text(listing: str | bytes) -> str:
    """Return a table as text."""
    return listing if isinstance(listing, str) else listing.decode()


@contextlib.contextmanager
def icinga(top: Path, database: Database) -> Iterator[None]:
    """Icinga 2 with the shipped services, whose plugins print what was printed before."""
    plugins = top / "plugins"
    plugins.mkdir()
    for name, (code, text) in outputs(top).items():
        (plugins / f"{name}.txt").write_text(text)
        script = plugins / f"check_conntrack_{name}"
        script.write_text(f"#!/bin/sh\ncat {plugins / name}.txt\nexit {code}\n")
        script.chmod(0o755)
    constants = CONSTANTS.format(name="master")
    constants = constants.replace(f'ContribDir = "{PLUGINS}"', f'ContribDir = "{plugins}"')
    main = ICINGA.format(port=database.port, host=HOST)
    parts = [constants, main, *(f'include "{file}"' for file in (COMMANDS, SERVICES))]
    (top / "icinga2.conf").write_text("\n".join(parts))
    names = ("DataDir", "CacheDir", "LogDir", "SpoolDir", "InitRunDir")
    for name in names:
        (top / name).mkdir()
    subprocess.run(["chown", "-R", "nagios", top], check=True)
    defined = [f"-D{name}={top / name}" for name in names]
    command = ("icinga2", "daemon", "-c", top / "icinga2.conf", *defined)
    with running(command, top / "icinga.out", cwd=top) as daemon:
        checked = "SELECT COUNT(*) FROM icinga_servicestatus WHERE has_been_checked = 1"
        wanted = [[f"{len(('usage', 'full', 'table', 'usage-blue'))}"]]
        # Icinga spreads the first runs over a minute.
        until(lambda: database.query(checked, "icinga") == wanted, "Icinga", daemon, 150)
        yield


@contextlib.contextmanager
def icinga_web(director: Director, graphite: Graphite) -> Iterator[str]:
    """Icinga Web in PHP's own web server; its address. Whoever asks is logged in."""
    top, database = director.top, director.database
    resources = [RESOURCE.format(name=name, port=database.port) for name in ("director", *SCHEMAS)]
    (top / "resources.ini").write_text("".join(resources))
    for name, text in CONFIGURATION.items():
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for module in ("monitoring", "graphite"):
        (top / "enabledModules" / module).symlink_to(f"{MODULES}/{module}")
    own = top / "modules" / "graphite"
    own.mkdir()
    (own / "config.ini").write_text(f'[graphite]\nurl = "{graphite.url}"\n')
    (own / "templates").symlink_to(GRAPHS / "icingaweb2")
    port = free_port()
    public = "/usr/share/icingaweb2/public"
    # One process: workers of PHP's web server outlive it.
    environment = {"PATH": PATH, "ICINGAWEB_CONFIGDIR": str(top), "REMOTE_USER": USER}
    command = ("php", "-S", f"127.0.0.1:{port}", "-t", public, f"{public}/index.php")
    with running(command, top / "php.out", cwd=top, env=environment) as server:
        until(lambda: listens(port), "php", server)
        yield f"http://127.0.0.1:{port}"


def photograph(address: str, file: Path, height: int, home: Path, width: int = WIDTH) -> None:
    """Have Chromium draw a page, after its scripts had time to load the graphs."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={home}", f"--window-size={width},{height}"]
    command += ["--virtual-time-budget=20000", f"--screenshot={file}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert file.exists(), done.stderr[-2000:]


def main() -> int:
    """Start everything, and take a picture of each page in each theme."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    start = (int(time.time()) // 60 - draw_graphs.HOURS * 60) * 60
    with contextlib.ExitStack() as stack:
        tops = [stack.enter_context(folder()) for _ in range(6)]
        database = stack.enter_context(Database(tops[0]).started())
        for name, schema in SCHEMAS.items():
            database.query(f"CREATE DATABASE {name} CHARACTER SET utf8mb4", "mysql")
            database.query(f"SOURCE {schema}", name)
        director = Director(tops[1], database)
        director.prepare()
        basket = (SHIPPED / "conntrack-basket.json").read_text()
        director.restore(basket)
        # The basket itself, as an upload makes it.
        director.dump([kind for kind in json.loads(basket) if kind != "Datafield"])
        director.host(
            HOST,
            imports=["conntrack"],
            address="192.0.2.1",
            check_command="hostalive",
            vars={"conntrack_netns": ["blue"]},
        )
        graphite = stack.enter_context(Graphite(tops[2]).started())
        graphite.send(draw_graphs.lines(start))
        stack.enter_context(icinga(tops[3], database))
        address = stack.enter_context(icinga_web(director, graphite))
        for theme in THEMES:
            mode = "none" if theme == "dark" else theme
            database.query(
                "REPLACE INTO icingaweb_user_preference (username, section, name, value, ctime)"
                f" VALUES ('{USER}', 'icingaweb', 'theme_mode', '{mode}', NOW())",
                "icingaweb",
            )
            for name, path, height in PAGES:
                file = target / f"{name}-{theme}.png"
                photograph(f"{address}/{path}", file, height, tops[4] / theme)
                print(file, flush=True)

        def photograph_board(address: str, name: str, height: int) -> None:
            file = target / f"{name}.png"
            photograph(address, file, height, tops[4] / name, draw_boards.WIDTH)
            print(file, flush=True)

        draw_boards.draw(graphite, tops[5], start, photograph_board)
    return 0


if __name__ == "__main__":
    sys.exit(main())
