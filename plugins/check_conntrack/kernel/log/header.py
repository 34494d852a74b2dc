"""Read what stands before a message in its line: times, host, program, and whose words it is.

No list of line formats could be complete. So the header is read item by item, in any order: time
stamps, the kernel's uptime, priorities, hosts, tags, callers, what programs that pass on lines
put before them. A message is rejected only where the header proves that the kernel did not write
the line, and says so in ``Header.proof``.
"""

from __future__ import annotations

import re

from ..namedtuple import NamedTuple
from . import header_items as items
from .calendar_words import AMBIGUOUS_ZONES, FILLERS, MONTHS, ZONES
from .header_items import KERNEL
from .stamps import UNDATED, Dates, Stamp, read_stamp, zone_shift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

# Words that one header may hold beside its times: hosts, relays, states. More are a sentence.
_MOST_WORDS_BEFORE_TAG = 4
_MOST_WORDS_WITHOUT_TAG = 2
# To count the words anew at each word of a line of 32 KiB took 2.5 s.
_MOST_WORDS_BEFORE_DATE = 64

# What most lines of most logs begin with: the same as below, in a tenth of the time.
_COMMON = re.compile(
    r"(?P<minute>(?:[A-Z][a-z]{2} [ 0-9][0-9] |[0-9]{4}-[0-9]{2}-[0-9]{2}T)[0-9]{2}:[0-9]{2}:)"
    r"(?P<second>[0-5][0-9])(?P<part>\.[0-9]{1,9})?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})? "
    r"(?P<host>[A-Za-z][\w-]{2,62}[\w.-]{0,190}) kernel: "
    r"(?:\[ *(?P<seconds>[0-9]{1,12})\.(?P<micros>[0-9]{6})\] )?"
)
_NOT_HOSTS = frozenset((*ZONES, *AMBIGUOUS_ZONES))


class Header(NamedTuple):
    """The values that precede a message in its line.

    ``monotonic`` is in microseconds since boot by the kernel's own stamp. ``program`` is KERNEL
    where a tag names the kernel or a daemon that reads the kernel's log. ``kernel``: the line
    bears a mark of the kernel's log. ``times``: the daemon says that it stands for so many lines.
    ``proof`` says why the line is not the kernel's, "" where nothing proves it.
    """

    stamp: Stamp = UNDATED
    monotonic: int | None = None
    host: str | None = None
    program: str | None = None
    facility: int | None = None
    kernel: bool = False
    times: int = 1
    proof: str = ""


