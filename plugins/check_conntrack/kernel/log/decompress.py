"""Read bytes as UTF-8 text, whatever a log file is packed or encoded in.

A stream has readinto(view), which returns the number of bytes, 0 at the end. Streams are stacked:
the bytes of a descriptor, what they unpack to, what that is as UTF-8. Memory is bounded, however
much a small file unpacks to.
"""

from __future__ import annotations

import codecs
import errno
import os
import zlib

from .. import reasons
from ..namedtuple import NamedTuple
from ..reasons import UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol

    class Stream(Protocol):
        """A source of bytes."""

        def readinto(self, view: memoryview) -> int:
            """Fill the view; return the number of bytes, 0 at the end."""


XZ_MEMORY = 80 << 20
"""Bytes that unpacking xz may take: `xz -9` needs 65 MiB."""
ZSTD = ("compression.zstd", "backports.zstd", "pyzstd")
"""Modules with a decompressor like bz2's; that of zstandard cannot bound its output."""
PEEKED = 64
"""Bytes at the beginning of a stream by which its compression and encoding are recognised."""


def os_problem(path: str, error: OSError) -> UnreadableError:
    """Return why a file cannot be read."""
    code = error.errno or errno.EIO
    known = {
        errno.ENOENT: reasons.NOT_FOUND,
        errno.ENOTDIR: reasons.NOT_FOUND,
        errno.ELOOP: reasons.SYMBOLIC_LINK,
        errno.EACCES: reasons.PERMISSION_DENIED,
        errno.EPERM: reasons.PERMISSION_DENIED,
    }
    if code in known:
        return UnreadableError(path, known[code])
    if code in (errno.ENXIO, errno.ENODEV):
        return UnreadableError(path, reasons.NOT_A_FILE, "a socket or a device")
    return UnreadableError(path, reasons.READ_ERROR, os.strerror(code))


