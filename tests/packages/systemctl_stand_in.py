#!/usr/bin/python3
"""Stand in for `systemctl restart UNIT` where no systemd runs: run the daemon that the unit names.

Like systemd it reads the unit's user, environment and commands, and makes the folders that
tmpfiles.d names.
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

TCP_LISTEN = "0A"


def listening():
    """Count the listening sockets."""
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()
    return sum(line.split()[3] == TCP_LISTEN for line in lines)


def variables(text):
    """Return the assignments in the text of an environment file."""
    lines = [line for line in text.splitlines() if re.match(r"\w+=", line)]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def expanded(line, environment):
    """Return the words of a command: one for ${NAME}, even if it is empty; for $NAME its words."""
    for word in shlex.split(line):
        if re.fullmatch(r"\$\w+", word):
            yield from environment.get(word[1:], "").split()
        else:
            yield re.sub(r"\$\{(\w+)\}", lambda name: environment.get(name[1], ""), word)


def stop(process):
    """End a process, or a group if it is negative, and wait until its ports are free."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            os.kill(process, 0)
            time.sleep(0.1)
        os.kill(process, signal.SIGKILL)


verb, unit = sys.argv[1:]
assert verb == "restart"
for file in pathlib.Path("/usr/lib/tmpfiles.d").glob("*.conf"):
    for path, mode, user, group in re.findall(
        r"^d\s+(\S+)\s+(\d+)\s+(\w+)\s+(\w+)", file.read_text(), re.MULTILINE
    ):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, int(mode, 8))
        shutil.chown(path, user, group)

text = pathlib.Path(f"/lib/systemd/system/{unit}.service").read_text()
settings = re.findall(r"^(\w+)=-?(.*)$", text, re.MULTILINE)
one = dict(settings)
environment = dict(os.environ)
for key, value in settings:
    if key == "Environment":
        environment.update(variables(value))
    elif key == "EnvironmentFile" and os.path.exists(value):
        environment.update(variables(pathlib.Path(value).read_text()))

running = pathlib.Path(f"/run/stand-in-{unit}")
if running.exists():
    stop(-int(running.read_text()))
    # One that has left its group.
    with contextlib.suppress(FileNotFoundError):
        stop(int(pathlib.Path(one.get("PIDFile", f"/run/{unit}/{unit}.pid")).read_text()))
become = []
if "User" in one:
    become = ["setpriv", "--reuid", one["User"], "--regid", one["User"], "--init-groups"]
before = listening()
with open(f"/var/log/{unit}.out", "ab") as log:
    for value in (value for key, value in settings if key in ("ExecStartPre", "ExecStart")):
        command = [*become, *expanded(value, environment)]
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        if one["Type"] == "forking" or value == one.get("ExecStartPre"):
            assert process.wait() == 0, command
        running.write_text(str(process.pid))
if one["Type"] == "simple":
    end = time.monotonic() + 20
    while listening() <= before and time.monotonic() < end:
        time.sleep(0.1)
