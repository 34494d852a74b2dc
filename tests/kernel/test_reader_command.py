"""Users who may replace the reader, on real files of several owners."""

from __future__ import annotations

import os

import pytest

from check_conntrack.kernel import reader_command


@pytest.mark.parametrize("loose", ["file", "folder", "owner", "link", None])
def test_replaceable_part_is_the_path_that_others_may_write(monkeypatch, tmp_path, need, loose):
    need()
    monkeypatch.setattr(
        reader_command.os.path, "dirname", lambda path: folder if path == file else "/"
    )
    folder, file = str(tmp_path), str(tmp_path / "reader.py")
    tmp_path.chmod(0o777 if loose == "folder" else 0o1777)
    (tmp_path / "real").touch(mode=0o755)
    if loose == "link":
        os.chown(tmp_path / "real", 65534, 65534)
        os.symlink("real", file)
    else:
        os.rename(tmp_path / "real", file)
        os.chmod(file, 0o757 if loose == "file" else 0o755)
        os.chown(file, 65534 if loose == "owner" else 0, 0)
    monkeypatch.setattr(reader_command, "READER", file)
    told = {"folder": folder, "link": str(tmp_path / "real"), None: ""}
    assert reader_command.replaceable_part() == told.get(loose, file)