class Descriptor:
    """The bytes of a descriptor."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def readinto(self, view: memoryview) -> int:
        """Read once. Raises UnreadableError."""
        try:
            return os.readv(self._descriptor, [view])
        except OSError as error:
            raise os_problem(self._path, error) from None


class Pipe(Descriptor):
    """The bytes of a pipe, which may have nothing to say for a while.

    `timed_out`: `stop` said True before the end.
    """

    def __init__(self, descriptor: int, path: str, stop: Callable[[], bool]) -> None:
        super().__init__(descriptor, path)
        self._stop = stop
        self.timed_out = False

    def readinto(self, view: memoryview) -> int:
        """Read once, or return 0 when the time is up. Raises UnreadableError."""
        import select

        poll = select.poll()
        try:
            poll.register(self._descriptor, select.POLLIN)
            while not poll.poll(50):
                if self._stop():
                    self.timed_out = True
                    return 0
        except OSError as error:
            raise os_problem(self._path, error) from None
        return super().readinto(view)


class Peekable:
    """A stream whose first bytes can be looked at before they are read."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._peeked = b""

    def peek(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        while len(self._peeked) < count:
            buffer = bytearray(count - len(self._peeked))
            got = self._stream.readinto(memoryview(buffer))
            if not got:
                break
            self._peeked += bytes(buffer[:got])
        return self._peeked[:count]

    def readinto(self, view: memoryview) -> int:
        """Fill the view; return the number of bytes."""
        if not self._peeked:
            return self._stream.readinto(view)
        count = min(len(view), len(self._peeked))
        view[:count] = self._peeked[:count]
        self._peeked = self._peeked[count:]
        return count


class _Unpacked:
    """The bytes that a compressed stream unpacks to.

    `fresh` makes a decompressor like bz2's: decompress(data, max_length), eof, needs_input,
    unused_data. A file may hold several compressed streams one after another.
    """

    def __init__(self, stream: Stream, path: str, fresh: Callable[[], Any]) -> None:
        self._stream = stream
        self._path = path
        self._fresh = fresh
        self._unpacker = fresh()
        self._started = False
        self._ended = False
        self._buffer = bytearray(1 << 16)

    def readinto(self, view: memoryview) -> int:
        while True:
            data = self._more()
            if data is None:
                return 0
            try:
                out = self._unpacker.decompress(data, len(view))
            except Exception as error:
                # Each library has an error of its own; liblzma names its limit in words only.
                if "memory usage limit" in str(error).lower():
                    limit = str(XZ_MEMORY >> 20)
                    raise UnreadableError(self._path, reasons.UNPACK_MEMORY, limit) from None
                raise self._damaged(f"damaged ({type(error).__name__})") from None
            if out:
                view[: len(out)] = out
                return len(out)
            if self._ended and not self._unpacker.eof:
                raise self._damaged("incomplete")

    def _more(self) -> bytes | None:
        """Return the decompressor's next input, None at the end of all streams."""
        data = b""
        if self._unpacker.eof:
            data = self._unpacker.unused_data.lstrip(b"\0")  # padding, as tar and xz allow
            self._unpacker = self._fresh()
            self._started = bool(data)
        if not data and not self._ended and self._unpacker.needs_input:
            count = self._stream.readinto(memoryview(self._buffer))
            self._ended = not count
            data = bytes(self._buffer[:count])
            if not self._started:
                data = data.lstrip(b"\0")
                self._started = bool(data)
        if self._ended and not self._started:
            return None
        # At the end of the file there may still be output that did not fit before.
        return data

    def _damaged(self, how: str) -> UnreadableError:
        return UnreadableError(self._path, reasons.DAMAGED, how)


class _Gunzip:
    """zlib's decompressor with the interface of bz2's; the gzip module costs its import."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, most)


def _bz2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(memlimit=XZ_MEMORY)


def _zstd() -> Any:
    import importlib

    for name in ZSTD:
        try:
            return importlib.import_module(name).ZstdDecompressor()
        except ImportError:
            continue
    raise ImportError


def _none() -> Any:
    raise ImportError


class Compression(NamedTuple):
    """A compression: its first bytes, its name, and what makes a decompressor (ImportError)."""

    magic: bytes
    name: str
    fresh: Callable[[], Any]


_COMPRESSIONS = (
    Compression(b"\x1f\x8b", "gzip", _Gunzip),
    Compression(b"\xfd7zXZ\0", "xz", _xz),
    Compression(b"\x5d\0\0", "lzma", _xz),
    Compression(b"BZh", "bzip2", _bz2),
    Compression(b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    Compression(b"\x04\x22\x4d\x18", "lz4", _none),
    Compression(b"\x02\x21\x4c\x18", "lz4", _none),
    Compression(b"\x1f\x9d", "compress", _none),
    Compression(b"LZIP", "lzip", _none),
    Compression(b"\x89LZO", "lzop", _none),
    Compression(b"PK\x03\x04", "zip", _none),
    Compression(b"7z\xbc\xaf\x27\x1c", "7z", _none),
)
_JOURNAL = b"LPKSHHRH"


def compression_of(start: bytes, path: str) -> Compression | None:
    """Return the compression by a file's first bytes: its name may lie.

    Raises UnreadableError where this Python cannot unpack it, and for a journal file.
    """
    if start.startswith(_JOURNAL):
        raise UnreadableError(path, reasons.JOURNAL_FILE)
    for compression in _COMPRESSIONS:
        if start.startswith(compression.magic):
            try:
                compression.fresh()
            except ImportError:
                raise UnreadableError(path, reasons.CANNOT_UNPACK, compression.name) from None
            return compression
    return None


class _Recoded:
    """UTF-16 or UTF-32 as UTF-8."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._text = b""
        self._ended = False
        self._buffer = bytearray(1 << 16)

    def readinto(self, view: memoryview) -> int:
        while not self._text and not self._ended:
            count = self._stream.readinto(memoryview(self._buffer))
            self._ended = not count
            text = self._decoder.decode(bytes(self._buffer[:count]), self._ended)
            # A surrogate without its partner is no character.
            self._text = text.encode("utf-8", "replace")
        count = min(len(view), len(self._text))
        view[:count] = self._text[:count]
        self._text = self._text[count:]
        return count


# Encoding, byte order mark, bytes of a character, and which of them is not NUL in ASCII text.
# The mark of UTF-16 begins that of UTF-32.
_WIDE = (
    ("utf-32-le", codecs.BOM_UTF32_LE, 4, 0),
    ("utf-32-be", codecs.BOM_UTF32_BE, 4, 3),
    ("utf-16-le", codecs.BOM_UTF16_LE, 2, 0),
    ("utf-16-be", codecs.BOM_UTF16_BE, 2, 1),
)


def encoding_of(start: bytes) -> str:
    """Return the UTF-16 or UTF-32 that a text's first bytes show, else an empty string.

    By its byte order mark, or by the bytes that are NUL in ASCII text without one.
    """
    for encoding, mark, _, _ in _WIDE:
        if start.startswith(mark):
            return encoding
    for encoding, _, width, byte in _WIDE:
        whole = start[: len(start) // width * width]
        ascii_bytes = whole[byte::width]
        if (
            len(ascii_bytes) >= 8
            and all(ascii_bytes)
            and whole.count(0) == len(whole) - len(ascii_bytes)
        ):
            return encoding
    return ""


def text_stream(source: Descriptor, path: str) -> tuple[Peekable, bool]:
    """Return (the source as UTF-8 text, whether its bytes are the file's own).

    Raises UnreadableError.
    """
    stream = Peekable(source)
    plain = True
    compression = compression_of(stream.peek(PEEKED), path)
    if compression is not None:
        stream = Peekable(_Unpacked(stream, path, compression.fresh))
        plain = False
    encoding = encoding_of(stream.peek(PEEKED))
    if encoding:
        stream = Peekable(_Recoded(stream, encoding))
        plain = False
    return stream, plain
