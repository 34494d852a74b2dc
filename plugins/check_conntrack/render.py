"""The text of the output: the status line with its perfdata, then long output, in plain ASCII.

Functions for everything that is printed: durations, sizes, counts, percentages, clock times,
tables. Nothing here knows nagiosplugin.
"""

from __future__ import annotations

import re
import time

from .kernel import atomic_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


STATUS_WIDTH = 160  # characters, without the perfdata
TEXT_WIDTH = STATUS_WIDTH - len("CONNTRACK_USAGE CRITICAL - ")
SHORT_WIDTHS = (96, 72, 52)  # characters of a problem on the status line that lacks room
OUTPUT_SIZE = 4096  # bytes without -v; Nagios takes 8 KiB, and an agent adds to it
_DURATIONS = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20))


def duration(seconds: float) -> str:
    """Return a duration in at most two units, as in "3h 20m", rounded as the perfdata is."""
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in _DURATIONS:
        number, left = divmod(left, size)
        if number or parts:
            parts.append((number, unit))
    shown = [f"{number}{unit}" for number, unit in parts[:2] if number]
    return " ".join(shown) or "0s"


def size(number: float) -> str:
    """Return a number of bytes in KiB, MiB or GiB, as in "96.0 MiB"."""
    for unit, scale in _SIZES:
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{max(number / 1024, 1):.0f} KiB"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, as in "1 line" and "2 lines"."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def few(names: Iterable[str]) -> str:
    """Return the first few names from outside, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(map(clean, every[:3])) + more


def percent(share: float) -> str:
    """Return a share as in "71%"; what is less than 100 is not rounded up to it."""
    return f"{int(share)}%" if 99 <= share < 100 else f"{share:.0f}%"


def clock_time(when: float, now: float) -> str:
    """Return a local time as "11:50" if it is of the same day as `now`, else with its date."""
    local, today = time.localtime(when), time.localtime(now)
    return time.strftime("%H:%M" if local[:3] == today[:3] else "%Y-%m-%d %H:%M", local)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned lines: the first column to the left, the others to the right.

    A web page may show several blanks as one: below its title only the first column has blanks,
    and an empty cell is "-".
    """
    head, *others = rows
    rows = [head, *([row[0] or "-", *map(_one_word, row[1:])] for row in others)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _one_word(cell: str) -> str:
    """Return a cell without blanks: "3h20m", and "-" for an empty one."""
    return cell.replace(" ", "") or "-"


# What Icinga Web changes in plain text or takes for HTML: "\\n", "<b>", "&amp;".
_REWRITTEN = re.compile(r"\\(?=[nt])|<(?=\w)|&(?=#?\w+;)")


def clean(text: str) -> str:
    """Return any text as one line of printable ASCII without "|", which begins the perfdata.

    All other characters are escaped, and what a web interface would take for markup.
    """
    text = _REWRITTEN.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    shown = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(
        character if " " <= character <= "~" and character != "|" else f"\\x{ord(character):02x}"
        for character in shown
    )


def short_path(path: str, width: int) -> str:
    """Return a path, or its end where it is longer: whole names where one fits."""
    if len(path) <= width:
        return path
    end = path[-(width - len("...")) :]
    return "..." + (end[end.index("/") :] if "/" in end[:-1] else end)


def label_part(name: str, taken: Mapping[str, object]) -> str:
    """Return a name as a part of a perfdata label that differs from all that are `taken`."""
    safe = "".join(
        character if character.isascii() and (character.isalnum() or character in "_.-@") else "_"
        for character in name
    )[:64]
    unique = safe
    number = 2
    while unique in taken:
        unique = f"{safe}_{number}"
        number += 1
    return unique


def fit(parts: Iterable[str | Sequence[str]], room: int = TEXT_WIDTH) -> str:
    """Join the parts of a status line with "; ", shortened until they fit into `room`.

    The parts are ordered by importance. A part may be several versions of one fact, the longest
    first. Facts are not cut: the last parts are shortened first, then left out whole.
    """
    versions = [[part] if isinstance(part, str) else list(part) for part in parts]
    chosen = [choices[0] for choices in versions if choices and choices[0]]
    versions = [choices for choices in versions if choices and choices[0]]
    for at in range(len(chosen) - 1, -1, -1):
        for shorter in versions[at][1:]:
            if len(clean("; ".join(chosen))) <= room:
                break
            chosen[at] = shorter
    while len(chosen) > 1 and len(clean("; ".join(filter(None, chosen)))) > room:
        chosen.pop()
    return "; ".join(filter(None, chosen))


def versions(problem: str) -> list[str]:
    """Return a sentence "<object>: <problem> (<remedy>)" for fit(): whole, and ever shorter."""
    short = problem[: problem.rindex(" (")] if problem[-1:] == ")" and " (" in problem else problem
    return list(dict.fromkeys([problem, short, *(_cut(short, width) for width in SHORT_WIDTHS)]))


def _cut(sentence: str, width: int) -> str:
    """Return a sentence "<object>: <problem>" cut to a width, if possible in its object."""
    thing, colon, problem = sentence.partition(": ")
    room = max(width - len(colon + problem), 16)
    if len(thing) > room:
        # The end of a path says most, and the beginning of a name.
        words, slash, path = thing.partition("/")
        left = room - len(words) - 3
        thing = words + "..." + path[-left:] if slash and left > 8 else thing[: room - 3] + "..."
    text = thing + colon + problem
    if len(text) > width and ": " in problem:
        # What the system says of it goes before a word is cut. What sudo says is all there is.
        shorter, _, _ = problem.rpartition(": ")
        if shorter != "sudo":
            return _cut(f"{sentence.partition(': ')[0]}: {shorter}", width)
    return text if len(text) <= width else text[: width - 3] + "..."


def status_line(title: str, state: str, text: str) -> str:
    """Return the status line, at most 160 characters long."""
    line = clean(f"{title} {state} - {text}")
    return line if len(line) <= STATUS_WIDTH else line[: STATUS_WIDTH - 3] + "..."


def page(status: str, perfdata: Sequence[str], lines: Sequence[str], *, bounded: bool) -> str:
    """Return the whole output; if it is bounded, whole lines are left out beyond 4 KiB."""
    first = status + (" | " + " ".join(perfdata) if perfdata else "")
    shown = [clean(line).rstrip() for line in lines]
    if bounded:
        more = "(more with -v)"
        room = OUTPUT_SIZE - len(first) - 1 - len(more) - 1
        fitting = 0
        for line in shown:
            room -= len(line) + 1
            if room < 0:
                break
            fitting += 1
        if fitting < len(shown):
            shown = [*shown[:fitting], more]
    return "\n".join([first, *shown]) + "\n"


def write(text: str) -> bool:
    """Write text to standard output; returns False if that is closed, full or broken."""
    data = text.encode("ascii", "backslashreplace")
    try:
        atomic_write.write(1, data)
    except OSError:
        return False
    return True
