"""Tables kept in files: opened without waiting, unpacked, and with a header of their own.

The suite's snapshots begin with a comment line that says what the host's limits and timeouts were
when the table was saved:

    # check-conntrack table time=1796040000 namespace=edge-1 path=/run/netns/edge-1 count=95
    max=100 buckets=2048 tcp_timeout_established=432000 ... (one line)

and end with one for each address whose owner was known, and one that says how many entries there
are:

    # check-conntrack owner address=10.244.0.17 kind=pod name=shop/cart-7d9f container=app

    # check-conntrack end entries=95
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager

from .limits import UINT_MAX, Limits
from .namedtuple import NamedTuple
from .owners import HERE, HOST, ITSELF, KINDS, NAMESPACE, Owner, safe
from .source import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from io import BufferedReader
    from typing import BinaryIO

STANDARD_INPUT = "-"
LARGEST_SYSCTLS = 4 << 20  # bytes; `sysctl -a` prints some 100 KiB
HEADER, END = b"# check-conntrack table ", b"# check-conntrack end "
OWNER = b"# check-conntrack owner "
MOST_OWNERS = 10000  # lines
_GZIP = b"\x1f\x8b"
_PAIR = re.compile(r"([a-z0-9_]{1,40})=([!-~]{1,80})", re.ASCII)
_SYSCTL = re.compile(rb"[ni][fp]_conntrack_([a-z0-9_]{1,40})[ \t]*[=:][ \t]*([0-9]{1,10})\b")


class HostValues(NamedTuple):
    """The known facts about the host that a table came from.

    entries, limit, buckets: None where they are not known. timeouts: seconds by the last words of
    their sysctl's name. namespace: its name, empty for the host's own. path: leads into it there.
    """

    entries: int | None = None
    limit: int | None = None
    buckets: int | None = None
    timeouts: Mapping[str, int] = {}
    namespace: str = ""
    path: str = ""

    def limits(self, entries: int) -> Limits | None:
        """Return the limits for a table of so many entries; None where no limit is known.

        A count that is below the entries is of another moment, or of another namespace.
        """
        if self.limit is None:
            return None
        return Limits(max(entries, self.entries or 0), self.limit, self.buckets)


def open_file(path: str) -> BufferedReader:
    """Open a file, or standard input for "-", without waiting for anybody.

    Raises KernelError, naming the path, for what is no file that can be read.
    """
    if path == STANDARD_INPUT:
        return os.fdopen(os.dup(0), "rb")
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise KernelError(f"{path}: not found") from None
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise KernelError("invalid file name (it holds a null byte)") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KernelError(f"{path}: not a file")
    return os.fdopen(descriptor, "rb")


@contextmanager
def unpacked(file: BufferedReader, name: str) -> Iterator[BinaryIO]:
    """Yield what an opened file holds, unpacked where it is gzip. Raises KernelError."""
    with file:
        try:
            packed = file.peek(2)[:2] == _GZIP
        except OSError as error:
            raise KernelError(f"{name}: {error.strerror}") from None
        if not packed:
            yield file
            return
        import gzip

        with gzip.GzipFile(fileobj=file) as content:
            yield content  # type: ignore[misc]


def read_error(error: Exception) -> str:
    """Return why a file could not be read to its end."""
    if isinstance(error, EOFError):
        return "the file is cut short"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the packed data is damaged"


def header_line(values: HostValues, time: float) -> bytes:
    """Return the comment line that a snapshot begins with."""
    words = [f"time={time:.0f}"]
    for name, text in (("namespace", values.namespace), ("path", values.path)):
        if text:
            words.append(f"{name}=" + re.sub(r"[^!-~]", "_", text)[:80])
    numbers = {"count": values.entries, "max": values.limit, "buckets": values.buckets}
    numbers.update(values.timeouts)
    words += [f"{name}={number}" for name, number in numbers.items() if number is not None]
    return HEADER + " ".join(words).encode("ascii") + b"\n"


def end_line(entries: int) -> bytes:
    """Return the comment line that a snapshot ends with."""
    return END + b"entries=%d\n" % entries


def owner_lines(owners: Mapping[bytes, Sequence[Owner]]) -> Iterator[bytes]:
    """Yield the comment lines about owners of packed addresses, MOST_OWNERS at most."""
    from socket import AF_INET, AF_INET6, inet_ntop

    left = MOST_OWNERS
    for address, several in owners.items():
        text = inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
        for owner in several:
            if not left:
                return
            left -= 1
            values = zip(Owner._fields, owner)
            words = [f"{name}={safe(str(value))}" for name, value in values if value]
            yield OWNER + " ".join([f"address={text}", *words]).encode("ascii") + b"\n"


def parse_owners(lines: Iterable[bytes]) -> dict[bytes, tuple[Owner, ...]]:
    """Return the owners by packed address from such lines; malformed ones are passed over."""
    owners: dict[bytes, tuple[Owner, ...]] = {}
    for line in lines:
        values = dict(_PAIR.findall(line.decode("ascii", "replace")))
        address = _packed(values.get("address", ""))
        kind = values.get("kind", "")
        if not address or kind not in KINDS:
            continue
        if kind in (HOST, HERE):
            owner = Owner(ITSELF, "host" if kind == HOST else NAMESPACE)
        else:
            texts = {name: safe(values.get(name, "")) for name in Owner._fields if name != "pid"}
            pid = values.get("pid", "")
            owner = Owner(**texts, pid=int(pid) if pid.isdigit() and len(pid) < 10 else 0)
        owners[address] = (*owners.get(address, ()), owner)
    return owners


def _packed(address: str) -> bytes:
    from .networks import packed_address

    try:
        return packed_address(address)
    except ValueError:
        return b""


def parse_header(line: bytes) -> HostValues | None:
    """Return what a header line says; None for any other line."""
    if not line.startswith(HEADER):
        return None
    values = dict(_PAIR.findall(line[len(HEADER) :].decode("ascii", "replace")))
    numbers = {
        name: int(value)
        for name, value in values.items()
        if value.isdigit() and len(value) <= 10 and int(value) <= UINT_MAX
    }
    known = _host_values(numbers)
    return known._replace(namespace=values.get("namespace", ""), path=values.get("path", ""))


def read_sysctls(file: BufferedReader, name: str) -> HostValues:
    """Return what the output of `sysctl -a` says of conntrack. Raises KernelError.

    `grep . /proc/sys/net/netfilter/*` is as good, and so are the names of old kernels.
    """
    with unpacked(file, name) as content:
        try:
            data = content.read(LARGEST_SYSCTLS)
        except Exception as error:  # as many kinds as gzip has ways to be damaged
            raise KernelError(f"{name}: {read_error(error)}") from None
    numbers = {
        key.decode("ascii"): int(value)
        for key, value in _SYSCTL.findall(data)
        if int(value) <= UINT_MAX
    }
    if not numbers:
        raise KernelError(
            f"{name}: no conntrack settings found (collect them with: sysctl -a > FILE)"
        )
    return _host_values(numbers)


def _host_values(numbers: Mapping[str, int]) -> HostValues:
    return HostValues(
        numbers.get("count"),
        numbers.get("max"),
        numbers.get("buckets") or None,
        {name: number for name, number in numbers.items() if "timeout" in name},
    )
