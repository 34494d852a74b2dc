"""A node as container platforms set it up: namespaces, control groups, and folders of pods.

The namespaces and the processes in them are real; their control groups are those that kubelet,
Docker, LXC and systemd make, in version 1 or 2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support import guard
from support.netns import Namespace, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTAINER_ID = "3f2a9c0e12ab" + "0123456789abcdef" * 3 + "4567"


class Tenant(NamedTuple):
    """A namespace of a node: its control group, its address, and a folder below /var/log/pods."""

    group: str
    address: str
    folder: str = ""
    containers: tuple[str, ...] = ("app",)


def pod(number: int, name: str, address: str, *, systemd: bool) -> Tenant:
    """Return a pod in the control groups of kubelet's driver `systemd` or `cgroupfs`."""
    uid = f"{number:08x}-aaaa-4bbb-8ccc-0123456789ab"
    identity = f"{number:064x}"
    if systemd:
        burstable = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable"
        slice_ = f"{burstable}-pod{uid.replace('-', '_')}.slice"
        group = f"{slice_}/cri-containerd-{identity}.scope"
    else:
        group = f"kubepods/besteffort/pod{uid}/{identity}"
    namespace, _, pod_name = name.partition("/")
    return Tenant(group, address, f"{namespace}_{pod_name}_{uid}")


def tenants() -> list[Tenant]:
    """Return those of the staged node: 26 pods, and containers of other kinds."""
    pods = [
        pod(n, f"shop/cart-7d9f-{n:02d}", f"10.244.0.{n}", systemd=n % 2 == 0) for n in range(1, 27)
    ]
    return [
        *pods,
        Tenant(f"system.slice/docker-{CONTAINER_ID}.scope", "172.17.0.2"),
        Tenant("lxc.payload.web1/init.scope", "10.0.3.11"),
        Tenant(f"machine.slice/libpod-{'ab' * 32}.scope/container", "10.88.0.5"),
        Tenant("qemu.slice/112.scope", "10.0.4.12"),
    ]


class Groups:
    """The control groups that a node's processes are in, of one version; removed at the end."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._stack = contextlib.ExitStack()
        self._made: list[Path] = []
        self.root = Path()

    def __enter__(self) -> Groups:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="cct-cgroup-")))
        kind, options = ("cgroup2", "rw") if self.version == 2 else ("cgroup", "none,name=systemd")
        words = ["mount", "-t", kind, "-o", options, "none", str(folder)]
        subprocess.run(words, check=True, capture_output=True)
        self._stack.callback(subprocess.run, ["umount", str(folder)], check=True)
        self._stack.enter_context(guard.undone_if_killed(["umount", str(folder)]))
        self.root = folder
        self._stack.callback(self._remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, pid: int, group: str) -> None:
        """Move a process into a group, made with those above it."""
        path = self.root
        for part in group.split("/"):
            path /= part
            if not path.exists():
                path.mkdir()
                self._made.append(path)
        (path / "cgroup.procs").write_text(str(pid))

    def _remove(self) -> None:
        for path in reversed(self._made):
            wait_until(lambda path=path: _removed(path))


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


SERVER = """
import ctypes, os, socket, sys, time
ctypes.CDLL(None).prctl(15, b"nginx")  # PR_SET_NAME
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
time.sleep(600)
"""


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class Node:
    """A staged node, `host` being the namespace that stands for the host's own."""

    def __init__(self, version: int) -> None:
        self._stack = contextlib.ExitStack()
        self.groups = Groups(version)
        self.host = Namespace()
        self.logs = Path()

    def __enter__(self) -> Node:
        with self._stack:
            enter = self._stack.enter_context
            enter(self.groups)
            self.logs = Path(tempfile.mkdtemp(prefix="cct-logs-"))
            self._stack.callback(shutil.rmtree, self.logs)
            (self.logs / "pods").mkdir(mode=0o750)
            enter(self.host)
            self.host.track()
            for tenant in tenants():
                self.add(tenant)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, tenant: Tenant, *command: str) -> Namespace:
        """Add a namespace with a process in it, as a network plugin and a runtime do."""
        namespace = self._stack.enter_context(Namespace(f"cni-{uuid.uuid4()}"))
        namespace.ip(f"addr add {tenant.address}/32 dev lo\n")
        self.start(namespace, tenant.group, *(command or ("sleep", "600")))
        if tenant.folder:
            self._stack.callback(shutil.rmtree, self.logs / "pods" / tenant.folder)
            for container in tenant.containers:
                (self.logs / "pods" / tenant.folder / container).mkdir(parents=True)
        return namespace

    def start(self, namespace: Namespace, group: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process in a namespace and a control group.

        It stands still until it is in its group: sockets keep the group they were made in.
        """
        still = ["sh", "-c", 'kill -STOP $$; exec "$@"', "sh"]
        process = subprocess.Popen(
            [*still, "nsenter", f"--net={namespace.path}", *command], stdout=subprocess.PIPE
        )
        assert process.stdout
        self._stack.callback(process.stdout.close)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._stack.enter_context(guard.undone_if_killed(["kill", "-9", str(process.pid)]))
        assert wait_until(lambda: _is_stopped(process.pid))
        self.groups.put(process.pid, group)
        process.send_signal(signal.SIGCONT)
        assert wait_until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == namespace.inode)
        return process

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """End what is added and started meanwhile."""
        with contextlib.ExitStack() as stack:
            before, self._stack = self._stack, stack
            try:
                yield
            finally:
                self._stack = before

    def serve(self, address: str, port: int, user: int = 0) -> int:
        """Let a unit of the host, a program called nginx, listen; return its process id."""
        self.host.ip(f"addr replace {address}/32 dev lo\n")
        become = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
        server = ["/usr/bin/python3", "-c", SERVER, address, str(port)]
        process = self.start(self.host, "system.slice/nginx.service", *become, *server)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        return process.pid

    def before(self) -> list[str]:
        """Return a prefix that runs a command on this host, with its folders of pods."""
        script = f'mount --bind {self.logs} /var/log; exec "$@"'
        enter = ["nsenter", f"--net={self.host.path}"]
        return ["unshare", "-m", "sh", "-ec", script, "sh", *enter]


CROWD = """
import ctypes, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)


def set_address(packed):
    attributes = struct.pack("=HH4sHH4s", 8, 1, packed, 8, 2, packed)
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.send(struct.pack("=IHHII", 16 + len(body), 20, 0x605, 1, 0) + body)  # RTM_NEWADDR
        assert struct.unpack_from("=i", link.recv(4096), 16) == (0,)


for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET
        set_address(bytes((10, 245, number >> 8, number & 255)))
        os.write(1, b".")
        signal.pause()
signal.pause()
"""


@contextlib.contextmanager
def crowd(number: int) -> Iterator[None]:
    """Have so many network namespaces, each with a process and an address of its own."""
    command = ["/usr/bin/python3", "-c", CROWD, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout
            assert len(parent.stdout.read(number)) == number
            yield
        finally:
            parent.kill()
