"""Take apart lines that are data: JSON of a journal or a log shipper, journal export, CSV.

These are read as what they are and not by their looks: the message is the value of one field, and
who wrote it, when and where are others.
"""

from __future__ import annotations

import re
from itertools import chain, count

from ..namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_MESSAGE_NAMES = """\
message msg log short_message full_message text line _raw raw body content payload textpayload
@message event logmessage log_message original rawmsg data value description entry stringvalue
"""
_PROGRAM_NAMES = """\
syslog_identifier program programname app appname app_name app-name ident process_name processname
procname process syslog_program syslogtag legacy_msghdr tag _comm comm source_program logger_name
sourcename application_name service_name identifier
"""
_HOST_NAMES = """\
_hostname hostname host host.name syslog_hostname fromhost fromhost-ip computer node source
node_name hostip
"""
# The time of the event before that of its reception.
_TIME_NAMES = """\
_source_realtime_timestamp __realtime_timestamp @timestamp timestamp time ts datetime timereported
eventtime timegenerated _time date syslog_timestamp t isodate timeunixnano
"""
MESSAGE_KEYS = frozenset(_MESSAGE_NAMES.split())
_PROGRAM_KEYS = _PROGRAM_NAMES.split()
_HOST_KEYS = _HOST_NAMES.split()
_TIME_KEYS = _TIME_NAMES.split()
_UPTIME_KEYS = ("_source_monotonic_timestamp",)
_DEPTH = 6
KERNEL = "kernel"
_NAMES_OF_OBJECTS = ("name", "hostname", "code")
_TIME_ENDINGS = ("time", "stamp", "date", "_at")
_KERNEL_COLUMNS = frozenset(("kernel", "kern", "klogd", "kernel:"))
_PAIR = re.compile(r'(?P<key>[A-Za-z_][\w.-]{0,63})=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]+)')
_LABEL = re.compile(r"(?P<key>[A-Za-z_][\w.-]{0,63}):")
_QUOTED = re.compile(r'\s*"(?:[^"]|"")*"\s*(?:,|\Z)')
_CUT_JSON = re.compile(
    r"[\"'](?:MESSAGE|message|msg|log|short_message|text|line)[\"'] ?(?::|=>) ?[\"']"
)
_PRETTY_FIELD = re.compile(r'\s+"[^"]{1,64}" ?: ')
_EXPORT_FIELD = re.compile(r"(?P<indent> {0,8})(?P<key>_{0,2}[A-Z][A-Z0-9_]{0,63})=(?P<value>.*)")
_VERBOSE_START = re.compile(r"(?P<date>\S.*) \[s=[^\]]*\bt=(?P<micros>[0-9a-f]{1,16})\b[^\]]*\]")


class Record(NamedTuple):
    """A message and what the fields beside it say.

    text: one or more lines, maybe with headers. program, facility, time (as it is written), host,
    monotonic (microseconds): None where no field names them. transport: the journal's. entry:
    which of the line's entries it is of; two messages of one entry are one under two names.
    bare: no field says whose the text is, so it has to be a whole line of the kernel's log.
    """

    text: str
    program: str | None = None
    facility: str | None = None
    transport: str | None = None
    time: str | None = None
    host: str | None = None
    monotonic: int | None = None
    entry: int = 0
    bare: bool = False


def records(text: str) -> Iterator[Record] | None:
    """Return the messages of a text that is data, or None where it is a plain line.

    Raises nothing.
    """
    if "\n" in text:
        fields = _block(text)
        if fields is not None:
            return _walk(fields, {}, 0, count())
    objects = _objects(text)
    if objects:
        entries = count()
        return chain.from_iterable(_walk(value, {}, 0, entries) for value in objects)
    return _columns(text) or _logfmt(text)


def _columns(text: str) -> Iterator[Record] | None:
    """Return the messages of a line of columns; one of them may name the kernel."""
    quoted = _QUOTED.match(text) is not None
    if text.count("\t") > 1:
        fields = text.split("\t")
        labels = [_LABEL.match(field) for field in fields]
        if all(labels):
            return _known({m["key"].lower(): f[m.end() :] for m, f in zip(labels, fields) if m})
    elif quoted or ',"' in text:
        import csv

        try:
            fields = next(csv.reader([text.strip()]), [])
        except csv.Error:
            return None
    else:
        return None
    plain = [field.strip() for field in fields]
    if any(field.lower() in _KERNEL_COLUMNS for field in plain):
        return (Record(field, KERNEL, time=plain[0]) for field in plain if " " in field)
    if not quoted:
        return None
    return (Record(field, time=plain[0], bare=True) for field in plain if " " in field)


