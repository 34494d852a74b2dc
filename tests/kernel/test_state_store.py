"""State directories of other owners."""

from __future__ import annotations

import os

from check_conntrack.state.state_store import Store


def test_a_folder_of_ones_name_that_is_somebody_elses_is_refused(tmp_path, need):
    need()
    own = tmp_path / str(os.geteuid())
    own.mkdir(mode=0o755)
    os.chown(own, 65534, 65534)
    store = Store.open(str(tmp_path), {}, None)
    assert store.refused
    assert store.trouble == f"state directory {own}: belongs to another user"
    assert (store.folder, store.update("key", lambda _: 1)) == ("", 1)
    assert os.listdir(own) == []
    store.close()
