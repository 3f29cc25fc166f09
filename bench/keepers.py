"""The systems that keep trees and files, each in a process of its own: `python -m bench.keepers SYSTEM`.

kacas and kachery-cloud are called as libraries, the others as the commands that users type. Every repository
begins empty. What each is told:

    kacas       durability full: every sync is inside its call
    cp          cp -r; no sync
    restic      its defaults (compression auto, repository version 2), --no-cache: beside a local repository the
                cache costs more than it saves; the password comes by the environment; syncs
    borg        LZ4, no encryption; syncs
    casync      its defaults (zstd, chunks of 64 KiB), without what only root can restore; its encoder cache,
                which is for trees alone, from the second store on, as it makes the first one slower; no sync
    DVC         no Git, no analytics, its hashes and links remembered on the same disk; what is stored was put into its
                workspace before, untimed; cache.type hardlink, its fastest: a file that is added moves into the cache
                and is linked back, nothing is copied; what is restored is a copy, made in another workspace with the
                same cache; no sync
    kachery     a loop of store_file_local, one of load_file(dest=...); no sync
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from bench.machine import disk_size, settle, sync_tree
from bench.systems import import_kachery_cloud
from bench.worker import serve


class Keeper(Protocol):
    """Keeps trees and files in `directory`. `open` starts with a new, empty one and is never timed."""

    version: str

    def open(self, directory: Path) -> None: ...

    def prepare(self, source: Path) -> None:
        """Bring what will be stored to where the system wants it; not timed."""

    def store(self, source: Path) -> str:
        """Keep a file or a tree; returns the key that `restore` takes."""

    def restore(self, key: str, destination: Path) -> None:
        """Make the tree `destination`, which is not there yet, as the source of `key` was."""

    def idle(self) -> list[str]:
        """A command that starts the system and, where it can, opens the repository, and does nothing else."""


class InPlace:
    """Stores what it is given from where it is."""

    def prepare(self, source: Path) -> None:
        pass


class Kacas(InPlace):
    def __init__(self) -> None:
        import kacas

        self.version = f"kacas {kacas.__version__}"
        self._open: Any = kacas.Store.open
        self._store: Any = None

    def open(self, directory: Path) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._open(directory, durability="full")

    def store(self, source: Path) -> str:
        store = self._store.store_dir if source.is_dir() else self._store.store_file
        return str(store(source))

    def restore(self, key: str, destination: Path) -> None:
        self._store.load_dir(key, destination)

    def idle(self) -> list[str]:
        program = "import kacas, sys; kacas.Store.open(sys.argv[1]).close()"
        return [sys.executable, "-c", program, str(self._store.path)]


class Copy(InPlace):
    def __init__(self) -> None:
        self.version = first_line("cp", "--version")
        self._copies = 0

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory

    def store(self, source: Path) -> str:
        self._copies += 1
        kept = self._directory / str(self._copies)
        command("cp", "-r", source, kept)
        return str(kept)

    def restore(self, key: str, destination: Path) -> None:
        command("cp", "-r", key, destination)

    def idle(self) -> list[str]:
        return ["cp", "--version"]


class Restic(InPlace):
    def __init__(self) -> None:
        self.version = first_line("restic", "version").partition(" compiled")[0]
        os.environ.update(RESTIC_PASSWORD="bench")

    def open(self, directory: Path) -> None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._restic = ["restic", "--no-cache", "--quiet", "--repo", str(directory)]
        command(*self._restic, "init")

    def store(self, source: Path) -> str:
        folder, name = folder_and_name(source)
        command(*self._restic, "backup", name, cwd=folder)
        return "latest"

    def restore(self, key: str, destination: Path) -> None:
        command(*self._restic, "restore", key, "--target", destination)

    def idle(self) -> list[str]:
        return [*self._restic, "cat", "config"]


class Borg(InPlace):
    def __init__(self) -> None:
        self.version = first_line("borg", "--version")
        os.environ.update(BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
        self._archives = 0

    def open(self, directory: Path) -> None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._repository = directory
        command("borg", "init", "--encryption", "none", directory)

    def store(self, source: Path) -> str:
        folder, name = folder_and_name(source)
        self._archives += 1
        key = f"{self._repository}::{self._archives}"
        command("borg", "create", "--compression", "lz4", key, name, cwd=folder)
        return key

    def restore(self, key: str, destination: Path) -> None:
        destination.mkdir()
        command("borg", "extract", key, cwd=destination)

    def idle(self) -> list[str]:
        return ["borg", "info", str(self._repository)]


class Casync(InPlace):
    def __init__(self) -> None:
        self.version = first_line("casync", "--version")

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._cache = directory.with_name(directory.name + ".cache")
        self._cache.mkdir()
        self._indexes = 0

    def store(self, source: Path) -> str:
        self._indexes += 1
        index = self._directory / f"{self._indexes}.{'caidx' if source.is_dir() else 'caibx'}"
        cache = [f"--cache={self._cache}"] if source.is_dir() and self._indexes > 1 else []
        command("casync", "make", "--without=privileged", *cache, f"--store={self._chunks}", index, source)
        return str(index)

    def restore(self, key: str, destination: Path) -> None:
        command("casync", "extract", f"--store={self._chunks}", key, destination)

    def idle(self) -> list[str]:
        return ["casync", "--version"]

    @property
    def _chunks(self) -> Path:
        return self._directory / "chunks.castr"


class Dvc:
    def __init__(self) -> None:
        os.environ.update(DVC_NO_ANALYTICS="1")
        self._dvc = os.environ["DVC"]
        self.version = f"DVC {first_line(self._dvc, '--version')}"

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._cache = directory
        self._workspace = directory.with_name(directory.name + ".workspace")
        self._prepared: Path | None = None
        self._make_workspace(self._workspace, "hardlink")

    def prepare(self, source: Path) -> None:
        if source == self._prepared:
            return
        kept = self._workspace / KEPT
        kept.unlink(missing_ok=True)  # the first version of a file: its second one takes the same name
        command("cp", "-r", source, kept)
        self._prepared = source

    def store(self, source: Path) -> str:
        command(self._dvc, "add", "--quiet", KEPT, cwd=self._workspace)
        return f"{KEPT}.dvc"

    def restore(self, key: str, destination: Path) -> None:
        workspace = destination.with_name(destination.name + ".workspace")
        self._make_workspace(workspace, "copy")
        shutil.copyfile(self._workspace / key, workspace / key)
        command(self._dvc, "checkout", "--quiet", cwd=workspace)
        (workspace / KEPT).rename(destination)

    def idle(self) -> list[str]:
        return [self._dvc, "--cd", str(self._workspace), "config", "--list"]

    def _make_workspace(self, workspace: Path, link: str) -> None:
        """What `dvc init --no-scm` and `dvc config` would make."""
        (workspace / ".dvc").mkdir(parents=True)
        core = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        cache = f"[cache]\n    dir = {self._cache}\n    type = {link}\n"
        (workspace / ".dvc" / "config").write_text(core + cache)


class KacheryCloud(InPlace):
    def __init__(self) -> None:
        self._kachery, self.version = import_kachery_cloud()
        self._kept: dict[str, list[tuple[Path, str]]] = {}

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        os.environ["KACHERY_CLOUD_DIR"] = str(directory)  # read by every call

    def store(self, source: Path) -> str:
        paths = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints "Computing sha1 of ..." for large files
            uris = [str(self._kachery.store_file_local(str(path))) for path in paths]
        self._kept[str(source)] = list(zip((path.relative_to(source) for path in paths), uris, strict=True))
        return str(source)

    def restore(self, key: str, destination: Path) -> None:
        for name, uri in self._kept[key]:
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            self._kachery.load_file(uri, local_only=True, dest=str(destination / name))

    def idle(self) -> list[str]:
        return [sys.executable, "-c", "import kachery_cloud"]


KEEPERS: dict[str, type[Keeper]] = {
    "kacas": Kacas,
    "cp": Copy,
    "restic": Restic,
    "borg": Borg,
    "casync": Casync,
    "DVC": Dvc,
    "kachery-cloud": KacheryCloud,
}
KEPT = "kept"  # what DVC's workspaces call whatever they keep
COMMANDS = ("cp", "restic", "borg", "casync")  # of the keepers: those that are programs, of the same name


class Requests:
    """What a worker does when asked. Seconds cover the system's own call and nothing else."""

    def __init__(self, system: str) -> None:
        self._keeper = KEEPERS[system]()
        self._directory = Path()

    def version(self) -> dict[str, object]:
        return {"version": self._keeper.version}

    def open(self, directory: str) -> dict[str, object]:
        self._directory = Path(directory)
        self._keeper.open(self._directory)
        return {}

    def prepare(self, source: str) -> dict[str, object]:
        self._keeper.prepare(Path(source))
        return {}

    def store(self, source: str) -> dict[str, object]:
        with timed() as answer:
            answer["key"] = self._keeper.store(Path(source))
        return answer

    def restore(self, key: str, destination: str) -> dict[str, object]:
        with timed() as answer:
            self._keeper.restore(key, Path(destination))
        return answer

    def idle(self) -> dict[str, object]:
        idle = self._keeper.idle()
        with timed() as answer:
            command(*idle)
        return answer

    def sync(self) -> dict[str, object]:
        """What a call that does not sync leaves to do; and what the repository takes of the disk, bytes."""
        start = time.perf_counter()
        sync_tree(self._directory)
        return {"seconds": time.perf_counter() - start, "disk": disk_size(self._directory)}


@contextlib.contextmanager
def timed() -> Iterator[dict[str, object]]:
    """`with timed() as answer:` puts the block's "seconds" there; what was written before is on the disk first."""
    settle()
    answer: dict[str, object] = {}
    start = time.perf_counter()
    yield answer
    answer["seconds"] = time.perf_counter() - start


def command(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a program; returns what it printed. Raises RuntimeError with its own words if it failed."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def first_line(*words: str) -> str:
    return command(*words).splitlines()[0]


def folder_and_name(source: Path) -> tuple[Path, str]:
    """Where to go, and what to name there, so that an archive holds no leading directories."""
    return (source, ".") if source.is_dir() else (source.parent, source.name)


def missing_commands() -> list[str]:
    """The command-line keepers that are not installed."""
    return [name for name in COMMANDS if shutil.which(name) is None]


if __name__ == "__main__":
    serve(Requests(sys.argv[1]))