class _HeaderParser:
    """Parses one header from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.dates = [Dates()]
        self.monotonic: int | None = None
        self.host: str | None = None
        self.words: list[str] = []
        self.program: str | None = None
        self.facility: int | None = None
        self.marked = False  # a kernel's mark was read; words behind it belong to the message
        self.own_stamp = False
        self.ring = False  # a record of the ring buffer as it is: its facility is the kernel's word
        self.version = False
        self.prefix = ""  # the host that a tool puts before lines of several hosts
        self.times = 1
        self.proof = ""

    # --- items

    def step(self) -> None:
        """Read one item."""
        number = None if self.at else items.LINE_NUMBER.match(self.text)
        if number is not None:
            self.at = number.end()
            return
        space = items.SPACE.match(self.text, self.at)
        if space is not None:
            self.at = space.end()
            if "|" in space[0] and len(self.words) == 1 and not self.stamped:
                self.words.clear()  # docker compose puts the container's name before a bar
            return
        special = items.SPECIAL.match(self.text, self.at)
        if special is not None:
            self.at = special.end()
            self._special(special)
            return
        if not self.at:
            prefix = items.GREP.match(self.text)
            if prefix is not None and self.text[: prefix.end() - 1].lower() != KERNEL:
                self.at = prefix.end()
                return
        word = items.WORD.match(self.text, self.at)
        if word is None:
            self.at += 1
            self.words.append(self.text[self.at - 1])
            return
        self.at = word.end()
        text = word[0]
        pid = None if text.endswith(":") else items.PID.match(self.text, self.at)
        if pid is not None:
            self.at = pid.end()
            text += pid[0]
        self._word(text)

    @property
    def stamped(self) -> bool:
        """Tell whether a time stands in the header, of whatever kind."""
        return self.own_stamp or self.monotonic is not None or any(self.dates)

    def _special(self, match: re.Match[str]) -> None:
        kind = match.lastgroup
        if match["priority"]:
            self.facility = int(match["priority"]) >> 3
            self.version = bool(match["version"])
        elif match["unranked"]:
            self.version = True
        elif match["seconds"]:
            self._uptime(match["seconds"], match["fraction"])
        elif match["kmsg"]:
            self.facility = int(match["kmsg"]) >> 3
            self.ring = True
            self.monotonic = int(match["micros"])
            self._mark()
        elif match["times"]:
            self.times = int(match["times"])
        elif match["facility"]:
            self._decoded(match["facility"])
        elif match["logcat"]:
            self._tag(match["logcat"])
        elif match["bracket"]:
            self._bracket(match["bracket"])
        elif kind in ("relative", "caller"):
            self.own_stamp = True
            self._mark()
        elif match["unifi"]:
            self.words.append(match["unifi"].strip('"'))

    def _uptime(self, seconds: str, fraction: str) -> None:
        if len(seconds) == 10:  # no host has been up for 31 years
            self._date_words(f"{seconds}.{fraction}")
            return
        self.monotonic = int(seconds) * 1000000 + int(fraction[:6].ljust(6, "0"))
        self._mark()

    def _decoded(self, name: str) -> None:
        if name in items.FACILITIES:
            self.facility = items.FACILITIES.index(name)
            self.ring = True
            self._mark()
        else:
            self._tag(name)

    def _bracket(self, text: str) -> None:
        plain = text.strip()
        if items.DAEMON.fullmatch(plain):
            self._tag(plain)
        elif plain.lower() in items.LEVELS or "/" in plain or items.PRIORITY_NAME.fullmatch(plain):
            return  # a level, or the pod that a line is from
        elif items.EPOCH.fullmatch(plain) or " " in plain or any(c.isdigit() for c in plain):
            dated = self._date_words(plain.partition("<")[0])
            if dated and not plain[0].isdigit():
                self.own_stamp = True
                self._mark()
        else:
            self._tag(plain)

    def _date_words(self, text: str) -> bool:
        """Read a date that stands by itself; return whether it is one."""
        dates = Dates.of_text(text)
        if dates:
            self.dates.append(dates)
        return bool(dates)

    # --- words

    def _word(self, word: str) -> None:
        if '"' in word or "`" in word or word[0] in "'\u2018\u201c\u201e\u00ab":
            self.proof = "a quotation"
        elif word[0] == ">" and not self.stamped:
            self.proof = "a quotation in a mail"
        elif word.endswith(":") and len(word) > 1:
            self._colon(word)
        elif word == ":" or self._colon_follows():
            name = word if word != ":" else (self.words.pop() if self.words else "")
            # Behind a time or an address, a colon alone names no program: Cisco's syslog.
            if name and not items.is_address(name):
                self._tag(name)
            elif name:
                self.words.append(name)
        elif items.SOURCE_LINE.fullmatch(word):
            self.proof = "a program's source line"
        elif "=" in word or ";" in word:
            self.proof = "a field of a program"
        elif self._known(word):
            return
        elif not self.words and items.TIMELIKE.fullmatch(word):
            self.own_stamp = True
        else:
            self.words.append(word)

    def _colon_follows(self) -> bool:
        """Tell whether a colon stands alone behind the word, as in logcat's lines."""
        if re.compile(r" {1,8}:(?: |\Z)").match(self.text, self.at) is None:
            return False
        self.at = self.text.index(":", self.at) + 1
        return True

    def _colon(self, word: str) -> None:
        name = word.rstrip(":")
        if name.lower() in items.LEVELS or self._date(name):
            return
        if name.count(",") > 1:
            self.words.append(name)  # UniFi: model, address and version
            return
        self._tag(name)

    def _tag(self, name: str) -> None:
        bare = re.split(r"[\[(]", name, maxsplit=1)[0]
        if bare.lower() in ("login", "password") and not self.stamped:
            return  # a console's prompt
        match = items.PRIORITY_NAME.fullmatch(bare)
        if items.DAEMON.fullmatch(bare):
            if not self.marked or self.program != KERNEL:
                self.host = self.words[0] if self.words else self.host
            if len(self.words) > (_MOST_WORDS_BEFORE_TAG if self.stamped else 1):
                self.proof = self.proof or "a sentence"
            self.words.clear()
            self.program = KERNEL
            self._mark()
        elif match is not None and match["facility"] in items.FACILITIES:
            self.facility = items.FACILITIES.index(match["facility"])
        elif self.at == len(name) + 1 and bare == name:
            self.prefix = bare
        else:
            self.program = bare or "?"
            self.proof = self.proof or "a program's tag"

    def _known(self, word: str) -> bool:
        """Take a word that means something in a header; return whether it does."""
        plain = word.rstrip(",")
        if self._date(word):
            return True
        if plain.lower() in items.LEVELS and (
            self.stamped or self.facility is not None or not self.at
        ):
            return True
        match = items.PRIORITY_NAME.fullmatch(plain)
        if match is not None and match["facility"] in items.FACILITIES:
            self.facility = items.FACILITIES.index(match["facility"])
            return True
        if plain in ("stdout", "stderr") and self.stamped and not self.words:
            tag = re.compile(r" [FP](?: |\Z)").match(self.text, self.at)
            self.at = tag.end() if tag is not None else self.at
            return True
        if plain.lower() == KERNEL:
            return self._bare_tag()
        if self.version and len(self.words) == 1:
            self._tag(plain)  # RFC 5424: the word behind the host is the program
            return True
        if plain.lower() in FILLERS or not any(c.isalnum() for c in plain):
            return self.stamped or self.dates[-1].started
        return False

    def _bare_tag(self) -> bool:
        """Take ``kernel`` without a colon for a tag where a tag may stand.

        What reached rsyslog as RFC 5424 has no colon in its traditional forms. In the log of a
        package manager the kernel is a package.
        """
        behind_version = self.version and len(self.words) == 1
        dated = any(date.complete for date in self.dates)
        if not behind_version and not (dated and not self.marked and len(self.words) < 2):
            return False
        if items.PACKAGE.search(self.text, 0, self.at + 40):
            return False
        self._tag(KERNEL)
        if behind_version:
            data = items.STRUCTURED_DATA.match(self.text, self.at + 1)
            self.at = data.end() if data is not None else self.at
        return True

    def _date(self, word: str) -> bool:
        following = ""
        rest = self.text[self.at : self.at + 40].split()
        for following in rest:
            if following.lower() not in FILLERS:
                break
        dates = self.dates[-1]
        if not dates.started and (
            len(self.words) > _MOST_WORDS_BEFORE_DATE or sum(map(str.isalpha, self.words)) > 2
        ):
            return False  # a sentence that names a date, such as "-- Logs begin at"
        undated = dates.clock is None
        if dates.take(word, following):
            if undated and dates.clock is not None and not dates.month and len(self.words) < 4:
                self.words.clear()  # a date in a language that is not known
            return True
        if dates.complete:
            fresh = Dates()
            dated = following[:1].isdigit() or following.rstrip(".,").lower() in MONTHS
            if fresh.take(word, following) and (fresh or fresh.year or dated):
                self.dates.append(fresh)
                return True
        return False

    def _mark(self) -> None:
        self.ring = self.ring or (self.facility is not None and not any(self.dates[:1]))
        if self.words:
            self.host = self.host or self.words[0]
        self.words.clear()
        self.marked = True

    # --- the outcome

    def header(self, reference: float, zone: tzinfo | None) -> Header:
        """Return the header as far as it was read."""
        stamp = UNDATED
        for dates in self.dates:
            if dates:
                # The inner line was written before the outer one.
                latest = reference if stamp.time is None else stamp.time
                stamp = better_stamp(stamp, dates.stamp(latest, zone))
        host = self.host
        if host is None and self.words and self.stamped:
            host = self.words[0]
        proof = self.proof
        if self.prefix and self.marked and self.stamped:
            # Before the kernel's own time it is a host, else a program or any heading.
            host = host or self.prefix
        elif self.prefix:
            proof, stamp = proof or "a program's tag", UNDATED
        if self.facility and self.ring and self.program != KERNEL:
            proof = proof or "another facility"
        return Header(
            stamp,
            self.monotonic,
            host,
            self.program,
            self.facility,
            self.marked and not proof,
            self.times,
            proof,
        )


