"""A host with a real NRPE agent on it: the files as shipped, installed where they say.

The agent runs in a network namespace of its own, so that its table can be filled, and in a mount
namespace of its own, so that our files lie where they are meant to and nothing of the machine's
own is touched: they are the shipped ones, byte for byte. It begins as its unit begins it, as the
user nagios.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support.commands import Result
from support.netns import Namespace

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "nrpe"
PLUGIN_FOLDER = Path("/usr/lib/nagios/plugins")
CHECK_NRPE = PLUGIN_FOLDER / "check_nrpe"
READER = PLUGIN_FOLDER / "check_conntrack/kernel/reader.py"
UNIT = Path("/lib/systemd/system/nagios-nrpe-server.service")
NRPE = "/usr/sbin/nrpe"
HOME = "/var/lib/nagios"
LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
# What NRPE leaves of its environment (clean_environ in its utils.c).
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "LOGNAME": "nagios",
    "USER": "nagios",
    "HOME": HOME,
    "SHELL": "/usr/sbin/nologin",
}
# The agent's own connections are no part of what it counts here.
UNTRACKED = """
add chain inet tracked raw_output { type filter hook output priority raw; }
add chain inet tracked raw_input { type filter hook prerouting priority raw; }
add rule inet tracked raw_output tcp dport 5666 notrack
add rule inet tracked raw_output tcp sport 5666 notrack
add rule inet tracked raw_input tcp dport 5666 notrack
add rule inet tracked raw_input tcp sport 5666 notrack
"""
MOUNTS = """
set -e
mount --make-rprivate /
top=$1
shift
mount --bind "$top/plugins" /usr/lib/nagios/plugins
mount --bind "$top/sudoers.d" /etc/sudoers.d
mount --bind "$top/nagios" /etc/nagios
mount --bind "$top/home" /var/lib/nagios
mount --bind "$top/limit" /proc/sys/net/netfilter/nf_conntrack_max
mount --bind "$top/meminfo" /proc/meminfo
# Machines with the suite have it. Here only root may write to it, so that state is kept in HOME.
if test -e /var/lib/check-conntrack; then mount --bind "$top/shared" /var/lib/check-conntrack; fi
if test -d "$top/log"; then
    # No ring buffer, whoever looks; the log files are the test's own.
    mount --bind /dev/kmsg /dev/kmsg
    mount -o remount,bind,nodev /dev/kmsg
    mount --bind "$top/log" /var/log
fi
exec "$@"
"""


def commands(file: str) -> dict[str, str]:
    """The commands of a shipped file: name → the line that NRPE gives to the shell."""
    lines = (SHIPPED / file).read_text().splitlines()
    matches = [re.fullmatch(r"command\[(\w+)\]=(.+)", line) for line in lines]
    return {match[1]: match[2] for match in matches if match}


def ambient_capabilities() -> list[str]:
    """The capabilities that the shipped drop-in gives to the agent, as setpriv calls them."""
    lines = (SHIPPED / "capabilities.conf").read_text().splitlines()
    (names,) = (line.split("=")[1] for line in lines if line.startswith("AmbientCapabilities="))
    return [name.removeprefix("CAP_").lower() for name in names.split()]


def as_nagios(*, capabilities: bool) -> list[str]:
    """The prefix that makes a process what the agent's unit makes of it."""
    command = ["setpriv", "--reuid", "nagios", "--regid", "nagios", "--init-groups"]
    if capabilities:
        names = ",".join(f"+{name}" for name in ambient_capabilities())
        command += ["--inh-caps", names, "--ambient-caps", names]
    return command


