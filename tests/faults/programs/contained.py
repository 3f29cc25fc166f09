"""Stores and loads in a container until it is told to stop: python -m tests.faults.programs.contained PLACE NAME

On PLACE/store with PLACE/cache, which other containers use too. It says what it does in PLACE/NAME, as `puts` does, ends
when there is a file PLACE/stop, and restores directories into PLACE/restored, as others do at the same time.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import kacas
from kacas.model.merging import MergeRule
from tests.faults import contents
from tests.faults.examination import open_store
from tests.faults.programs.puts import Say


def read_others(place: Path, name: str) -> list[dict[str, str]]:
    files = [place / other for other in ("one", "two", "three") if other != name and (place / other).exists()]
    events = [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]
    return [event for event in events if "uri" in event]


def restore(store: kacas.Store, destination: Path, label: str) -> None:
    """A directory that is new there, beside those of others: it is filled under a temporary name, and theirs too."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / label
        directory.mkdir()
        files = {f"f{i}": contents.random_bytes(f"{label}-{i}", 3000).data for i in range(20)}
        for name, data in files.items():
            (directory / name).write_bytes(data)
        store.load_dir(store.store_dir(scratch), destination)
    assert {path.name: path.read_bytes() for path in (destination / label).iterdir()} == files


def run(place: Path, name: str) -> None:
    warnings.simplefilter("error")
    say = Say(place / name)
    say(pid=os.getpid(), namespace=os.stat("/proc/self/ns/pid").st_ino)
    with open_store(place / "store", place / "cache") as store:
        store.repository.lookup.rule = MergeRule(fan_in=4)
        for number in itertools.count():
            label = f"{name}-{number}"
            put = [contents.text(label), contents.array(label, 2000)]
            with store.batch():
                uris = [content.put(store) for content in put]
            for content, uri in zip(put, uris, strict=True):
                say(uri=uri, sha1=content.sha1)
            for event in read_others(place, name)[-3:]:
                assert contents.sha1_of(store.load_bytes(event["uri"])) == event["sha1"]
            if number % 5 == 0:
                restore(store, place / "restored", f"{name}-{number}")
            if (place / "stop").exists():
                break
    say(done=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
