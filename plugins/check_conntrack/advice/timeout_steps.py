"""Shorten a timeout of the kernel: the command and its undo. Pure functions, no I/O."""

from __future__ import annotations

from .capacity import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .table_profile import TableProfile

_TIMEOUT = "net.netfilter.nf_conntrack_"
_KUBE_PROXY = {
    "tcp_timeout_established": "--conntrack-tcp-timeout-established",
    "tcp_timeout_close_wait": "--conntrack-tcp-timeout-close-wait",
}


def shorter(profile: TableProfile, name: str, wanted: int, caution: str = "") -> Step:
    """Return a shorter timeout for such entries, with the present one and the kernel's default."""
    present, default = profile.timeouts.get(name, (None, 0))
    sysctl = _TIMEOUT + name
    known = "is not known" if present is None else f"is {present} s"
    text = f"{sysctl} {known} (kernel default {default} s)."
    if present is not None and present <= wanted:
        return Step(f"{text} It is short already.")
    keeps = "Existing entries keep the timeout they have."
    if profile.kube_proxy and name in _KUBE_PROXY:
        flag = f"{_KUBE_PROXY[name]}={wanted}s"
        text += f" kube-proxy sets it: start kube-proxy with {flag}."
        return Step(" ".join(filter(None, (text, keeps, caution))))
    command = f"{profile.command}sysctl -w {sysctl}="
    undo = (f"{command}{default if present is None else present}",)
    text += " Shorten it for new entries."
    return Step(" ".join(filter(None, (text, keeps, caution))), (f"{command}{wanted}",), undo)
