"""The walk of docs/deploy.md, from an empty server to the first graph, in a clean Debian."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.netns import Namespace

from .conftest import TREE, System, build, done, only

WALK = "From an empty server to the first graph"
# Steps 1 to 6. Icinga Web, the seventh, is set up by its wizard.
STEPS = [str(number) for number in range(1, 7)]
# The daemons live in a network namespace of their own, apt-get fetches from outside it.
APT_GET = """\
#!/bin/sh
exec nsenter --net="/proc/self/fd/$OUTSIDE" /usr/bin/apt-get "$@"
"""
# The shared memory of a server. Then, after the walk, what the graph was drawn of.
BEFORE = "set -ex\nmount -t tmpfs tmpfs /dev/shm\n"
AFTER = """
set +x
echo "whisper: $(whisper-info $files/conntrack-usage/nrpe/perfdata/usage/value.wsp | tr '\\n' ' ')"
echo "drawn: $(curl -fsS "http://127.0.0.1:8080/render?from=-1h&format=json&target=$usage")"
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


@pytest.fixture
def server(systems, tmp_path):
    """A clean Debian 12 with the package in root's directory, made to be without systemd."""
    clean = systems["bookworm"].wait()
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
        }.items():
            system.path(file).write_text(text)
            system.path(file).chmod(0o755)
        shutil.copy(only(build("deb", tmp_path), "*.deb"), system.path("/root"))
        yield system
    finally:
        shutil.rmtree(top, ignore_errors=True)


def test_deploy_document_leads_from_an_empty_server_to_the_first_graph(server, need):
    need("ip", "nft", "unshare", "chroot")
    server.path("/root/walk").write_text(BEFORE + walk() + AFTER)
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with Namespace() as namespace:
            namespace.track()
            ended = subprocess.run(
                server.command("env", "--chdir=/root", "sh", "walk", netns=namespace),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=500,
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
    # Both runs by hand had an answer of the kernel.
    assert re.search(r"^CONNTRACK_TABLE OK - \d+ of \d+ entries", ended.stdout, re.MULTILINE)
    assert re.search(r"^CONNTRACK_USAGE OK - \d+ of \d+ entries", ended.stdout, re.MULTILINE)
