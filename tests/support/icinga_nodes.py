"""Icinga 2 as a master and an agent, each a real daemon in namespaces of its own.

Each has a network namespace with a table of its own, and a process and a mount namespace in which
the suite lies in the plugin folder, the sudoers file is in force, and no other network namespace
of the machine is seen. Nothing of it is left when the daemons end.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support.netns import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TREE = Path(__file__).parent.parent.parent
SHIPPED = TREE / "icinga2"
COMMANDS = SHIPPED / "conntrack-commands.conf"
SERVICES = SHIPPED / "conntrack-services.conf"
PLUGINS = "/usr/lib/nagios/plugins"
READER = f"{PLUGINS}/check_conntrack/kernel/reader.py"
SUDOERS = TREE / "nrpe" / "sudoers"
NRPE = "/usr/sbin/nrpe"
USER = ("setpriv", "--reuid", "nagios", "--regid", "nagios", "--clear-groups")
# Folders of the daemon's user.
OWN = ("etc", "data", "log", "cache", "spool", "run", "seen", "seen.new", "home")
PATIENCE = 60  # seconds until something is taken for broken
PROGRAMS = ("icinga2", "sudo", "visudo", "ip", "conntrack", "unshare", "setpriv", "openssl", NRPE)

# Other network namespaces of the machine are let go, those that are named are found again. $1 is
# the folder of the node, then come the names up to --, then the command.
SETTLE = r"""
set -e
top=$1; shift
mount --bind "$top/plugins" /usr/lib/nagios/plugins
mount --bind "$top/sudoers.d" /etc/sudoers.d
mount --bind "$top/home" /var/lib/nagios
mkdir "$top/netns"
for name; do
    if [ "$name" = -- ]; then break; fi
    : > "$top/netns/$name"
    mount --bind "/run/netns/$name" "$top/netns/$name"
done
awk '$0 ~ / - nsfs / && index($5, "/run/netns/") == 1 { print $5 }' /proc/self/mountinfo |
    while read -r mounted; do umount "$mounted"; done
mount -t tmpfs none /run/netns
while [ "$1" != -- ]; do
    : > "/run/netns/$1"
    mount --bind "$top/netns/$1" "/run/netns/$1"
    shift
