"""Programs that draw the graphs: carbon and graphite-web, InfluxDB, and Icinga 2 with its writers.

Real daemons on free ports of the loopback, each with its own configuration in a temporary folder.
"""

from __future__ import annotations

import configparser
import contextlib
import http.server
import json
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

GRAPHS = Path(__file__).parents[2] / "graphs"
PATIENCE = 90  # seconds until something is taken for broken
# Of the daemons: the system's own programs, and nothing of a virtual environment.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

CARBON = """\
[cache]
DATABASE = whisper
USER =
LOCAL_DATA_DIR = {folder}/whisper/
CONF_DIR = {folder}/
LOG_DIR = {folder}/
PID_DIR = {folder}/
ENABLE_LOGROTATION = False
MAX_CREATES_PER_MINUTE = inf
MAX_UPDATES_PER_SECOND = inf
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_PORT = 0
CACHE_QUERY_PORT = 0
ENABLE_UDP_LISTENER = False
ENABLE_TAGS = False
WHISPER_AUTOFLUSH = True
"""

# The whole of a Django site's settings that rendering needs.
GRAPHITE_SETTINGS = """\
SECRET_KEY = "of a site that lives for a test"
ALLOWED_HOSTS = ["127.0.0.1"]
TIME_ZONE = "UTC"
LOG_DIR = CONF_DIR = STORAGE_DIR = "{folder}"
INDEX_FILE = "{folder}/index"
WHISPER_DIR = "{folder}/whisper"
STANDARD_DIRS = [WHISPER_DIR]
CARBONLINK_HOSTS = []
MEMCACHE_HOSTS = []
REMOTE_EXCLUDE_LOCAL = False
DATABASES = {{
    "default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{folder}/graphite.db"}}
}}
"""

# What a web server does for graphite-web.
SERVE = """\
import sys
from wsgiref.simple_server import make_server
from graphite.wsgi import application
make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
"""

INFLUXDB = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
[monitor]
  store-enabled = false
[logging]
  level = "error"
"""

ICINGA = """\
object CheckerComponent "checker" {{ }}
object GraphiteWriter "graphite" {{
  host = "127.0.0.1"
  port = "{graphite}"
  enable_send_thresholds = true
}}
object InfluxdbWriter "influxdb" {{
  host = "127.0.0.1"
  port = "{influxdb}"
  database = "icinga2"
  flush_interval = 1s
  enable_send_thresholds = true
}}
object Influxdb2Writer "influxdb2" {{
  host = "127.0.0.1"
  port = "{influxdb2}"
  organization = "monitoring"
  bucket = "icinga2"
  auth_token = "secret"
  flush_interval = 1s
  enable_send_thresholds = true
}}
object CheckCommand "alive" {{ command = [ "/bin/true" ] }}
object Host "{host}" {{
  check_command = "alive"
  enable_active_checks = false
}}
"""
ICINGA_SERVICE = """\
object CheckCommand "{command}" {{ command = [ "{script}" ] }}
object Service "{service}" {{
  host_name = "{host}"
  check_command = "{command}"
  check_interval = 2s
  retry_interval = 2s
}}
"""


def templates() -> Iterator[tuple[str, str, dict[str, dict[str, str]]]]:
    """Each template for Icinga Web: the check, its name, what stands in its sections."""
    for check in ("usage", "full", "table"):
        file = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        file.optionxform = str
        file.read(GRAPHS / "icingaweb2" / f"conntrack_{check}.ini")
        for section in file.sections():
            name, _, part = section.rpartition(".")
            if part == "graph":
                parts = {
                    part: {key: text.strip('"') for key, text in file[f"{name}.{part}"].items()}
                    for part in ("metrics_filters", "urlparams", "functions")
                }
                yield check, name, parts


def free_port() -> int:
    """A port of the loopback where nobody listens, one that every daemon takes (below 32768)."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(
    met: Callable[[], Any],
    what: str,
    process: subprocess.Popen[bytes] | None = None,
    patience: float = PATIENCE,
) -> Any:
    """Return what `met` returns as soon as that is something; fails after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = met()
        if found:
            return found
        assert process is None or process.poll() is None, f"{what}: it ended"
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {patience} s")


def listens(port: int) -> bool:
    """Return whether somebody listens at a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(
    command: Sequence[object], log: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in the foreground, ended with all it started when the block ends."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            **{"env": {"PATH": PATH}, **options},
        )
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def folder(owner: str = "") -> Iterator[Path]:
    """A temporary folder."""
    made = Path(tempfile.mkdtemp(prefix="check-conntrack-graphs-"))
    made.chmod(0o755)
    try:
        if owner:
            shutil.chown(made, owner)
        yield made
    finally:
        shutil.rmtree(made)


