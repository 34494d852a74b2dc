"""The claimed spans lie within the evidence, whatever happens to a log between two runs."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from check_conntrack.kernel.log import events, gather
from check_conntrack.state.codec import decode, encode
from support.logs import NOW, line, never

TEXT = "nf_conntrack: table full, dropping packet"
WINDOW = 7200.0


@pytest.fixture(autouse=True)
def _utc(utc):
    pass


class Story:
    """A log, what is done to it, and runs that read it.

    lines: times of the lines in each file. read: times that a run could read. lost: times of lines
    that were gone before a run could read them.
    """

    def __init__(self, folder):
        self.log = folder / "kern.log"
        self.now = NOW
        self.lines = {self.log: []}
        self.read = set()
        self.written = set()
        self.histories = {}
        self.rotated = self.removed = self.was_empty = False
        self.write()
        self.run()

    def write(self):
        self.now += 20
        self.lines.setdefault(self.log, []).append(self.now)
        self.written.add(self.now)
        with self.log.open("ab") as file:
            file.write(line(self.now - NOW, TEXT))
        os.utime(self.log, (self.now, self.now))

    def _move(self, path, target):
        if path.exists():
            path.rename(target)
            self.lines[target] = self.lines.pop(path)

    def rotate(self):
        # A rotation after a removal closes the gap in the numbers.
        if self.removed:
            return
        for number in (3, 2, 1):
            self._move(Path(f"{self.log}.{number}.gz"), Path(f"{self.log}.{number + 1}.gz"))
        self._move(Path(f"{self.log}.1"), Path(f"{self.log}.2"))
        self._compress(Path(f"{self.log}.2"))
        self._move(self.log, Path(f"{self.log}.1"))
        self.rotated = True

    def _compress(self, path):
        if path.exists():
            times = path.stat().st_mtime
            packed = Path(f"{path}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            os.utime(packed, (times, times))
            path.unlink()
            self.lines[packed] = self.lines.pop(path)

    def create(self):
        self.lines.setdefault(self.log, [])
        self.log.touch()
        os.utime(self.log, (self.now, self.now))

    def copy_and_truncate(self):
        if self.log.exists() and not self.removed and not Path(f"{self.log}.1").exists():
            Path(f"{self.log}.1").write_bytes(self.log.read_bytes())
            os.utime(f"{self.log}.1", (self.now, self.now))
            self.lines[Path(f"{self.log}.1")] = self.lines.pop(self.log)
            self.log.write_bytes(b"")
            self.create()
            self.rotated = True

    @property
    def traceless(self):
        """Return whether lines lost now leave no trace: the last run saw nothing of this file."""
        return self.rotated or self.was_empty

    def truncate(self):
        if self.log.exists() and not self.traceless:
            self.lines[self.log] = []
            self.log.write_bytes(b"")
            self.create()
            self.rotated = True

    def remove(self):
        for path in (Path(f"{self.log}.1"), Path(f"{self.log}.2.gz"), self.log):
            if path.exists() and not (path == self.log and self.traceless):
                path.unlink()
                del self.lines[path]
                self.rotated = self.removed = True
                return

    def hide(self):
        if self.traceless:
            return
        self._move(self.log, self.log.with_name(f"hidden-{self.now:.0f}"))
        self.rotated = True

    def run(self):
        self.now += 20
        readable = {
            time
            for path, times in self.lines.items()
            if not path.name.startswith("hidden")
            for time in times
        }
        self.read |= readable
        window = events.Window(self.now - WINDOW, self.now)
        found = gather.gather([str(self.log)], window, "b" * 32, self.histories, never, None)
        plain = {path: encode(history) for path, history in found.histories}
        self.histories = {
            path: decode(gather.LogHistory, each)
            for path, each in json.loads(json.dumps(plain)).items()
        }
        counted = [event.time for event in found.events]
        # Nothing is counted twice, and nothing that could be read is missing.
        assert sorted(counted) == sorted(set(counted))
        assert readable <= set(counted)
        lost = self.written - self.read
        for span in found.coverage[0].spans:
            assert not [time for time in lost if span.start < time < span.end]
        self.rotated = self.removed = False
        self.was_empty = not self.lines.get(self.log)


STEPS = ("write", "rotate", "create", "copy_and_truncate", "truncate", "remove", "hide", "run")


@settings(max_examples=80)
@given(st.lists(st.sampled_from([*STEPS, "write", "run"]), max_size=25))
def test_claimed_spans_hold_no_line_that_was_lost(tmp_path_factory, steps):
    story = Story(tmp_path_factory.mktemp("log"))
    for step in [*steps, "run", "write", "run"]:
        getattr(story, step)()


def test_story_of_rotations_alone_leaves_no_gap(tmp_path):
    story = Story(tmp_path)
    for _ in range(8):
        for step in ("write", "write", "rotate", "write", "run", "write", "run"):
            getattr(story, step)()
    [(_, history)] = story.histories.items()
    assert [span.start for span in history.spans] == [NOW + 20]
