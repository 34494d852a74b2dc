"""Patterns of what stands before a message in its line; header.py reads it by them."""

from __future__ import annotations

import re

KERNEL = "kernel"
_FACILITY_NAMES = """\
kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp security console clock
local0 local1 local2 local3 local4 local5 local6 local7
"""
FACILITIES = _FACILITY_NAMES.split()
_LEVEL_NAMES = """\
emerg emergency panic alert crit critical err error warn warning notice note info informational
debug trace fatal w e i n d c a v f
"""
LEVELS = frozenset(_LEVEL_NAMES.split())
# Items with a mark of their own. The name of a group says which one it is.
SPECIAL = re.compile(
    # a priority, with the version of RFC 5424
    r"<(?P<priority>[0-9]{1,3})>(?P<version>[1-9] )?"
    r"|(?P<unranked>\A1 )(?=[0-9]{4}-[0-9]{2}-[0-9]{2}T)"
    # the stamp of the kernel: with a CPU (Amlogic), a caller, or the time since the line before;
    # real-time kernels put the CPU behind it
    r"|\[ *(?P<seconds>[0-9]{1,12})\.(?P<fraction>[0-9]{1,9})(?:@[0-9]+)?"
    r"(?: *<[ +]*[0-9.]+ *>)?(?: *[TC][0-9]+)? *\](?: [0-9]{3}:(?= ))?"
    # a record of /dev/kmsg as it is; netconsole may put the kernel's release before it
    r"|(?:[0-9]+\.[\w.+~-]{1,100},)?(?P<kmsg>[0-9]{1,10}),[0-9]{1,20},(?P<micros>[0-9]{1,20}),[^,;\s]*(?:,[^;\s]*)?;"
    # the caller: printk's, Samsung's, MediaTek's
    r"|(?P<caller>\[ *[TC][0-9]{1,10}\]|\[[0-9]+: *[^\]:]{1,40}: *[0-9]+\]"
    r"|[-.]?\([0-9]+\)\[[0-9]+:[^\]]{1,40}\])"
    r"|(?P<dropped>\*\* ?[0-9]+ printk messages? dropped ?\*\*)"
    r"|(?:-- )?message repeated (?P<times>[0-9]{1,9}) times?: \[ ?"
    # dmesg -x
    r"|(?P<facility>[a-z0-9]{1,8}) *:(?:emerg|alert|crit|err|warn|notice|info|debug) *: "
    # the length of a message, where a stream of syslog was recorded
    r"|\A[0-9]{2,5} (?=<[0-9]{1,3}>[1-9] )"
    # Loki's labels
    r'|\{(?:\w+="(?:[^"\\]|\\.)*"(?:, ?)?)+\}'
    # logcat
    r"|[VDIWEF]/(?P<logcat>[\w.-]{1,40}) *\( *[0-9]+\):"
    # a relative time of dmesg
    r"|(?P<relative>\[ *\+[0-9.]+\]|\[ *<[ +]*[0-9.]+ *>\])"
    # UniFi access points
    r'|\((?P<unifi>"[\w.,-]{1,60}")\)'
    r"|\[(?P<bracket>[^\[\]]{1,64})\](?:@[0-9]+)?"
)
# Whatever is between two of them, or none, is blanks and words.
SPACE = re.compile(r"[\s|]+")
WORD = re.compile(r"[^\s\[<|]+")
# Behind a program's name: its process id, or a level.
PID = re.compile(r"\[[\w.@-]{1,40}\]:?")
# Before lines that a search found: the file, the number of the line, or both.
GREP = re.compile(
    r"(?:\(standard input\)|(?![0-9]{1,2}/)(?=[^\s:]*/)[^\s:\"'=]+"
    r"|[^\s:\"'=]+\.(?:log|txt|gz|xz|bz2|zst|[0-9]+)|(?:messages|syslog|kern|dmesg|debug|warn)[\w.-]*):(?:[0-9]+:)?(?=\S|\Z)"
    r"|[0-9]+:(?=[^\W\d]|[<\[]|[0-9]{4}-|\Z)"
)
# cat -n, nl and less -N
LINE_NUMBER = re.compile(r" *[0-9]{1,7}\t| {2,}[0-9]{1,7} (?=[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:)")
# Digits with what separates the parts of a time: one of a form that nobody knows here.
TIMELIKE = re.compile(
    r"(?![0-9]+(?:\.[0-9]+){3}\Z)"
    r"(?:[0-9]{8,}|[0-9]{6}[.,][0-9]+|[0-9]{1,6}(?:(?:-W|[-:./,T+_])[0-9]{1,6}){2,}Z?)"
)
# Talos has the level between the facility and the time.
LEVEL_AND_STAMP = re.compile(r" {0,8}[a-z]{3,9}: (?=\[)")
# RFC 5424, behind the program: process id, message id, structured data.
STRUCTURED_DATA = re.compile(
    r"\S{1,128} +\S{1,64} +(?:-|(?:\[(?:[^\]\"]|\"(?:[^\"\\]|\\.)*\")*\])+) *\ufeff?"
)
# Tags of the kernel, and of daemons that read its log.
DAEMON = re.compile(
    r"/?(?:kernel|kern|klogd|kmsg|dmesg|vmunix|imklog|printk|linux-kernel|"
    r"kern\.[a-z]{1,8}|kernel[-.](?:emerg|alert|crit|err|error|warn|warning|notice|info|debug)|%KERN-[0-9]-[A-Z_]{1,40})",
    re.IGNORECASE,
)
# A priority in words: kern.warn
PRIORITY_NAME = re.compile(r"(?P<facility>[a-z0-9]{2,8})[.:](?P<level>[a-z]{3,8})")
# journalctl -o short-monotonic has the host behind the uptime.
SHORT_MONOTONIC = re.compile(r" ?(?P<host>\S{1,255}) kernel(?:\[[0-9]+\])?: ")
# What shows that a line with a time in brackets is a program's.
APACHE = re.compile(r" \[(?:[a-z_]+:)?[a-z]{3,7}\] \[")
PACKAGE = re.compile(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2} | kernel v?[0-9]+\.[0-9]")
SOURCE_LINE = re.compile(r"[\w/-]+\.[a-z]{1,4}:[0-9]+\]?")
ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}")
EPOCH = re.compile(r"[0-9]{10}(?:[.,][0-9]{1,9})?")
# Characters that may touch the message.
GLUE = " \t]>):;|*\u00a0"


def is_address(word: str) -> bool:
    """Tell whether a word is an IP address."""
    return ADDRESS.fullmatch(word) is not None


def is_kernel_daemon(name: str) -> bool:
    """Tell whether a program of this name writes the kernel's log."""
    return DAEMON.fullmatch(name) is not None