def get(url: str, parameters: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> bytes:
    """The answer of a server to a GET."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}?{query}", timeout=PATIENCE) as answer:
        body: bytes = answer.read()
        return body


class Graphite:
    """carbon-cache, and graphite-web above the same files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.port = free_port()
        self.url = ""

    @contextlib.contextmanager
    def started(self) -> Iterator[Graphite]:
        """Both running; carbon keeps what the shipped schema and aggregation say."""
        (self.top / "whisper").mkdir()
        (self.top / "carbon.conf").write_text(CARBON.format(folder=self.top, port=self.port))
        for name in ("storage-schemas.conf", "storage-aggregation.conf"):
            shutil.copy(GRAPHS / "carbon" / name, self.top)
        settings = GRAPHITE_SETTINGS.format(folder=self.top)
        (self.top / "graphite_site.py").write_text(settings)
        environment = {
            "PATH": PATH,
            "PYTHONPATH": str(self.top),
            "DJANGO_SETTINGS_MODULE": "graphite.settings",
            "GRAPHITE_SETTINGS_MODULE": "graphite_site",
            "HOME": str(self.top),
        }
        web = free_port()
        self.url = f"http://127.0.0.1:{web}"
        python = ("/usr/bin/python3", "-W", "ignore")
        migrate = (*python, "-m", "django", "migrate", "--run-syncdb", "--skip-checks")
        subprocess.run(
            migrate, check=True, cwd=self.top, env=environment, stdout=subprocess.DEVNULL
        )
        carbon = ("carbon-cache", "--config", self.top / "carbon.conf", "--nodaemon", "start")
        serve = (*python, "-c", SERVE, web)
        with (
            running(carbon, self.top / "carbon.out", cwd=self.top) as receiver,
            running(serve, self.top / "web.out", cwd=self.top, env=environment) as server,
        ):
            until(lambda: listens(self.port), "carbon", receiver)
            until(lambda: listens(web), "graphite-web", server)
            yield self

    def send(self, lines: Iterable[tuple[str, float, int]]) -> None:
        """Metrics as Icinga's GraphiteWriter sends them: path, value, time."""
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            for path, value, at in lines:
                line.sendall(f"{path} {value} {at}\n".encode())

    def file(self, path: str) -> Path:
        """The file of a metric."""
        return self.top / "whisper" / (path.replace(".", "/") + ".wsp")

    def newest(self, path: str) -> float | None:
        """The newest value in the file of a metric; None where there is none."""
        if not self.file(path).exists():
            return None
        command = ("whisper-fetch", "--from", str(int(time.time()) - 600), str(self.file(path)))
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        values = [line.split()[1] for line in done.stdout.splitlines()]
        return next((float(value) for value in reversed(values) if value != "None"), None)

    def render(self, targets: Sequence[str], *, empty: bool = False, **parameters: object) -> Any:
        """Series as graphite-web computes them, each with target and datapoints.

        empty: with the points that hold nothing, as None.
        """
        wanted = [("target", target) for target in targets]
        more = {"format": "json", **({} if empty else {"noNullPoints": "true"}), **parameters}
        return json.loads(get(self.url + "/render", [*wanted, *more.items()]))

    def png(self, targets: Sequence[str], **parameters: object) -> bytes:
        """A picture of targets."""
        wanted = [("target", target) for target in targets]
        return get(self.url + "/render", [*wanted, ("format", "png"), *parameters.items()])

    def find(self, query: str) -> list[str]:
        """Return what Grafana gets for a variable: the last parts, or with expand() whole paths."""
        if query.startswith("expand("):
            answer = json.loads(get(self.url + "/metrics/expand", {"query": query[7:-1]}))
            found: list[str] = answer["results"]
            return found
        nodes = json.loads(get(self.url + "/metrics/find", {"query": query}))
        return [node["text"] for node in nodes]


class InfluxDB:
    """influxd 1.x with a database for Icinga."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def started(self) -> Iterator[InfluxDB]:
        """Running, with an empty database icinga2."""
        configuration = self.top / "influxdb.conf"
        rpc = free_port()
        configuration.write_text(INFLUXDB.format(folder=self.top, port=self.port, rpc=rpc))
        command = ("influxd", "-config", configuration)
        with running(command, self.top / "influxdb.out", cwd=self.top) as server:
            until(lambda: listens(self.port), "influxd", server)
            self.create("icinga2")
            yield self

    def create(self, database: str) -> None:
        """Make an empty database."""
        create = urllib.parse.urlencode({"q": f"CREATE DATABASE {database}"}).encode()
        urllib.request.urlopen(self.url + "/query", create, timeout=PATIENCE).close()

    def write(self, lines: Iterable[str], database: str = "icinga2") -> None:
        """Points in the line protocol, times in seconds."""
        body = "\n".join(lines).encode()
        url = self.url + f"/write?db={database}&precision=s"
        urllib.request.urlopen(url, body, timeout=PATIENCE).close()

    def query(self, text: str, database: str = "icinga2") -> list[dict[str, Any]]:
        """The series of an answer, times in seconds; an error of the server's fails."""
        answer = json.loads(get(self.url + "/query", {"db": database, "epoch": "s", "q": text}))
        (result,) = answer["results"]
        assert "error" not in result, f"{text}: {result['error']}"
        series: list[dict[str, Any]] = result.get("series", [])
        return series


class InfluxDB2:
    """Takes points as InfluxDB 2 does, and keeps the lines. Debian has no InfluxDB 2."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.refused: list[str] = []
        kept = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked = urllib.parse.urlsplit(self.path)
                wanted = {"org": ["monitoring"], "bucket": ["icinga2"], "precision": ["s"]}
                if (
                    asked.path == "/api/v2/write"
                    and urllib.parse.parse_qs(asked.query) == wanted
                    and self.headers["Authorization"] == "Token secret"
                ):
                    kept.lines += body.splitlines()
                    self.send_response(204)
                else:
                    kept.refused.append(f"{self.path} {self.headers}")
                    self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    @contextlib.contextmanager
    def started(self) -> Iterator[InfluxDB2]:
        """Listening."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@contextlib.contextmanager
def icinga(
    host: str,
    outputs: Mapping[str, tuple[int, str]],
    graphite: int,
    influxdb: int,
    influxdb2: int,
) -> Iterator[None]:
    """Icinga 2 that runs a service for each check, and writes what they print.

    `outputs` are what the checks printed and how they ended, by their service's name; each
    service's command prints it again.
    """
    user = "nagios" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with folder(user) as top:
        parts = [
            ICINGA.format(host=host, graphite=graphite, influxdb=influxdb, influxdb2=influxdb2)
        ]
        for service, (code, text) in outputs.items():
            said, script = top / f"{service}.txt", top / f"{service}.sh"
            said.write_text(text)
            script.write_text(f"#!/bin/sh\ncat {said}\nexit {code}\n")
            script.chmod(0o755)
            command = service.replace("-", "_")
            parts.append(
                ICINGA_SERVICE.format(command=command, script=script, service=service, host=host)
            )
        (top / "icinga2.conf").write_text("\n".join(parts))
        places = {
            name: top / name for name in ("DataDir", "CacheDir", "LogDir", "SpoolDir", "InitRunDir")
        }
        for place in places.values():
            place.mkdir()
            shutil.chown(place, user)
        defined = [f"-D{name}={place}" for name, place in places.items()]
        command = ("icinga2", "daemon", "-c", top / "icinga2.conf", *defined)
        with running(command, top / "icinga.out", cwd=top):
            yield
