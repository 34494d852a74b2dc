"""Fixtures for the tests of packages: packages, built once; systems to install them into.

A system is made from the distribution's own packages in a folder, and entered by chroot in a mount
and PID namespace of its own: nothing of the machine is changed, and nothing stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nagiosplugin
import pytest

import check_conntrack
from support.commands import Result
from support.machine import machine_limit
from support.netns import Namespace

TREE = Path(__file__).resolve().parent.parent.parent
RELEASES = ("bookworm", "stable")
RPM_RELEASE = "stable"
CHECKS = ("check_conntrack_usage", "check_conntrack_full", "check_conntrack_table")
NAME = "monitoring-plugins-conntrack"
STATE = "/var/lib/check-conntrack"
DISABLED = ".disabled"
# No question has an answer here: a file of the configuration that asks one fails.
APT = ["apt-get", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io"]
# Of the system, what lies where its users look for it, and what can be entered.
ENTER = """\
set -e
root=$1
shift
mount -t proc proc "$root/proc"
for device in null zero full urandom kmsg; do
    [ -e "$root/dev/$device" ] || : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
exec chroot "$root" "$@"
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


def done(*command: object, **options) -> str:
    """Return what a command prints that succeeds; what went wrong stands in the failure."""
    words = [str(word) for word in command]
    options.setdefault("env", {**os.environ, "LC_ALL": "C.UTF-8"})
    ended = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert ended.returncode == 0, f"{' '.join(words)}: {ended.stdout}"
    return ended.stdout


def build(what: str, out: Path, tree: Path = TREE, **environment: str) -> Path:
    """Build a package of the tree as make does; returns where it is."""
    variables = {**os.environ, "PYTHON": sys.executable, **environment}
    done(tree / "packaging" / "build", what, out, env=variables)
    return out


