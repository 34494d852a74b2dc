"""What is printed: one status line with its perfdata, then long output, in plain ASCII.

nagiosplugin's own output puts perfdata last when it is verbose and prints no long output when it
is not; the order of this one is the contract's.
"""

from __future__ import annotations

from nagiosplugin import (
    Check,
    Critical,
    Metric,
    Ok,
    Results,
    Unknown,
    Warn,
)

from .kernel import atomic_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nagiosplugin.state import ServiceState


STATUS_WIDTH = 160
# Without -v. Nagios takes 8 KiB, and what an agent adds has to fit too.
OUTPUT_SIZE = 4096
STATES = {"ok": Ok, "warning": Warn, "critical": Critical, "unknown": Unknown}
SEVERITY = (Ok, Warn, Unknown, Critical)


def worst(states: Iterable[ServiceState]) -> ServiceState:
    """The state that decides: an unreadable part never hides a full one."""
    return max(states, key=SEVERITY.index)


class WorstResults(Results):
    """nagiosplugin's results with the contract's order of severity."""

    @property
    def most_significant_state(self) -> ServiceState:
        """The worst state; raises ValueError where there are no results."""
        return worst(result.state for result in self.results)


class OrderedCheck(Check):
    """nagiosplugin's check, whose perfdata stays in the order in which it was measured."""

    def __call__(self) -> None:
        """Run the check."""
        super().__call__()
        order: dict[str, int] = {}
        for result in self.results.results:
            if isinstance(result.metric, Metric):
                order.setdefault(result.metric.name, len(order))
        self.perfdata.sort(key=lambda item: order[item.rpartition("=")[0].strip("'")])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines: the first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def clean(text: str) -> str:
    """Text from anywhere, made fit for one line of output.

    Whatever is not printable ASCII is escaped, and so is the bar that begins the perfdata.
    """
    shown = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(
        character if " " <= character <= "~" and character != "|" else f"\\x{ord(character):02x}"
        for character in shown
    )


def label_part(name: str, taken: Mapping[str, object]) -> str:
    """A name from outside as part of a perfdata label, different from all that are taken."""
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


def status_line(title: str, state: ServiceState, text: str) -> str:
    """The fact and the figure, in at most 160 characters."""
    line = clean(f"{title} {state.text.upper()} - {text}")
    return line if len(line) <= STATUS_WIDTH else line[: STATUS_WIDTH - 3] + "..."


def page(status: str, perfdata: Sequence[str], lines: Sequence[str], *, bounded: bool) -> str:
    """The whole output; where it is bounded, long output ends before it grows past 4 KiB."""
    first = status + (" | " + " ".join(perfdata) if perfdata else "")
    shown = [clean(line).rstrip() for line in lines]
    if bounded:
        more = "(more with -v)"
        room = OUTPUT_SIZE - len(first) - 1 - len(more) - 1
        fits = 0
        for line in shown:
            room -= len(line) + 1
            if room < 0:
                break
            fits += 1
        if fits < len(shown):
            shown = [*shown[:fits], more]
    return "\n".join([first, *shown]) + "\n"


def write(text: str) -> bool:
    """Put text on standard output; False where that is closed, full or gone."""
    data = text.encode("ascii", "backslashreplace")
    try:
        atomic_write.write(1, data)
    except OSError:
        return False
    return True
