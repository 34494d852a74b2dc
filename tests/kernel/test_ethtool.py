"""The ethtool ioctl on a real interface, as a user without privileges."""

from __future__ import annotations

import os
import sys

import check_conntrack
from support.netns import Namespace

SCRIPT = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
from check_conntrack.kernel import ethtool
from check_conntrack.kernel.source import KernelError
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    print(ethtool.driver(link, "cct0"))
    statistics = ethtool.statistics(link, "cct0")
    print(statistics["peer_ifindex"], len(statistics))
    for name in ("cct9", "lo"):
        try:
            print(ethtool.statistics(link, name))
        except KernelError as error:
            print(error)
"""


def test_ethtool_reads_the_statistics_of_a_veth_as_nobody(need):
    need("ip")
    plugins = os.path.dirname(os.path.dirname(check_conntrack.__file__))
    with Namespace() as namespace:
        namespace.ip("link add cct0 type veth peer name cct1")
        peer = namespace.run("cat", "/sys/class/net/cct1/ifindex").strip()
        told = namespace.run("ethtool", "-S", "cct0", check=False) if _has("ethtool") else ""
        out = namespace.run("env", f"PYTHONPATH={plugins}", sys.executable, "-c", SCRIPT)
    driver, numbers, missing, loopback = out.splitlines()
    assert driver == "veth"
    assert numbers.split()[0] == peer
    assert missing == "cct9: No such device"
    assert loopback in ("{}", "lo: Operation not supported")
    if told:
        assert int(numbers.split()[1]) == len(told.splitlines()) - 1


def _has(program):
    return any(
        os.access(os.path.join(folder, program), os.X_OK)
        for folder in os.environ.get("PATH", "").split(os.pathsep)
    )
