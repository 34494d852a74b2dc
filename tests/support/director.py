"""Icinga Web's Director without a web server: its database in MariaDB, and its command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from support.graph_stores import PATH, free_port, listens, running, until
from support.icinga_nodes import CONSTANTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = ("icingacli", "mariadbd", "mariadb-install-db", "mariadb", "icinga2")
MODULES = "/usr/share/icingaweb2/modules"
USER = "nobody"
DATABASES = """\
CREATE USER icinga@'127.0.0.1' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO icinga@'127.0.0.1';
CREATE DATABASE director CHARACTER SET utf8;
"""
RESOURCE = """\
[{name}]
type = "db"
db = "mysql"
host = "127.0.0.1"
port = "{port}"
dbname = "{name}"
username = "icinga"
password = "secret"
charset = "utf8"

"""
# A dump is made of the objects that a basket names; these are the types of the shipped one.
BASKET = {
    "basket_name": "conntrack",
    "owner_type": "user",
    "owner_value": "tests",
    "uuid": "b5e1f6a0-3c1c-4f6e-9b7e-2f1d8a6c0e11",
}
ZONES = """\
object Endpoint "master" { }
object Zone "master" { endpoints = [ "master" ] }
object Zone "director-global" { global = true }
"""


class Database:
    """MariaDB on a free port of the loopback, in a folder of its own."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.port = free_port()

    @contextlib.contextmanager
    def started(self) -> Iterator[Database]:
        """Running, with an empty database for the Director."""
        data, first = self.top / "data", self.top / "first.sql"
        data.mkdir()
        shutil.chown(data, USER)
        first.write_text(DATABASES)
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={USER}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = ("mariadbd", "--no-defaults", f"--datadir={data}", f"--user={USER}")
        command += (f"--port={self.port}", "--bind-address=127.0.0.1", f"--init-file={first}")
        command += (f"--socket={data}/socket", f"--pid-file={data}/pid")
        with running(command, self.top / "mariadb.out", cwd=self.top) as server:
            until(lambda: listens(self.port), "mariadbd", server)
            yield self

    def query(self, text: str, database: str = "director") -> list[list[str]]:
        """The rows of an answer; line breaks and tabs within a value are escaped."""
        command = ["mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={self.port}"]
        command += ["--user=icinga", "--password=secret", "--skip-column-names", database]
        done = subprocess.run([*command, f"--execute={text}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]


class Director:
    """The Director's command line above a database."""

    def __init__(self, top: Path, database: Database) -> None:
        self.top = top
        self.database = database

    def prepare(self) -> None:
        """Write Icinga Web's configuration and fill the database with the Director's tables."""
        own = self.top / "modules" / "director"
        own.mkdir(parents=True)
        enabled = self.top / "enabledModules"
        enabled.mkdir()
        for module in ("director", "incubator", "reactbundle"):
            (enabled / module).symlink_to(f"{MODULES}/{module}")
        resource = RESOURCE.format(name="director", port=self.database.port)
        (self.top / "resources.ini").write_text(resource)
        (self.top / "config.ini").write_text('[global]\nconfig_backend = "ini"\n')
        (own / "config.ini").write_text('[db]\nresource = "director"\n')
        self.call("migration", "run")
        # What the Director's kickstart learns from Icinga.
        for kind, name, more in (
            ("zone", "director-global", {"is_global": True}),
            ("zone", "master", {}),
            ("command", "hostalive", {}),
        ):
            known = {"object_type": "external_object", **more}
            self.call(kind, "create", name, "--json", json.dumps(known))

    def call(self, *words: str, text: str = "") -> str:
        """Return what a command of the Director prints."""
        done = subprocess.run(
            ["icingacli", "director", *words],
            input=text,
            capture_output=True,
            text=True,
            env={"PATH": PATH, "ICINGAWEB_CONFIGDIR": str(self.top), "HOME": str(self.top)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restore(self, basket: str) -> None:
        """Restore a basket, as "Restore" does for an uploaded one."""
        self.call("basket", "restore", text=basket)

    def dump(self, types: list[str]) -> str:
        """A snapshot of all objects of these types, as the Director writes it."""
        chosen = {**BASKET, "objects": dict.fromkeys(types, True)}
        self.restore(json.dumps({"Basket": {"conntrack": chosen}}))
        return self.call("basket", "dump", "--name", "conntrack")

    def changes(self) -> int:
        """How many changes of objects the Director has logged."""
        ((number,),) = self.database.query("SELECT COUNT(*) FROM director_activity_log")
        return int(number)

    def host(self, name: str, **properties: Any) -> None:
        """Create a host."""
        self.call("host", "create", name, "--json", json.dumps(properties))

    def render(self, folder: Path) -> None:
        """Write the configuration that the Director would deploy, its first one, below a folder."""
        self.call("config", "render")
        rows = self.database.query(
            "SELECT place.file_path, HEX(file.content) FROM director_generated_config_file place"
            " JOIN director_generated_file file ON file.checksum = place.file_checksum"
        )
        for path, content in rows:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes.fromhex(content))


def validate(rendered: Path, top: Path) -> tuple[int, str, str]:
    """Have Icinga check a rendered configuration: exit status, what it said, and all objects."""
    file = top / "icinga2.conf"
    file.write_text(
        f'{CONSTANTS.format(name="master")}{ZONES}include_zones "director", "{rendered}/zones.d"\n'
    )
    names = ("DataDir", "CacheDir", "LogDir", "SpoolDir", "InitRunDir")
    for name in names:
        (top / name).mkdir(exist_ok=True)
    defined = [f"-D{name}={top / name}" for name in names]
    if os.geteuid() == 0:
        for place in (top, *(top / name for name in names)):
            shutil.chown(place, "nagios")

    def icinga(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["icinga2", *words]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH}, cwd="/")

    # From version 2.14 on the list of objects has to be asked for.
    asked = "--dump-objects" in icinga("daemon", "--help").stdout
    more = ["--dump-objects"] if asked else []
    done = icinga("daemon", "-C", *more, "-c", str(file), *defined)
    listed = icinga("object", "list", "--type", "Service", *defined)
    return done.returncode, done.stdout + done.stderr, listed.stdout