done
shift
"$@"
"""
# Beside Icinga's own daemon.
NRPE_TOO = 'nrpe -c "$0" -f & exec "$@"'
NRPE_CONFIG = """
pid_file={top}/run/nrpe.pid
allowed_hosts=192.0.2.1
dont_blame_nrpe=0
include={top}/etc/conntrack.cfg
"""

# Stands for python3 in the daemon's PATH, notes what it was started with, and lets it go on.
NOTING = """\
#!/bin/sh
note=$(mktemp {seen}.new/XXXXXXXX)
printf '%s\\0' "$@" > "$note"
mv "$note" {seen}
exec /usr/bin/python3 "$@"
"""

CONSTANTS = """
const PluginDir = "/usr/lib/nagios/plugins"
const PluginContribDir = "/usr/lib/nagios/plugins"
const NodeName = "{name}"
const ZoneName = "{name}"
include <itl>
include <plugins>
include <plugins-contrib>
"""

CLUSTER = """
object ApiListener "api" {
    accept_commands = true
    accept_config = true
}
object ApiUser "test" {
    password = "secret"
    permissions = [ "*" ]
}
object Zone "global-templates" { global = true }
object Endpoint "master" { host = "192.0.2.1" }
object Zone "master" { endpoints = [ "master" ] }
object Endpoint "agent" { host = "192.0.2.2" }
object Zone "agent" {
    endpoints = [ "agent" ]
    parent = "master"
}
"""

MASTER = """
object CheckerComponent "checker" { }
// Checks are executed when a test asks, as if it were their time, and at no other.
object IcingaApplication "app" {
    enable_host_checks = false
    enable_service_checks = false
}
object NotificationComponent "notification" { }
object User "on-call" { }
object NotificationCommand "note" {
    command = [
        ConfigDir + "/note",
        "$notification.type$ $host.name$!$service.name$ $service.state$"
    ]
}
apply Notification "on-call" to Service {
    command = "note"
    users = [ "on-call" ]
    assign where host.vars.notified
}
"""


class Checked(NamedTuple):
    """A check's result as Icinga has understood it.

    `perfdata` are the values of its own parser by their labels, `command` what it executed.
    """

    state: int
    output: str
    perfdata: dict[str, dict[str, Any]]
    command: list[str]
    source: str
    attributes: dict[str, Any]


class Node:
    """An Icinga 2 daemon; its configuration is `config` beside the shipped files."""

    def __init__(self, name: str, top: Path, config: str, netns: Namespace) -> None:
        self.name = name
        self.top = top
        self.netns = netns
        self.seen = top / "seen"
        self._process: subprocess.Popen[bytes] | None = None
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        for folder in (*OWN, "data/certs", "bin", "sudoers.d"):
            (top / folder).mkdir(parents=True)
        (top / "etc" / "icinga2.conf").write_text(CONSTANTS.format(name=name) + config)
        if name == "master":
            # From where the agent gets the commands.
            shared = top / "etc" / "zones.d" / "global-templates"
            shared.mkdir(parents=True)
            for file in (COMMANDS, SERVICES):
                shutil.copy(file, shared)
        shutil.copy(TREE / "nrpe" / "conntrack.cfg", top / "etc")
        (top / "etc" / "nrpe.cfg").write_text(NRPE_CONFIG.format(top=top))
        note = top / "etc" / "note"
        note.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> {top}/log/notes\n')
        python = top / "bin" / "python3"
        python.write_text(NOTING.format(seen=self.seen))
        for program in (note, python):
            program.chmod(0o755)

    def install(self, tree: Path) -> None:
        """Put the suite where this node finds plugins, and the right to start the reader."""
        shutil.copytree(tree, self.top / "plugins")
        for program in Path(PLUGINS).glob("check_nrpe"):
            shutil.copy2(program, self.top / "plugins")
        sudoers = self.top / "sudoers.d" / "check-conntrack"
        shutil.copy(SUDOERS, sudoers)
        sudoers.chmod(0o440)
        subprocess.run(["visudo", "-c", "-f", sudoers], check=True, capture_output=True)
        for folder in OWN:
            for path in (self.top / folder, *(self.top / folder).rglob("*")):
                shutil.chown(path, "nagios", "nagios")

    def command(self, *words: str) -> list[str]:
        """The command line of icinga2 with the folders of this node."""
        constants = {
            "ConfigDir": "etc",
            "ZonesDir": "etc/zones.d",
            "DataDir": "data",
            "LogDir": "log",
            "CacheDir": "cache",
            "SpoolDir": "spool",
            "InitRunDir": "run",
        }
        made = ["icinga2", *words]
        for constant, folder in constants.items():
            made += ["-D", f"Configuration.{constant}={self.top / folder}"]
        return made

    def call(self, *words: str) -> str:
        """Return what an icinga2 command prints that succeeds."""
        done = subprocess.run(
            [*USER, *self.command(*words)], capture_output=True, text=True, cwd="/"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def validate(self, config: str = "") -> tuple[int, str]:
        """Return whether the daemon takes `config` behind its configuration, and its words."""
        file = self.top / "etc" / "tried.conf"
        file.write_text((self.top / "etc" / "icinga2.conf").read_text() + config)
        words = self.command("daemon", "-C", "-c", str(file))
        done = subprocess.run([*USER, *words], capture_output=True, text=True, cwd="/")
        return done.returncode, done.stdout + done.stderr

    def certified_by(self, authority: Node) -> None:
        """Have the request for a certificate signed, and trust the authority."""
        certs, there = self.top / "data" / "certs", authority.top / "data"
        request, signed = there / f"{self.name}.csr", there / f"{self.name}.crt"
        shutil.copy2(certs / request.name, request)
        shutil.chown(request, "nagios", "nagios")
        authority.call("pki", "sign-csr", "--csr", str(request), "--cert", str(signed))
        for file in (signed, there / "ca" / "ca.crt"):
            shutil.copy2(file, certs)
            shutil.chown(certs / file.name, "nagios", "nagios")
        self._context.load_verify_locations(certs / "ca.crt")

    @contextlib.contextmanager
    def running(self, names: Sequence[str]) -> Iterator[Node]:
        """The daemon at work, an NRPE agent beside it; it sees these network namespaces alone."""
        path = f"PATH={self.top / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
        with open(self.top / "log" / "console", "wb") as console:
            self._process = subprocess.Popen(
                [
                    # Whatever becomes of the tests.
                    *("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.netns.name),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    # Growth needs 20 minutes of uptime, and the machine may have just booted.
                    *("--time", "--boottime", "86400"),
                    *("sh", "-c", SETTLE, "sh", str(self.top), *names, "--"),
                    *(*USER, "env", "-i", path),
                    *("sh", "-c", NRPE_TOO, f"{self.top}/etc/nrpe.cfg", *self.command("daemon")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        try:
            self._wait_until_up()
            yield self
        finally:
            # With it ends the first process of the namespace, and with that all others.
            self._process.kill()
            self._process.wait()

    def _wait_until_up(self) -> None:
        def up() -> bool:
            assert self._process
            assert self._process.poll() is None, self.console()
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(self.get("/v1/status/ApiListener"))
            return False

        wait_until(up, self.console)

    def console(self) -> str:
        """Return what the daemon said."""
        return (self.top / "log" / "console").read_text()

    # the API

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the answer of the REST API."""
        with self.netns.inside():
            plain = socket.create_connection(("127.0.0.1", 5665), timeout=PATIENCE)
        secure = self._context.wrap_socket(plain)
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = secure
        token = "dGVzdDpzZWNyZXQ="  # test:secret
        headers = {"Authorization": f"Basic {token}", "Accept": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else {}
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The results of a request that succeeds."""
        status, answer = self.request("GET", path)
        assert status == 200, answer
        return answer["results"]

    def post(self, path: str, body: object) -> Any:
        """The results of a request that changes something and succeeds."""
        status, answer = self.request("POST", path, body)
        assert status == 200, answer
        return answer["results"]

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of Icinga's language is to the running daemon."""
        asked = {"command": expression, "session": "tests", "sandboxed": 0}
        query = urllib.parse.urlencode(asked, quote_via=urllib.parse.quote)
        (result,) = self.post(f"/v1/console/execute-script?{query}", None)
        assert result["code"] == 200, result
        return result["result"]

    def tries(self, expression: str) -> Any:
        """The same of a daemon that may be about to start again."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.evaluate(expression)
        return None

    def add_host(self, name: str, **variables: object) -> tuple[int, Any]:
        """Make a host as the API does; services follow from the shipped rules."""
        attributes = {"check_command": "dummy", "vars": variables}
        return self.request("PUT", f"/v1/objects/hosts/{name}", {"attrs": attributes})

    @contextlib.contextmanager
    def host(self, name: str, **variables: object) -> Iterator[str]:
        """A host with these variables, for a while."""
        status, answer = self.add_host(name, **variables)
        assert status == 200, answer
        try:
            yield name
        finally:
            status, answer = self.request("DELETE", f"/v1/objects/hosts/{name}?cascade=1")
            assert status == 200, answer

    def service(self, host: str, service: str) -> dict[str, Any]:
        """The attributes of a service."""
        name = urllib.parse.quote(f"{host}!{service}", safe="")
        (result,) = self.get(f"/v1/objects/services/{name}")
        return dict(result["attrs"])

    def services(self, host: str) -> set[str]:
        """The names of the services of a host."""
        query = urllib.parse.urlencode({"filter": f'host.name=="{host}"', "attrs": "name"})
        return {each["attrs"]["name"] for each in self.get(f"/v1/objects/services?{query}")}

    def check(self, host: str, service: str) -> Checked:
        """Let the daemon execute a check now; what it has made of the answer."""
        asked = time.time()
        body = {"type": "Service", "service": f"{host}!{service}", "force": True}
        (result,) = self.post("/v1/actions/reschedule-check", body)
        assert result["code"] == 200, result
        last: dict[str, Any] = {}

        def done() -> bool:
            nonlocal last
            last = self.service(host, service)
            result = last["last_check_result"]
            return bool(result) and result["execution_start"] >= asked

        wait_until(done, self.console)
        result = last["last_check_result"]
        parsed = self.evaluate(
            f'get_service("{host}", "{service}").last_check_result.performance_data'
            ".map(p => if (typeof(p) == String) { parse_performance_data(p) } else { p })"
        )
        return Checked(
            int(last["state"]),
            result["output"],
            {value["label"]: value for value in parsed or ()},
            result["command"],
            result["check_source"],
            last,
        )

    def report(self, host: str, service: str, state: int, output: str = "") -> None:
        """Hand in a result, as if a check had been executed."""
        body = {
            "type": "Service",
            "service": f"{host}!{service}",
            "exit_status": state,
            "plugin_output": output or f"state {state}",
        }
        (result,) = self.post("/v1/actions/process-check-result", body)
        assert result["code"] == 200, result

    def notes(self) -> list[str]:
        """The notifications that were sent."""
        file = self.top / "log" / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def starts(self, name: str) -> list[list[str]]:
        """The distinct arguments that a check was started with since any was asked for last."""
        found = []
        for file in self.seen.iterdir():
            plugin, *arguments = [word.decode() for word in file.read_bytes().split(b"\0")[:-1]]
            if plugin == f"{PLUGINS}/check_conntrack_{name}" and arguments not in found:
                found.append(arguments)
            file.unlink()
        return found


def certify(authority: Node, *others: Node) -> None:
    """Make a certificate authority, and a key and a certificate for each node.

    The keys of `icinga2 pki` itself are four times as long, and take half a minute.
    """
    ca = authority.top / "data" / "ca"
    ca.mkdir()
    _request(ca / "ca.key", ca / "ca.crt", "Icinga CA", "rsa:2048", "-x509", "-days", "2")
    (ca / "serial.txt").write_text("01")
    shutil.chown(ca, "nagios", "nagios")
    for node in (authority, *others):
        certs = node.top / "data" / "certs"
        _request(certs / f"{node.name}.key", certs / f"{node.name}.csr", node.name, "rsa:2048")
    for node in (authority, *others):
        node.certified_by(authority)


def _request(key: Path, made: Path, name: str, kind: str, *more: str) -> None:
    words = ["openssl", "req", "-newkey", kind, "-nodes", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*words, "-subj", f"/CN={name}", *more], check=True, capture_output=True)
    for file in (key, made):
        shutil.chown(file, "nagios", "nagios")


def wait_until(condition: Callable[[], object], why: Callable[[], str] = str) -> None:
    """Wait for something that comes soon; fails where it does not."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, why()[-3000:]
        time.sleep(0.1)


@contextlib.contextmanager
def namespaces(number: int) -> Iterator[list[Namespace]]:
    """So many network namespaces."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Namespace()) for _ in range(number)]


def join(master: Namespace, agent: Namespace) -> None:
    """A wire between two network namespaces."""
    words = ["ip", "link", "add", "wire", "netns", master.name, "type", "veth"]
    subprocess.run([*words, "peer", "name", "wire", "netns", agent.name], check=True)
    for namespace, address in ((master, "192.0.2.1/24"), (agent, "192.0.2.2/24")):
        namespace.run("ip", "address", "add", address, "dev", "wire")
        namespace.run("ip", "link", "set", "wire", "up")