def _logfmt(text: str) -> Iterator[Record] | None:
    """Return the message of a line of ``key=value``."""
    if "=" not in text or '="' not in text:
        return None
    known = {}
    for match in _PAIR.finditer(text):
        value = match["value"]
        known[match["key"].lower()] = value[1:-1].replace('\\"', '"') if value[0] == '"' else value
    return _known(known) if len(known) > 2 else None


def _known(known: dict[str, str]) -> Iterator[Record] | None:
    """Return the message among fields by name, None where there is none."""
    key = next((key for key in _MESSAGE_NAMES.split() if key in known), None)
    if key is None:
        return None
    record = _record(known[key], known)
    bare = record.program is None and record.facility is None and record.transport is None
    return iter((record._replace(bare=bare),))


def message_of_cut_json(text: str) -> str | None:
    """Return the text behind the key of the message, for JSON that was cut off."""
    ends = [match.end() for match in _CUT_JSON.finditer(text)]
    return text[ends[-1] :] if ends else None


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a line; between them may stand anything."""
    objects = []
    at = text.find("{")
    while at >= 0:
        value, at = _json(text, at)
        if value is None:
            break
        objects.append(value)
        at = text.find("{", at)
    return objects


def _json(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    """Return the JSON object that begins there, or None, and where it ends."""
    import json

    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        if '"=>' not in text:
            return None, start
        try:  # Ruby's spelling, of the same length
            value, end = decoder.raw_decode(text.replace('"=>', '": '), start)
        except (ValueError, RecursionError):
            return None, start
    return (value, end) if isinstance(value, dict) else (None, start)


def _block(text: str) -> dict[str, Any] | None:
    """Return the fields of an entry of several lines: export, verbose, pretty JSON."""
    stripped = text.strip().rstrip(",")
    if stripped.startswith(("{", "},{")):
        value, _ = _json(stripped, stripped.index("{"))
        if value is not None:
            return value
    fields: dict[str, Any] = {}
    for line in text.split("\n"):
        match = _EXPORT_FIELD.fullmatch(line)
        if match is not None:
            fields.setdefault(match["key"], match["value"])
            continue
        first = _VERBOSE_START.fullmatch(line)
        if first is not None:
            fields["__REALTIME_TIMESTAMP"] = str(int(first["micros"], 16))
    return fields if "MESSAGE" in fields else None


def _walk(
    value: dict[str, Any],
    outer: dict[str, str],
    depth: int,
    entries: Iterator[int],
    entry: int | None = None,
) -> Iterator[Record]:
    """Yield the messages in an object, with the fields of the objects around it.

    An object within another is of the same entry; the items of a list are entries of their own.
    """
    if depth > _DEPTH:
        return
    known = {**outer, **_syslog_fields(value), **_plain_fields(value)}
    entry = next(entries) if entry is None else entry
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _walk(item, known, depth + 1, entries, entry)
        elif isinstance(item, str) and _is_message(str(key)):
            yield _record(item, known, entry)
        for each in item if isinstance(item, list) else ():
            if isinstance(each, dict):
                yield from _walk(each, known, depth + 1, entries)
            elif _is_pair(each):
                yield _record(each[1], {**known, "time": each[0]}, next(entries))


def _is_message(key: str) -> bool:
    """Tell whether a field of this name holds a message: ``event.original``, ``SyslogMessage``."""
    name = key.lower().rpartition(".")[2]
    return name in MESSAGE_KEYS or name.endswith(("message", "msg"))


def _plain_fields(value: dict[str, Any]) -> dict[str, str]:
    """Return the fields that are words or numbers, and the names of those that are objects.

    The pairs of a list (``{"key": ..., "value": {"stringValue": ...}}``, OpenTelemetry) are fields.
    """
    fields = {}
    for key, item in value.items():
        plain = item
        if isinstance(item, dict):
            plain = next((item[name] for name in _NAMES_OF_OBJECTS if name in item), None)
        for pair in item if isinstance(item, list) else ():
            if isinstance(pair, dict) and "key" in pair and isinstance(pair.get("value"), dict):
                fields.update(_plain_fields({pair["key"]: pair["value"].get("stringValue")}))
        if isinstance(plain, (str, int, float)) and not isinstance(plain, bool):
            name = str(key).lower()
            fields[name] = str(plain)
            if "syslog." in name:
                fields.setdefault(name.rpartition(".")[2], str(plain))
    return fields


def _syslog_fields(value: dict[str, Any], depth: int = 0) -> dict[str, str]:
    """Return the fields of the object ``syslog``, wherever it is in an entry."""
    for key, item in value.items():
        if isinstance(item, dict) and depth < _DEPTH:
            found = _plain_fields(item) if key == "syslog" else _syslog_fields(item, depth + 1)
            if found:
                return found
    return {}


def _is_pair(value: object) -> bool:
    """Tell whether it is Loki's pair of a time and a line."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _record(text: str, known: dict[str, str], entry: int = 0) -> Record:
    programs = [known[key] for key in _PROGRAM_KEYS if known.get(key)]
    named = known.get("syslog_facility") or known.get("facility")
    named = named or next((known[key] for key in known if "facility" in key), None)
    facility = named.lower() if named else None
    if facility is None and known.get("pri", "").isdigit():
        facility = str(int(known["pri"]) >> 3)
    uptime = next((known[key] for key in _UPTIME_KEYS if known.get(key)), None)
    times = (*_TIME_KEYS, *(key for key in known if key.endswith(_TIME_ENDINGS)))
    when = next((known[key] for key in times if known.get(key)), None)
    if uptime is None and when is not None and _is_uptime(when):
        uptime, when = str(int(float(when) * 1e6)), None
    return Record(
        text,
        " ".join(programs) or None,
        facility,
        known.get("_transport"),
        when,
        next((known[key] for key in _HOST_KEYS if known.get(key)), None),
        int(uptime) if uptime is not None and uptime.isdecimal() and len(uptime) < 19 else None,
        entry,
    )


