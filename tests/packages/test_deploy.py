"""The walk of docs/deploy.md, from an empty server to the first graph, in clean Debians."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.graph_stores import templates
from support.netns import Namespace

from .conftest import RELEASES, TREE, System, done

WALK = "From an empty server to the first graph"
STEPS = [str(number) for number in range(1, 8)]
# The daemons live in a network namespace of their own, apt-get fetches from outside it.
APT_GET = """\
#!/bin/sh
exec nsenter --net="/proc/self/fd/$OUTSIDE" /usr/bin/apt-get "$@"
"""
# The shared memory of a server; the walk, twice, and what it leaves in /etc; what the graph was
# drawn of, and what Icinga Web's module makes of its templates.
SCRIPT = """\
set -ex
mount -t tmpfs tmpfs /dev/shm
for round in first second; do
{walk}
find /etc -type f -exec sha256sum {{}} + | sort >/root/$round
done
{after}
"""
AFTER = """\
set +x
echo "whisper: $(whisper-info $files/conntrack-usage/nrpe/perfdata/usage/value.wsp | tr '\\n' ' ')"
echo "drawn: $(curl -fsS "http://127.0.0.1:8080/render?from=-1h&format=json&target=$usage")"
echo "templates: $(php /root/templates.php)"
"""
# The module's own code, started as icingacli starts it.
TEMPLATES = """\
<?php
require_once '/usr/share/php/Icinga/Application/Cli.php';
$argv = $_SERVER['argv'] = ['icingacli'];
$app = Icinga\\Application\\Cli::start('/usr/share/icingaweb2');
$app->getModuleManager()->loadEnabledModules();
class Loaded
{
    use Icinga\\Module\\Graphite\\Graphing\\GraphingTrait;
    public static function names($command)
    {
        return array_keys(self::getAllTemplates()->getTemplates($command));
    }
}
$url = Icinga\\Application\\Config::module('graphite')->get('graphite', 'url');
$names = array_map('Loaded::names', ['conntrack_usage', 'conntrack_full', 'conntrack_table']);
echo json_encode([$url, array_merge(...$names)]);
"""


def walk() -> str:
    """Return the commands of the walk, in order."""
    text = (TREE / "docs" / "deploy.md").read_text()
    chapter = re.split(r"^## ", text.partition(f"## {WALK}\n")[2], flags=re.MULTILINE)[0]
    parts = re.split(r"^### (\d)\. .*$", chapter, flags=re.MULTILINE)
    steps = dict(zip(parts[1::2], parts[2::2]))
    lines = "\n".join(steps[number] for number in STEPS).splitlines()
    commands = [line[4:] for line in lines if line.startswith("    ")]
    assert len(commands) > 40
    return "\n".join(commands) + "\n"


@pytest.fixture(params=RELEASES)
def server(request, systems):
    """A clean Debian with the package in root's directory, made to be without systemd."""
    clean = systems[request.param]
    package = request.getfixturevalue("deb")  # built while the system is made
    clean.wait()
    top = Path(tempfile.mkdtemp(prefix="check-conntrack-server-"))
    top.chmod(0o755)
    try:
        done("cp", "-a", clean.folder, top / "root")
        system = System(top / "root", clean.release)
        shutil.copy("/etc/resolv.conf", system.path("/etc/resolv.conf"))
        name = os.uname().nodename
        system.path("/etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        system.path("/etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        stand_in = Path(__file__).with_name("systemctl_stand_in.py").read_text()
        for file, text in {
            # Packages start nothing; `systemctl` does.
            "/usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
            "/usr/local/bin/apt-get": APT_GET,
            "/usr/local/bin/systemctl": stand_in,
            "/root/templates.php": TEMPLATES,
        }.items():
            system.path(file).write_text(text)
            system.path(file).chmod(0o755)
        shutil.copy(package, system.path("/root"))
        yield system
    finally:
        done("rm", "-rf", "--one-file-system", top)


@pytest.mark.timeout(1000)
def test_deploy_document_leads_from_an_empty_server_to_the_first_graph(server, need):
    need("ip", "nft", "unshare", "chroot")
    server.path("/root/walk").write_text(SCRIPT.format(walk=walk(), after=AFTER))
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with Namespace() as namespace:
            namespace.track()
            ended = subprocess.run(
                server.command("env", "--chdir=/root", "sh", "walk", netns=namespace),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=900,
                pass_fds=[outside],
                env={
                    "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "DEBIAN_FRONTEND": "noninteractive",
                    "OUTSIDE": str(outside),
                },
            )
    finally:
        os.close(outside)
    assert ended.returncode == 0, ended.stdout[-6000:]
    # The graph, of a value that the check printed, in a file with the rules that are shipped.
    assert server.path("/root/usage.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (drawn,) = json.loads(re.search(r"^drawn: (.*)$", ended.stdout, re.MULTILINE)[1])
    values = [value for value, _ in drawn["datapoints"] if value is not None]
    assert values
    assert all(0 <= value < 100 for value in values)
    whisper = re.search(r"^whisper: (.*)$", ended.stdout, re.MULTILINE)[1]
    assert "aggregationMethod: max" in whisper
    assert "xFilesFactor: 0.0" in whisper
    assert "retention: 172800" in whisper
    # Whoever runs the commands again changes nothing.
    first, second = (server.path(f"/root/{name}").read_text() for name in ("first", "second"))
    assert first.count("\n") > 100
    assert second == first
    # Icinga Web's module finds graphite-web, and every template.
    said = re.search(r"^templates: .*?(\[.*)$", ended.stdout, re.MULTILINE)[1]
    assert json.loads(said) == ["http://127.0.0.1:8080", [name for _, name, _ in templates()]]
    # Both runs by hand had an answer of the kernel.
    assert re.search(r"^CONNTRACK_TABLE OK - \d+ of \d+ entries", ended.stdout, re.MULTILINE)
    assert re.search(r"^CONNTRACK_USAGE OK - \d+ of \d+ entries", ended.stdout, re.MULTILINE)
