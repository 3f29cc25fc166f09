"""Files on NFS as sources and destinations: python -m tests.faults.programs.nfs_sources

Runs in a guest of tests/faults/nfs.py, on host b, with a store on a local disk; host a changes the files meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import kacas

THERE, HERE = Path(os.environ["KACAS_NFS_A"]) / "files", Path(os.environ["KACAS_NFS_B"]) / "files"
OLD_S = 2 * 24 * 3600.0


def write(name: str, text: str) -> None:
    """On host a, in place."""
    with open(THERE / name, "w") as file:
        file.write(text)


def uri_of(text: str, name: str) -> str:
    return f"sha1://{hashlib.sha1(text.encode()).hexdigest()}?label={name}"


def age() -> None:
    """Make all look old, as only the server's own disk can: identities of young files are not remembered."""
    subprocess.run(["date", "-s", f"@{time.time() + OLD_S}"], check=True, stdout=subprocess.DEVNULL)


def check_changes(store: kacas.Store) -> None:
    """What another host changed is never taken for unchanged, however young what this host knows of it is."""
    names = [f"file-{number}" for number in range(6)]
    for name in names:
        write(name, f"first text of {name}")
    age()
    for text in ("first", "third", "fifth"):
        for name in names:
            write(name, f"{text} text of {name}")
        age()
        known = store.store_dir(HERE)
        for name in names:
            assert store.store_file(HERE / name) == uri_of(f"{text} text of {name}", name)
            os.stat(HERE / name)
        assert store.store_dir(HERE) == known
        assert {state.name for state in HERE.iterdir()} == set(names)
        # The same sizes, at once, and nobody told host b.
        for name in names:
            write(name, f"other text of {name}")
        changed = store.store_dir(HERE)
        for name in names:
            assert store.load_text(f"{changed.split('?')[0]}/{name}") == f"other text of {name}"
            assert store.store_file(HERE / name) == uri_of(f"other text of {name}", name)
    assert store.store_dir(HERE) == store.store_dir(HERE, rehash=True)


def check_held_open(store: kacas.Store) -> None:
    """Also where another process of this host holds the file open, and its own open need not ask the server."""
    write("held", "held text 1")
    age()
    with open(HERE / "held") as held:
        held.read()
        assert store.store_file(HERE / "held") == uri_of("held text 1", "held")
        write("held", "held text 2")
        assert store.store_file(HERE / "held") == uri_of("held text 2", "held")


def check_links(store: kacas.Store) -> None:
    """A linked file that another host changed is named, and its bytes are never taken for the old ones."""
    write("linked", "linked text 1")
    uri = store.link_file(HERE / "linked")
    assert store.load_text(uri) == "linked text 1"
    write("linked", "linked text 2")
    try:
        assert store.load_text(uri) == "linked text 1"  # what this host still has, verified
    except kacas.AdoptedFileError as exc:
        assert "linked" in str(exc)


def check_destinations(store: kacas.Store) -> None:
    """Files and directories are restored onto NFS, whole and without leftovers, and again over themselves."""
    source = Path("/mnt/source")
    for number in range(300):
        path = source / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 31))
    (source / "large").write_bytes(os.urandom(9 << 20))
    uri = store.store_dir(source)
    for target in (HERE / "restored", HERE / "restored"):
        store.load_dir(uri, target)
    seen = subprocess.run(["diff", "-r", source, THERE / "restored"], capture_output=True, text=True, check=False)
    assert not seen.returncode, seen.stdout
    names = {path.name for path in (THERE / "restored").rglob("*")}
    assert not {name for name in names if name.startswith(".")}, names
    large = store.store_file(source / "large")
    assert store.load_file(large, dest=HERE / "copied").read_bytes() == (source / "large").read_bytes()
    assert store.load_file(large, dest=HERE / "copied").stat().st_size == 9 << 20
    assert sorted(os.listdir(THERE)) == sorted(os.listdir(HERE))
    assert not [name for name in os.listdir(THERE) if name.startswith(".")]
    shutil.rmtree(THERE / "restored")


def main() -> None:
    THERE.mkdir()
    with kacas.Store.open("/mnt/local-store") as store:
        check_changes(store)
        check_held_open(store)
        check_links(store)
        check_destinations(store)
    print("all right")


if __name__ == "__main__":
    main()