class Agent:
    """An NRPE agent; start it by `with`.

    `grant` is "sudo", "capabilities" or "nothing". With `own_log` there is no ring buffer, and
    log() writes the kernel log. `arguments` is an nrpe that was built to take arguments.
    """

    def __init__(
        self,
        tree: Path,
        grant: str,
        *,
        own_log: bool = True,
        arguments: Path | None = None,
        settings: str = "",
    ) -> None:
        self.grant = grant
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.netns: Namespace | None = None
        self.top = Path(tempfile.mkdtemp(prefix="check-conntrack-nrpe-"))
        self.top.chmod(0o755)
        try:
            self._install(tree, settings, own_log=own_log)
        except BaseException:
            shutil.rmtree(self.top)
            raise

    def _install(self, tree: Path, settings: str, *, own_log: bool) -> None:
        top = self.top
        shutil.copytree(tree, top / "plugins")
        shutil.copy(CHECK_NRPE, top / "plugins")
        shutil.copy(SHIPPED / "conntrack_arguments", top / "plugins")
        (top / "sudoers.d").mkdir(mode=0o755)
        if self.grant == "sudo":
            file = Path(shutil.copy(SHIPPED / "sudoers", top / "sudoers.d/check-conntrack"))
            file.chmod(0o440)
        (top / "nagios/nrpe.d").mkdir(parents=True)
        for name in ("nrpe.cfg", "nrpe_local.cfg"):
            shutil.copy(Path("/etc/nagios") / name, top / "nagios")
        with (top / "nagios/nrpe.cfg").open("a") as file:
            file.write(f"\npid_file={top}/home/nrpe.pid\nlog_file={top}/home/nrpe.log\n{settings}")
        shutil.copy(SHIPPED / "conntrack.cfg", top / "nagios/nrpe.d")
        if self.arguments:
            shutil.copy(SHIPPED / "conntrack-arguments.cfg", top / "nagios/nrpe.d")
            shutil.copy(self.arguments, top / "nrpe")
        (top / "shared").mkdir(mode=0o755)
        (top / "home").mkdir()
        shutil.chown(top / "home", "nagios", "nagios")
        self.limit(10000)
        # How much memory is available changes from run to run.
        shutil.copyfile("/proc/meminfo", top / "meminfo")
        if own_log:
            (top / "log").mkdir()
            self.log("lo: up", age=7200)

    def __enter__(self) -> Agent:
        try:
            self.netns = Namespace()
            self.netns.__enter__()
            self.netns.track()
            self.netns.nft(UNTRACKED)
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        assert self.netns
        program = self.top / "nrpe" if self.arguments else NRPE
        daemon = [str(program), "-c", "/etc/nagios/nrpe.cfg", "-f"]
        # What is built for these tests has no Diffie-Hellman parameters.
        daemon += ["-n"] if self.arguments else []
        prefix = as_nagios(capabilities=self.grant == "capabilities")
        script = ["sh", "-c", MOUNTS, "sh", self.top, *prefix, *daemon]
        self.process = subprocess.Popen(
            self.netns.command(*script), env=ENVIRONMENT, stdin=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 60
        while self.process.poll() is None:
            if b"NRPE v" in self.ask("_NRPE_CHECK").stdout:
                return
            assert time.monotonic() < give_up, "the agent does not answer"
            time.sleep(0.05)
        pytest.fail(f"nrpe ended with {self.process.returncode}: {self.written()}")

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            finally:
                for pid in self.processes():
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait()
        if self.netns:
            self.netns.__exit__()
        shutil.rmtree(self.top)

    def written(self) -> str:
        """Return what the daemon has logged."""
        file = self.top / "home/nrpe.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def limit(self, entries: int) -> None:
        """Set nf_conntrack_max as this host sees it; the machine's own stays as it is."""
        (self.top / "limit").write_text(f"{entries}\n")

    def fill(self, entries: int) -> None:
        """Let the table hold so many."""
        assert self.netns
        if entries < self.netns.count():
            self.netns.flush()
        self.netns.fill(entries)

    def log(self, message: str, age: float = 0) -> None:
        """Write a line of the kernel's, `age` seconds old, into its log."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age))
        file = self.top / "log/kern.log"
        with file.open("a") as log:
            log.write(f"{stamp} host kernel: {message}\n")
        file.chmod(0o644)

    def inside(self, *command: object) -> list[bytes]:
        """A command line that runs on this host, as root."""
        assert self.process
        words = [word if isinstance(word, bytes) else str(word) for word in command]
        prefix = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "--"]
        return [os.fsencode(word) for word in [*prefix, *words]]

    def ask(self, command: str, *arguments: object, options=()):
        """Ask the agent for a command by check_nrpe, on this host's loopback."""
        plain = ["-n"] if self.arguments else []
        line = [CHECK_NRPE, "-H", "127.0.0.1", *plain, *options, "-c", command]
        if arguments:
            line += ["-a", *arguments]
        return subprocess.run(self.inside(*line), capture_output=True, timeout=300)

    def result(self, command: str, *arguments: str) -> Result:
        """The same, as text."""
        done = self.ask(command, *arguments)
        return Result(done.returncode, done.stdout.decode("ascii"), done.stderr.decode())

    def run_here(self, line: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command's line on this host as the agent would, without the agent."""
        user = as_nagios(capabilities=self.grant == "capabilities")
        command = self.inside(*user, "sh", "-c", line)
        return subprocess.run(command, capture_output=True, timeout=60, env=ENVIRONMENT, cwd="/")

    def as_agent(self, line: str, **options) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as the agent's user on this host, without his capabilities."""
        command = self.inside(*as_nagios(capabilities=False), "sh", "-c", line)
        options = {"env": ENVIRONMENT, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

    def processes(self) -> list[int]:
        """The processes in this host's mount namespace, but for the daemon itself."""
        assert self.process
        found = []
        own = _namespace(self.process.pid)
        for entry in os.listdir("/proc"):
            pid = int(entry) if entry.isdigit() else 0
            if pid and pid != self.process.pid and own and _namespace(pid) == own:
                found.append(pid)
        return found

    def wait_for_the_last(self, seconds: float = 60) -> None:
        """Wait until none of them is left: a daemon's child ends a moment after its answer."""
        give_up = time.monotonic() + seconds
        while self.processes():
            assert time.monotonic() < give_up, self.processes()
            time.sleep(0.1)

    def state_files(self) -> list[Path]:
        """Return what the checks remember."""
        folder = self.top / "home/.local/state/check-conntrack"
        return [path for path in folder.rglob("*") if path.is_file()]


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def run_text(*command: object, **options) -> Result:
    """Run a command to its end."""
    words = [word if isinstance(word, bytes) else str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, **options)
    return Result(done.returncode, done.stdout, done.stderr)


def nrpe_with_arguments() -> Path:
    """The installed nrpe built again, from the same source, to take arguments as others build it.

    It is kept in build/. Debian's own is built without.
    """
    version = _output("dpkg-query", "-W", "-f", "${source:Version}", "nagios-nrpe-server")
    built = ROOT / "build" / f"nrpe-{version}"
    if not built.exists():
        with tempfile.TemporaryDirectory(prefix="check-conntrack-nrpe-") as folder:
            _build(Path(folder), version)
            built.parent.mkdir(exist_ok=True)
            shutil.move(Path(folder) / "tree/src/nrpe", built)
    return built


def _build(folder: Path, version: str) -> None:
    """Fetch and build in a folder, by a list of sources that is no one else's."""
    form = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = ("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    if not _output(*targets):
        _output("apt-get", "update")
    lines = _output(*targets, "Origin: Debian").splitlines()
    assert lines, "apt knows no repository of Debian's"
    (folder / "sources.list").write_text("\n".join(sorted(set(lines))) + "\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "tree").mkdir()
    apt = ["apt-get", "-q"] + [f"-o{name}={value}" for name, value in options.items()]
    _output(*apt, "update", cwd=folder)
    _output(*apt, "source", "--download-only", f"nagios-nrpe={version}", cwd=folder)
    (archive,) = folder.glob("*.orig.tar.*")
    _output("tar", "-C", folder / "tree", "--strip-components=1", "-xf", archive)
    libraries = f"/usr/lib/{_output('gcc', '-print-multiarch')}"
    configure = ["./configure", "-q", "--enable-command-args", "--with-need-dh=no"]
    _output(*configure, f"--with-ssl-lib={libraries}", cwd=folder / "tree")
    _output("make", "-s", "-C", "src", "nrpe", cwd=folder / "tree")


def _output(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