def better_stamp(outer: Stamp, inner: Stamp) -> Stamp:
    """Return the one of two stamps that tells better when the message was written.

    The inner one was written first. Where it bears no offset and the outer one does, whole
    quarters of an hour between them are the difference of two time zones.
    """
    if inner.time is None:
        return inner if outer == UNDATED else outer
    if outer.time is None or inner.offset or not outer.offset:
        return inner
    return inner._replace(time=inner.time + zone_shift(inner.time, outer.time))


_minutes: dict[tuple[str, str | None, float, tzinfo | None], Stamp] = {}


def _common(match: re.Match[str], reference: float, zone: tzinfo | None) -> Header | None:
    """Return the header of a common line.

    Lines of one minute share its date: a flood of 170,000 lines took 1.5 s less for it.
    """
    if match["host"] in _NOT_HOSTS or match["host"].lower() in items.LEVELS:
        return None
    minute, second, part, offset = match.group("minute", "second", "part", "zone")
    key = (minute, offset, reference, zone)
    stamp = _minutes.get(key)
    if stamp is None:
        if len(_minutes) > 1000:
            _minutes.clear()
        stamp = _minutes[key] = read_stamp(f"{minute}00{offset or ''}", reference, zone)
    if stamp.time is not None:
        seconds = stamp.time + int(second)
        if part:
            stamp = Stamp(seconds + float("0" + part), 0.0, stamp.offset)
        else:
            stamp = Stamp(seconds, stamp.slack, stamp.offset)
    uptime = match["seconds"]
    monotonic = int(uptime) * 1000000 + int(match["micros"]) if uptime else None
    return Header(stamp, monotonic, match["host"], KERNEL, None, True)