def mirror() -> str:
    """Return where this machine gets Debian's packages from: the release, and no updates to it."""
    wanted = ["--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = done("apt-get", "indextargets", *wanted).split()
    assert found, "apt knows no archive of Debian: apt-get update"
    return found[0]


class System:
    """A minimal system in a folder."""

    def __init__(self, folder: Path, release: str) -> None:
        self.folder = folder
        self.release = release
        self._made: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Make it, in the background."""
        command: list[object] = [
            "unshare",
            "--mount",
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
        ]
        # The lists of packages stay: what a package depends on is to be found.
        command += ["--include=sudo,python3", "--skip=cleanup/apt", self.release, self.folder]
        command.append(mirror())
        self._made = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> System:
        """Until it is made."""
        if self._made:
            said, _ = self._made.communicate(timeout=500)
            assert self._made.returncode == 0, said
            self._made = None
        return self

    def end(self) -> None:
        """Leave nothing behind."""
        if self._made:
            self._made.terminate()
            self._made.communicate()
        # Never into what may still be mounted below it.
        subprocess.run(["rm", "-rf", "--one-file-system", self.folder], stderr=subprocess.DEVNULL)

    def command(self, *words: object, user: str = "", netns: Namespace | None = None) -> list[str]:
        """The command line that runs something inside, as root or as another user."""
        inside: list[str] = []
        if user:
            lines = [line.split(":") for line in self.path("/etc/passwd").read_text().splitlines()]
            ((uid, gid),) = [line[2:4] for line in lines if line[0] == user]
            inside = ["setpriv", "--reuid", uid, "--regid", gid, "--init-groups"]
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]
        command += [str(self.folder), *inside, *map(str, words)]
        return netns.command(*command) if netns else command

    def run(self, *words: object, user: str = "", netns: Namespace | None = None) -> Result:
        """How a command ends that runs inside."""
        ended = subprocess.run(
            self.command(*words, user=user, netns=netns),
            capture_output=True,
            text=True,
            timeout=300,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def done(self, *words: object, **options) -> str:
        """Return what a command prints that runs inside and succeeds."""
        result = self.run(*words, **options)
        assert result.code == 0, f"{words}: {result.out}{result.err}"
        return result.out

    def path(self, inside: str) -> Path:
        """Return where a path inside lies outside."""
        return self.folder / inside.lstrip("/")

    def files(self) -> set[str]:
        """All that lies in it, but for what package managers and users keep for themselves."""
        kept = ("/proc", "/dev", "/tmp", "/var/cache", "/var/log", "/var/lib/dpkg", "/var/lib/apt",
                "/var/lib/rpm", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-",
                "/root", "/run", "/var/lib/systemd")  # fmt: skip
        found = set()
        for top, folders, names in os.walk(self.folder):
            inside = top[len(str(self.folder)) :]
            folders[:] = [name for name in folders if f"{inside}/{name}" not in kept]
            found |= {f"{inside}/{name}" for name in (*names, *folders)}
        return found - set(kept)


class Systems(dict[str, System]):
    """Systems by release, made from the first time on that somebody asks for one."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def __missing__(self, release: str) -> System:
        self[release] = System(self._top / release, release)
        self[release].begin()
        return self[release]


@pytest.fixture(scope="session")
def systems(need):
    """The systems by release."""
    need("mmdebstrap", "unshare", "chroot", "setpriv")
    top = Path(tempfile.mkdtemp(prefix="check-conntrack-systems-"))
    top.chmod(0o755)
    made = Systems(top)
    try:
        yield made
    finally:
        for system in made.values():
            system.end()
        with contextlib.suppress(OSError):
            top.rmdir()


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """A folder with every package, as make leaves it."""
    out = tmp_path_factory.mktemp("dist")
    for what in ("deb", "rpm", "dist"):
        build(what, out)
    # Compiled for the system's Python; the one of the other system compiles for itself.
    return build("pyz", out, PYTHONS="/usr/bin/python3")


@pytest.fixture(scope="session")
def deb(dist):
    """The Debian package."""
    return only(dist, "*.deb")


@pytest.fixture(scope="session")
def rpm(dist):
    """The RPM package."""
    return only(dist, "*.rpm")


@pytest.fixture(scope="session")
def wheel(dist):
    """The wheel."""
    return only(dist, "*.whl")


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Man pages and completions."""
    return build("pages", tmp_path_factory.mktemp("made")) / "pages"


@pytest.fixture(scope="session")
def older(tmp_path_factory):
    """A folder with the packages of the last tag, or else of a changed copy of this tree."""
    tree = tmp_path_factory.mktemp("older") / "tree"
    tags = done("git", "tag", "--list", "v*", "--sort=-v:refname", cwd=TREE).split()
    earlier = [tag for tag in tags if tag != f"v{check_conntrack.__version__}"]
    if earlier:
        done("git", "clone", "--quiet", "--branch", earlier[0], TREE, tree)
    else:
        done("git", "clone", "--quiet", TREE, tree)
        version = tree / "plugins/check_conntrack/__init__.py"
        version.write_text('"""The older version."""\n\n__version__ = "0.0.1"\n')
        for name in ("nrpe/conntrack.cfg", "nrpe/sudoers", "plugins/check_conntrack/gone.py"):
            with (tree / name).open("a") as file:
                file.write("# the older version's\n")
    out = tmp_path_factory.mktemp("older-dist")
    for what in ("deb", "rpm"):
        build(what, out, tree)
    return out


def compiled(system: System) -> bool:
    """No user has to compile what is started thousands of times a day."""
    library = system.path(f"/usr/share/{NAME}/check_conntrack")
    sources = list(library.rglob("*.py"))
    return bool(sources) and all(
        list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")) for path in sources
    )


def make_ready_for_rpm(system: System) -> str:
    """Let Debian's rpm install as into RHEL; returns the folder of what the package depends on."""
    inside = "/usr/lib/python3/dist-packages/nagiosplugin"
    library = system.path(inside)
    if not library.exists():
        shutil.copytree(Path(nagiosplugin.__file__).parent, library)
    if system.run("id", "nrpe").code:
        system.done("useradd", "--system", "nrpe")
    return inside


def only(folder: Path, pattern: str) -> Path:
    """The one file of a name."""
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture
def roomy():
    """Nobody changes the limit of the machine's tables meanwhile: they have room."""
    with machine_limit(262144):
        yield


@pytest.fixture(scope="module")
def filled(need):
    """A network namespace with 40 entries."""
    need("ip", "nft")
    with Namespace() as namespace:
        namespace.track()
        namespace.fill(40)
        yield namespace
