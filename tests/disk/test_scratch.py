"""The scratch directory: it goes, and what a killed process left goes with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kacas.disk import abandoned
from kacas.disk.scratch import Scratch, sweep
from kacas.errors import NoSpaceError, ReadOnlyStoreError, StoreError

HOLD = """
import sys, time
from pathlib import Path
from kacas.disk.scratch import Scratch
with Scratch(Path(sys.argv[1]), 0) as path:
    (path / "packs").mkdir()
    (path / "packs" / "one.pack").write_bytes(b"x")
    print(path, flush=True)
    time.sleep(60)
"""


def hold(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that works in a scratch directory there, and the directory."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, parent], stdout=-1, text=True)
    assert child.stdout
    return child, Path(child.stdout.readline().strip())


def test_it_is_hidden_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with Scratch(tmp_path, 1) as path:
        assert path.parent == tmp_path
        assert path.name.startswith(".")
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "deep" / "deeper").mkdir(parents=True)
        (path / "deep" / "deeper" / "file").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_removes_it_too(tmp_path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with Scratch(tmp_path, 1) as path:
            (path / "file").write_bytes(b"x")
            raise error

    with pytest.raises(error):
        work()
    assert list(tmp_path.iterdir()) == []


INTERRUPT = """
import os, sys
from itertools import count
from pathlib import Path
from kacas.disk import scratch
from kacas.disk.scratch import Scratch

seen, last = 0, 0

def trace(frame, event, argument):
    global seen
    if frame.f_code.co_filename != scratch.__file__:
        return None
    seen += event == "line"
    if seen == last:
        raise KeyboardInterrupt
    return trace

for last in count(1):
    parent = Path(sys.argv[1]) / str(last)
    if os.fork() == 0:
        parent.mkdir()
        sys.settrace(trace)
        try:
            with Scratch(parent / "made", 1) as path:
                (path / "file").write_bytes(b"x")
        except KeyboardInterrupt:
            sys.exit(1)
        sys.exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        break
print(last)
"""


def test_ctrl_c_at_any_line_removes_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPT, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 30
    assert [path for parent in tmp_path.iterdir() for path in parent.iterdir()] == []


def test_a_forked_child_leaves_its_parents_directory_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom kacas.disk.scratch import Scratch\n"
        "with Scratch(Path(sys.argv[1]), 1) as path:\n    if os.fork() == 0: sys.exit()\n    os.wait()\n    print(path.is_dir())"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_parents_that_were_made_for_it_go_unless_somebody_uses_them(tmp_path: Path) -> None:
    with Scratch(tmp_path / "a" / "b", 1) as path:
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == []
    with Scratch(tmp_path / "a" / "b", 1):
        (tmp_path / "a" / "other").write_bytes(b"")
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["other"]


def test_directories_that_were_made_unwritable_go_too(tmp_path: Path) -> None:
    with Scratch(tmp_path, 1) as path:
        (path / "closed").mkdir()
        (path / "closed" / "file").write_bytes(b"x")
        (path / "closed").chmod(0o500)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    child, left = hold(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout
    child.stdout.close()
    assert (left / "packs" / "one.pack").exists()
    with Scratch(tmp_path, 1) as path:
        assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_works_in_is_left_alone(tmp_path: Path) -> None:
    child, used = hold(tmp_path)
    with Scratch(tmp_path, 1):
        pass
    assert (used / "packs" / "one.pack").exists()
    child.kill()
    child.communicate()


def test_on_a_network_file_system_only_what_is_old_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned, "is_network", lambda path: True)
    young, old = (tmp_path / f".kacas-bench.tmp.{letter * 16}" for letter in "ab")
    young.mkdir()
    old.mkdir()
    (old / "file").write_bytes(b"x")
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".kacas-bench.tmp.0123").mkdir()  # not a name of ours
    (tmp_path / "packs").mkdir()
    (tmp_path / f".kacas-bench.tmp.{16 * 'c'}").symlink_to(tmp_path / "packs")
    (tmp_path / f".kacas-bench.tmp.{16 * 'd'}").write_bytes(b"a file")
    before = sorted(tmp_path.iterdir())
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_too_little_space_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpaceError, match=r"takes up to .* MiB are free; free space"),
        Scratch(tmp_path / "new", 1 << 60),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_none_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError), Scratch(tmp_path / "file" / "below", 1):
        pass
    assert issubclass(ReadOnlyStoreError, StoreError)
