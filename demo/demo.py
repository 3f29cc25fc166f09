"""What kacas does, on this machine, in a minute: `make demo`.

Stores a generated recording and a real file, loads a slice and the whole, pushes it to a bucket and reads a slice of it
elsewhere, flips a bit in a pack, kills a store half-way. Every step is checked; the exit code is 1 if one does not hold.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import kacas
from kacas.errors import DamagedPackError, KacasError
from kacas.settings import Settings
from kacas.upkeep.verify import verify
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.configured import configured_upstreams
from picture import draw_slice
from recording import RATE, Recording, make_recording

SECONDS = 13.0  # of recording: 95 MiB
SLICE = slice(5 * RATE, 5 * RATE + 1800)  # 60 ms
PICTURE = Path(__file__).resolve().parent.parent / "demo-out" / "slice.png"
MIB = 1 << 20

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


class StepError(Exception):
    """A step did not hold."""


def require(condition: bool, what: str) -> None:
    """Raise StepError with `what` unless the condition holds."""
    if not condition:
        raise StepError(what)


@dataclass
class Demo:
    """What the steps share."""

    folder: Path
    recording: Recording
    real_file: Path
    store: kacas.Store
    uris: dict[str, str] = field(default_factory=dict)


def store_everything(demo: Demo) -> str:
    """Store a recording, a real file and its settings"""
    table = Table(title="stored, durable", title_justify="left")
    for column in ("what", "URI"):
        table.add_column(column, overflow="fold")
    for column in ("size", "on disk", "ratio", "time", "speed"):
        table.add_column(column, justify="right")
    settings = {"rate": RATE, "channels": demo.recording.shape[1], "probe": "made up"}
    puts: dict[str, Callable[[], str]] = {
        "recording": lambda: demo.store.store_npy(demo.recording, label="recording.npy"),
        "real file": lambda: demo.store.store_file(demo.real_file),
        "settings": lambda: demo.store.store_json(settings, label="settings.json"),
    }
    for what, put in puts.items():
        start = time.perf_counter()
        uri = demo.uris[what] = put()
        seconds = time.perf_counter() - start
        about = demo.store.describe(uri)
        table.add_row(
            what,
            uri,
            readable(about.size),
            readable(about.stored_size or 0),
            f"{about.ratio:.2f}",
            f"{seconds * 1000:,.1f} ms",
            f"{about.size / seconds / 1e6:,.0f} MB/s" if about.size > MIB else "",
        )
    console.print(table)
    return f"{len(puts)} contents"


def check_identities(demo: Demo) -> str:
    """Each URI is the SHA-1 of the exact bytes"""
    saved = io.BytesIO()
    np.save(saved, demo.recording)
    require(sha1_of(demo.uris["recording"]) == hashlib.sha1(saved.getbuffer()).hexdigest(), "not np.save's file")
    with demo.real_file.open("rb") as file:
        require(sha1_of(demo.uris["real file"]) == hashlib.file_digest(file, "sha1").hexdigest(), "not the file")
    return "as np.save and sha1sum say"


def load_the_whole(demo: Demo) -> str:
    """Load the whole, every byte verified"""
    start = time.perf_counter()
    loaded = demo.store.load_npy(demo.uris["recording"])
    seconds = time.perf_counter() - start
    require(np.array_equal(loaded, demo.recording), "the recording came back with other values")
    path = demo.store.load_file(demo.uris["real file"])
    require(path.read_bytes() == demo.real_file.read_bytes(), "the file came back with other bytes")
    return f"recording in {seconds * 1000:,.0f} ms, {loaded.nbytes / seconds / 1e6:,.0f} MB/s"


def load_a_slice(demo: Demo) -> str:
    """Load a slice, reading only the chunks that it needs"""
    start, read_before = time.perf_counter(), bytes_read()
    piece = np.asarray(demo.store.open_npy(demo.uris["recording"])[SLICE])
    seconds, read = time.perf_counter() - start, bytes_read() - read_before
    require(read < 4 * MIB, f"{readable(read)} were read for a slice of {readable(piece.nbytes)}")
    require(np.array_equal(piece, demo.recording[SLICE]), "the slice came back with other values")
    draw_slice(piece, SLICE.start, demo.uris["recording"], PICTURE)
    read_too = f", {readable(read)} read" if read else ""
    return f"{readable(piece.nbytes)} in {seconds * 1000:.1f} ms{read_too}; see demo-out/{PICTURE.name}"


def store_again(demo: Demo) -> str:
    """Store the same again: nothing new is written"""
    before = demo.store.stats().pack_size
    uri = demo.store.store_npy(demo.recording, label="recording.npy")
    added = demo.store.stats().pack_size - before
    require(uri == demo.uris["recording"], "the same content has two URIs")
    require(added < 64 * 1024, f"{added} bytes were written for content already there")
    return f"{readable(added)} more on disk"


def push_and_read_elsewhere(demo: Demo) -> str:
    """Push to a bucket (here a directory); an empty store reads a slice of it, and the whole"""
    bucket, uri = demo.folder / "bucket", demo.uris["recording"]
    bucket.mkdir()
    change_remotes(lambda _: [RemoteConfiguration("lab", bucket.as_uri(), trusted=True)])
    sent = kacas.push(uri, to="lab")
    require(kacas.push(uri, to="lab").chunks_sent == 0, "what is there was sent again")
    behind = configured_upstreams(Settings.from_environment())
    with kacas.Store.open(demo.folder / "elsewhere", behind=behind) as elsewhere:
        start = time.perf_counter()
        piece = np.asarray(elsewhere.open_npy(uri)[SLICE])
        seconds = time.perf_counter() - start
        require(np.array_equal(piece, demo.recording[SLICE]), "the slice came back with other values")
        require(np.array_equal(elsewhere.load_npy(uri), demo.recording), "the recording came back with other values")
    return f"{readable(sent.sent_size)} sent, {readable(piece.nbytes)} of it elsewhere in {seconds * 1000:.0f} ms"


def flip_a_bit(demo: Demo) -> str:
    """Flip one bit in a pack (of a copy): the load refuses, by name"""
    copy = demo.folder / "damaged"
    shutil.copytree(demo.store.path, copy)
    pack = max((copy / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        middle = pack.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 0b00000100]))
    with kacas.Store.open(copy, create=False) as damaged:
        try:
            damaged.load_npy(demo.uris["recording"])
        except DamagedPackError as error:
            console.print(f"  [red]{type(error).__name__}[/]: {error}", soft_wrap=True)
            require(error.pack == pack.stem, f"blamed {error.pack}, not {pack.stem}")
        else:
            raise StepError("a damaged pack was loaded without a word")
        problems = verify(damaged).problems
    require({problem.pack for problem in problems} == {pack.stem}, "verify did not name the pack")
    return f"verify names pack {pack.stem[:8]}…, {len(problems)} damaged"


def kill_a_store(demo: Demo) -> str:
    """Kill a store half-way (SIGKILL): the store is clean"""
    other = make_recording(SECONDS, seed=1)
    path = demo.folder / "other.npy"
    np.save(path, other)
    command = [sys.executable, "-c", "import kacas, sys; print(kacas.store_file(sys.argv[1]))", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    packs = demo.store.path / "packs"
    written = 0
    while process.poll() is None and written < 4 * MIB:
        written = max((size_of(path) for path in packs.glob(".*.tmp.*")), default=0)
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate()
    require(process.returncode == -signal.SIGKILL, "the store was done before it could be killed")
    require(printed == "", "a URI was printed before the content was safe")
    with path.open("rb") as file:
        uri = f"sha1://{hashlib.file_digest(file, 'sha1').hexdigest()}"
    require(not demo.store.exists(uri), "half a file is taken for the whole")
    report = verify(demo.store)
    require(report.clean, f"verify found {report.problems}")
    require(np.array_equal(demo.store.load_npy(demo.uris["recording"]), demo.recording), "older content is gone")
    require(demo.store.store_file(path).startswith(uri), "it cannot be stored after the crash")
    require(np.array_equal(demo.store.load_npy(uri), other), "it was stored wrong after the crash")
    return f"killed at {readable(written)}; {report.chunks} chunks verified, {len(report.orphans)} orphan left"


STEPS = (
    store_everything,
    check_identities,
    load_the_whole,
    load_a_slice,
    store_again,
    push_and_read_elsewhere,
    flip_a_bit,
    kill_a_store,
)


def readable(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def bytes_read() -> int:
    """Bytes that this process has read from files so far; 0 where the system does not tell (not Linux)."""
    try:
        return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0


def a_real_file() -> Path:
    """The Python interpreter or its library, whichever is larger."""
    library = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    return max(Path(sys.executable).resolve(), library, key=size_of)


def sha1_of(uri: str) -> str:
    """The 40 hex digits of a URI."""
    return uri.removeprefix("sha1://")[:40]


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if it is gone by now."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def main() -> int:
    summary = Table(title="what held", title_justify="left")
    for column in ("step", "", "seen"):
        summary.add_column(column, overflow="fold")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="kacas-demo-") as name:
        folder = Path(name)
        os.environ.update(
            KACAS_DIR=str(folder / "store"),
            KACAS_CACHE_DIR=str(folder / "cache"),
            XDG_CONFIG_HOME=str(folder / "config"),
            XDG_STATE_HOME=str(folder / "state"),
        )
        console.print(f"kacas {kacas.__version__}, a store of its own in {folder}\n")
        with kacas.Store.open(folder / "store") as store:
            demo = Demo(folder, make_recording(SECONDS), a_real_file(), store)
            for step in STEPS:
                try:
                    seen = step(demo)
                except (StepError, KacasError) as error:
                    failed += 1
                    summary.add_row(step.__doc__, "[red]no[/]", f"{type(error).__name__}: {error}")
                else:
                    summary.add_row(step.__doc__, "[green]yes[/]", seen)
    console.print(summary)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