def _read(text: str) -> _HeaderParser:
    """Read a whole header, and tell whether the words that are left are a sentence."""
    parser = _HeaderParser(text)
    while parser.at < len(text) and not parser.proof:
        parser.step()
    words = parser.words
    if not parser.proof and not parser.stamped and not parser.marked:
        words += [""] * any(dates.started for dates in parser.dates)
    if words and not parser.proof:
        most = _MOST_WORDS_WITHOUT_TAG if parser.stamped and not parser.marked else 0
        # A host may be a plain word; two of them are a program's, or a sentence's.
        if len(words) > most or sum(map(str.isalpha, words)) > 1:
            parser.proof = "a sentence"
    if text and text[-1] not in items.GLUE and not text[-1].isspace():
        parser.proof = parser.proof or "a longer word"
    return parser


def read_header(text: str, reference: float, zone: tzinfo | None = None) -> Header:
    """Return what the text before a message says.

    ``reference`` and ``zone`` as in ``stamps.Dates.stamp``. Raises nothing.
    """
    match = _COMMON.fullmatch(text)
    common = _common(match, reference, zone) if match is not None else None
    if common is not None:
        return common
    parser = _read(text)
    if parser.proof and text[-1:] in (",", ";"):
        columns = _read(text.replace(text[-1], " "))
        parser = parser if columns.proof or columns.program != KERNEL else columns
    return parser.header(reference, zone)


def read_start(line: str, reference: float, zone: tzinfo | None = None) -> Header:
    """Return what the beginning of any line says, as far as its first mark of a program.

    Raises nothing.
    """
    match = _COMMON.match(line)
    common = _common(match, reference, zone) if match is not None else None
    if common is not None:
        return common
    parser = _HeaderParser(line[:512])
    while parser.at < len(parser.text) and not parser.proof:
        parser.step()
        if parser.marked and parser.program != KERNEL:
            host = items.SHORT_MONOTONIC.match(parser.text, parser.at)
            if host is not None:
                parser.host = parser.host or host["host"]
            elif items.APACHE.match(parser.text, parser.at):
                parser.proof = "a log of Apache"
            break
        if parser.program == KERNEL:
            level = items.LEVEL_AND_STAMP.match(parser.text, parser.at)
            if level is not None:
                parser.at = level.end()  # Talos
            elif not parser.stamped and parser.facility is None:
                parser.proof = "a heading"
            # The kernel's own stamp follows its tag.
            while parser.text[parser.at : parser.at + 1] in (" ", "[") and parser.monotonic is None:
                parser.step()
            break
        if len(parser.words) > _MOST_WORDS_BEFORE_TAG:
            break
    return parser.header(reference, zone)