def _is_uptime(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,8}\.[0-9]{1,9}", text) is not None


def entry_bounds(
    data: bytes | bytearray, begin: int, end: int, start: int, stop: int
) -> tuple[int, int]:
    """Return where the entry begins and ends that holds the line from ``start`` to ``stop``.

    ``data`` from ``begin`` to ``end`` is what there is to look at. A journal's export and verbose
    output and pretty JSON have one field a line; of all others the line is the entry.
    """
    text = bytes(data[start : min(stop, start + 100)]).decode("utf-8", "replace")
    low, high = max(begin, start - 16384), min(end, stop + 16384)
    field = _EXPORT_FIELD.match(text)
    if field is not None and field["indent"]:
        return _verbose_bounds(data, low, high, start, stop)
    if field is not None:
        top = data.rfind(b"\n\n", low, start)
        bottom = data.find(b"\n\n", stop, high)
        return (
            top + 2 if top >= 0 else _line_start(data, low, begin),
            bottom if bottom >= 0 else high,
        )
    if _PRETTY_FIELD.match(text):
        top = data.rfind(b"{", low, start)
        bottom = data.find(b"}", stop, high)
        if top >= 0 and bottom >= 0:
            return top, bottom + 1
    return start, stop


def _line_start(data: bytes | bytearray, low: int, begin: int) -> int:
    return low if low == begin else data.find(b"\n", low) + 1


def _verbose_bounds(
    data: bytes | bytearray, low: int, high: int, start: int, stop: int
) -> tuple[int, int]:
    """Return the bounds of lines that are indented, with the line before them."""
    while start > low:
        before = data.rfind(b"\n", low, start - 1) + 1 or low
        indented = data[start : start + 1] == b" "
        if not indented:
            break
        start = before
    while stop < high and data[stop + 1 : stop + 2] == b" ":
        after = data.find(b"\n", stop + 1, high)
        stop = after if after >= 0 else high
    return start, stop
