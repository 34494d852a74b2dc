"""Compressed and recoded logs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import tracemalloc

import pytest

from check_conntrack.kernel import reasons
from check_conntrack.kernel.log import decompress
from support.logs import NINE, OTHER, count, full, read


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


PACKERS = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_log_of_several_streams_is_read(tmp_path, suffix):
    pack = PACKERS[suffix]
    path = tmp_path / f"kern.log.2.{suffix}"
    path.write_bytes(pack(OTHER * 50_000 + full(1)) + b"\0" * 512 + pack(full(2)))
    found = read(path)
    assert (count(found.events), found.problems) == (2, ())


def test_lzma_file_of_the_old_format_is_read(tmp_path):
    path = tmp_path / "kern.log.2.lzma"
    path.write_bytes(lzma.compress(full(1), format=lzma.FORMAT_ALONE))
    assert count(read(path).events) == 1


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_beginning_of_a_cut_compressed_log_counts(tmp_path, suffix, keep):
    packed = PACKERS[suffix](b"".join(full(n % 3600) + os.urandom(40) + b"\n" for n in range(9000)))
    path = tmp_path / f"kern.log.2.{suffix}"
    path.write_bytes(packed[: int(len(packed) * keep)])
    found = read(path, start=1.0)
    assert found.problems[0][1:] == (reasons.DAMAGED, "incomplete")
    assert found.coverage.spans == ()
    # xz and bzip2 give what they have block by block.
    assert count(found.events) > (6000 * keep if suffix == "gz" else -1)


def pack_xz(data, dictionary):
    """Compress as xz does with a dictionary of so many bytes; `xz -9` takes 64 MiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    return lzma.compress(data, filters=filters)


def test_largest_dictionary_of_xz_is_unpacked(tmp_path):
    path = tmp_path / "kern.log.2.xz"
    path.write_bytes(pack_xz(OTHER + full(1), 64 << 20))
    found = read(path)
    assert (count(found.events), found.problems) == (1, ())


def test_file_that_takes_too_much_memory_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "XZ_MEMORY", 4 << 20)
    path = tmp_path / "kern.log.2.xz"
    path.write_bytes(pack_xz(OTHER + full(1), 8 << 20))
    [problem] = read(path).problems
    assert problem[1:] == (reasons.UNPACK_MEMORY, "4")


def test_beginning_of_a_damaged_log_counts(tmp_path):
    packed = bytearray(gzip.compress(b"".join(full(n % 3600) for n in range(9_000)), 1))
    packed[len(packed) // 2 : len(packed) // 2 + 200] = b"\xff" * 200
    path = tmp_path / "kern.log.2.gz"
    path.write_bytes(packed)
    found = read(path)
    assert found.problems[0].reason == reasons.DAMAGED
    assert count(found.events) > 1000


def test_compression_is_recognised_by_content_not_by_name(tmp_path):
    plain, packed = tmp_path / "kern.log.2.gz", tmp_path / "kern.log"
    plain.write_bytes(full(1))
    packed.write_bytes(gzip.compress(full(1)))
    assert count(read(plain).events) == count(read(packed).events) == 1


def test_small_archive_of_a_huge_log_costs_no_memory(tmp_path):
    path = tmp_path / "kern.log.2.gz"
    path.write_bytes(gzip.compress(b"x" * (100 << 20)) + gzip.compress(b"\n" + full(1)))
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count(found.events) == 1
    assert peak < 8 << 20


def test_zstd_is_read_or_reported(tmp_path):
    if shutil.which("zstd") is None:
        pytest.skip("needs zstd")
    path = tmp_path / "kern.log.2"
    path.write_bytes(full(1))
    subprocess.run(["zstd", "-q", str(path)], check=True)
    found = read(tmp_path / "kern.log.2.zst")
    if found.problems:
        assert found.problems[0][1:] == (reasons.CANNOT_UNPACK, "zstd")
    else:
        assert count(found.events) == 1


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"\x04\x22\x4d\x18\x64\x40", "lz4"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x1f\x9d\x90", "compress"),
        (b"LZIP\x01", "lzip"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_compression_without_a_decompressor_is_named(tmp_path, magic, name):
    path = tmp_path / "kern.log.2"
    path.write_bytes(magic + b"\0" * 100)
    [problem] = read(path).problems
    assert problem == (str(path), reasons.CANNOT_UNPACK, name)


def test_journal_file_is_named_as_what_it_is(tmp_path):
    path = tmp_path / "system.journal"
    path.write_bytes(b"LPKSHHRH" + b"\0" * 100)
    assert read(path).problems[0].reason == reasons.JOURNAL_FILE


# --- encodings


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_utf_16_and_utf_32_are_decoded(tmp_path, encoding, pack):
    text = (OTHER * 3 + full(1) + OTHER * 5000 + full(2)).decode()
    path = tmp_path / "dmesg.txt"
    path.write_bytes(pack(text.replace("\n", "\r\n").encode(encoding)))
    found = read(path, start=0.0)
    assert [event.time for event in found.events] == [NINE + 1, NINE + 2]
    assert found.coverage.spans[0].end == NINE + 2
    assert found.cursor is None


def test_utf_16_cut_within_a_character_is_decoded(tmp_path):
    path = tmp_path / "dmesg.txt"
    path.write_bytes((full(1).decode() + "\ud83d").encode("utf-16-le", "surrogatepass")[:-1])
    assert count(read(path).events) == 1


def test_utf_16_within_other_text_shows_nothing(tmp_path):
    """PowerShell appends UTF-16 to a file of UTF-8."""
    path = tmp_path / "kern.log"
    path.write_bytes(OTHER + full(1).decode().encode("utf-16-le"))
    found = read(path, start=0.0)
    assert found.coverage.spans[0].end < NINE


@pytest.mark.parametrize("start", [b"", b"\0" * 64, b"Nov 21", b"\0\0N\0o\0v\0"])
def test_nul_bytes_alone_are_no_utf_16(start):
    assert decompress.encoding_of(start) == ""
