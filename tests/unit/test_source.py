"""Small files of the kernel."""

from __future__ import annotations

import errno
import os

from check_conntrack.kernel import source


def test_read_file_stops_at_its_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5000)
    assert source.read_file(str(tmp_path / "file")) == (str(tmp_path / "file"), b"x" * 4096, 0)
    assert source.read_file(str(tmp_path / "file"), 3).data == b"xxx"
    assert source.read_long_file(str(tmp_path / "file")).data == b"x" * 5000
    assert source.read_long_file(str(tmp_path / "file"), 10).data == b"x" * 10


def test_read_file_returns_the_error_number(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    codes = {
        "none": errno.ENOENT,
        "file/below": errno.ENOTDIR,
        "link": errno.ELOOP,
        "": errno.EISDIR,
    }
    for name, code in codes.items():
        reading = source.read_file(f"{tmp_path}/{name}")
        assert reading.errno == code
        assert reading.missing == (name in ("none", "file/below"))
    assert source.read_long_file(str(tmp_path / "none")).missing


def test_read_file_does_not_wait_for_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert source.read_file(str(tmp_path / "pipe")).data == b""
