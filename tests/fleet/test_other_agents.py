"""Agents that know nothing of Nagios take what the checks print (docs/deploy.md)."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

from support.graph_stores import folder, free_port, listens, running, until

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
ZABBIX = """\
PidFile={top}/zabbix.pid
LogType=console
Server=127.0.0.1
ListenIP=127.0.0.1
ListenPort={port}
StartAgents=1
Hostname=test
{parameter}
"""


def documented(key: str, tree: Path, python: str) -> str:
    """The line of the document for a key, with the plugins where they are here."""
    line = re.search(
        rf"^    (UserParameter={re.escape(key)},.*)$", DEPLOY.read_text(), re.MULTILINE
    )[1]
    assert "/usr/lib/nagios/plugins/" in line
    return line.replace("/usr/lib/nagios/plugins/", f"{python} {tree}/")


def asked(port: int, key: str) -> str:
    """The agent's answer to a passive check; both are a header with the length, and a text."""
    head = struct.Struct("<4sBII")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(head.pack(b"ZBXD", 1, len(key), 0) + key.encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    magic, flags, length, _ = head.unpack_from(answer)
    assert (magic, flags) == (b"ZBXD", 1)
    assert len(answer) == head.size + length
    return answer[head.size :].decode()


def test_the_line_for_zabbix_gives_text_and_numbers(need, installed):
    need("zabbix_agentd")
    tree, python = installed
    with folder("zabbix") as top:
        port = free_port()
        parameter = documented("conntrack.usage", tree, python)
        configuration = top / "zabbix_agentd.conf"
        configuration.write_text(ZABBIX.format(top=top, port=port, parameter=parameter))
        command = ("zabbix_agentd", "--foreground", "--config", configuration)
        with running(command, top / "zabbix.out", cwd=top) as agent:
            until(lambda: listens(port), "zabbix_agentd", agent)

            # The agent waits three seconds, which a busy machine may need.
            def answered() -> str:
                answer = asked(port, "conntrack.usage")
                return "" if answer.startswith("ZBX_NOTSUPPORTED\0Timeout") else answer

            text = until(answered, "an answer in time", agent)
    assert text.startswith("CONNTRACK_USAGE OK - ")
    expression = re.search(r"`(usage=\S+)`\s+with\s+output\s+`\\1`", DEPLOY.read_text())[1]
    assert 0 <= float(re.search(expression, text)[1]) <= 100
