"""Features of the running kernel, asked of the kernel and not of its version.

A test that needs a feature skips where the kernel lacks it, and says so.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING

import pytest

from check_conntrack.kernel import counters, ctnetlink, netlink
from support import overflow
from support.machine import machine_limit
from support.netns import wait_until

if TYPE_CHECKING:
    from support.netns import Namespace

STATS_CPU = ctnetlink.message(
    counters.IPCTNL_MSG_CT_GET_STATS_CPU, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, 1
)


def has_procfs() -> bool:
    """Tell whether conntrack has files in /proc/net (CONFIG_NF_CONNTRACK_PROCFS)."""
    return os.path.exists("/proc/net/nf_conntrack")


def need_procfs() -> None:
    """Skip where conntrack has no files in /proc/net."""
    if not has_procfs():
        pytest.skip("this kernel has no /proc/net/nf_conntrack")


@functools.cache
def accepts_limit_of_zero() -> bool:
    """Tell whether the kernel takes nf_conntrack_max 0, which means no limit."""
    try:
        with machine_limit(0):
            return True
    except OSError:
        return False


def need_limit_of_zero() -> None:
    """Skip where the kernel refuses nf_conntrack_max 0."""
    if not accepts_limit_of_zero():
        pytest.skip("this kernel refuses nf_conntrack_max 0")


@functools.cache
def log_names_namespaces() -> bool:
    """Tell whether the kernel's "table full" names the namespace: lose packets, and look.

    The host's own messages name none, and may come first where packets of the host are lost too.
    """

    def said(new: overflow.NewMessages, text: str) -> bool:
        overflow.overflow(namespace, datagrams=3)
        return new.hold(text)

    with overflow.namespace() as namespace, overflow.NewMessages() as first:
        # The kernel logs ten lines in five seconds.
        with overflow.NewMessages() as new:
            if wait_until(lambda: said(new, f"table full in netns {namespace.inode},"), 12):
                return True
        assert wait_until(lambda: said(first, "table full, dropping packet"), 40), "nothing logged"
    return False


def need_host_never_suspended() -> None:
    """Skip where the host was suspended: the times of messages in the ring buffer are uncertain.

    printk's clock stands meanwhile, and nothing tells which messages came before. The machines of
    tests/vm say that they were, so that they are older than the windows of the tests.
    """
    if time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC) > 1:
        pytest.skip("this host was suspended")


def need_names_in_log() -> None:
    """Skip where the kernel's messages name no namespace."""
    if not log_names_namespaces():
        pytest.skip("this kernel's log names no namespace")


def limits_chains(namespace: Namespace) -> bool:
    """Tell whether hash chains have a limited length: by the counter of refused inserts."""
    told = counters.parse_stats_cpu(b"".join(namespace.ask(STATS_CPU)))
    return counters.total(told).chaintoolong is not None


def need_chain_limit(namespace: Namespace) -> None:
    """Skip where hash chains may have any length."""
    if not limits_chains(namespace):
        pytest.skip("this kernel has hash chains of any length")
