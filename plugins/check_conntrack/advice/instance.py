"""Advise where EC2 itself refuses packets. Pure functions, no input or output.

Source: "Amazon EC2 security group connection tracking" and "Monitor network performance for ENA
settings" in the EC2 User Guide; modify-network-interface-attribute in the AWS CLI reference.
"""

from __future__ import annotations

import re

from .capacity import TABLE_CHECK, Step, lines_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

CONNECTIONS = frozenset({"instance_available", "instance_usage", "instance_refused"})
LINKLOCAL = frozenset({"linklocal_refused"})
_IMDS = "http://169.254.169.254/latest"
_TOKEN = f"token=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' {_IMDS}/api/token)"
_ENI = (
    f'eni=$(curl -sH "X-aws-ec2-metadata-token: $token" {_IMDS}/meta-data/network/interfaces/macs/'
    "$(cat /sys/class/net/{}/address)/interface-id)"
)
_DESCRIBE = (
    'aws ec2 describe-network-interfaces --network-interface-ids "$eni" '
    "--query 'NetworkInterfaces[].[Groups, ConnectionTrackingConfiguration]'"
)
_MODIFY = (
    'aws ec2 modify-network-interface-attribute --network-interface-id "$eni" '
    # In JSON: Icinga Web would put an invisible blank behind a comma of the short form.
    "--connection-tracking-specification "
    """'{{"TcpEstablishedTimeout": {}, "UdpStreamTimeout": {}}}'"""
)
_NAME = re.compile(r"[A-Za-z0-9_.@-]+", re.ASCII)


def advise(labels: Collection[str], interface: str) -> list[str]:
    """Return the lines that say what to do about alarms of these labels.

    interface: the one that alarms, or that has the least left; empty where that is not known.
    """
    steps = []
    if CONNECTIONS.intersection(labels):
        steps += _connections(interface if _NAME.fullmatch(interface) else "eth0")
    if LINKLOCAL.intersection(labels):
        steps += _linklocal()
    return lines_of(steps)


def _connections(interface: str) -> list[Step]:
    return [
        Step(
            "EC2 tracks the connections of security groups itself, at a limit of the instance "
            "type: no sysctl changes it. Find out what opens the connections:",
            (TABLE_CHECK,),
        ),
        Step(
            "Change the security group so that EC2 does not track them: allow the port from "
            "0.0.0.0/0 and ::/0, and all ports in the other direction. Filter with a network ACL "
            f"then. See the groups and the idle timeouts of {interface} (AWS CLI):",
            (_TOKEN, _ENI.format(interface), _DESCRIBE),
        ),
        Step(
            "Let EC2 forget idle connections sooner: by default it does after 5 days (Nitro v6 "
            "types: after 350 s, so leave it). Applications need keepalives within that time:",
            (_MODIFY.format(3600, 60),),
            (_MODIFY.format(432000, 180),),
        ),
        Step("Otherwise take a larger instance type, or spread the load over more instances."),
    ]


def _linklocal() -> list[Step]:
    return [
        Step(
            "EC2 takes 1024 packets a second from each interface to its DNS, metadata and time "
            "services, and refuses more: names are not resolved. Cache names on this host "
            "(systemd-resolved, dnsmasq, NodeLocal DNSCache), and see who asks:",
            (f"{TABLE_CHECK} --protocol udp --port 53",),
        )
    ]
