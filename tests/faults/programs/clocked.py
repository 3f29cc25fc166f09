"""A host whose clock may be wrong: python -m tests.faults.programs.clocked PLACE HOST ROUNDS

On PLACE/store with PLACE/cache-HOST, beside other hosts. It stores, forgets, stores again, merges, makes segments and loads
what others stored, and says so in PLACE/HOST.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import kacas
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
from tests.faults import contents
from tests.faults.examination import open_store
from tests.faults.programs.puts import Say


def events_of(place: Path, hosts: list[str]) -> list[dict[str, Any]]:
    files = [place / host for host in hosts if (place / host).exists()]
    return [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]


def run(place: Path, host: str, rounds: int) -> None:
    warnings.simplefilter("error")
    say = Say(place / host)
    say(time=time.time())
    with open_store(place / "store", place / f"cache-{host}") as store:
        store.repository.lookup.rule = MergeRule(fan_in=4)
        store.repository.segment_maker.rule = SegmentRule(packs=10)
        for number in range(rounds):
            for content in (contents.text(f"{host}-{number}"), contents.array(f"{host}-{number}", 3000)):
                say(stored=content.put(store), sha1=content.sha1)
            given_up = contents.json(f"{host}-{number}")
            uri = given_up.put(store)
            store.forget(uri)
            say(forgotten=uri)
            kept = contents.json(f"{host}-{number}-again")
            uri = kept.put(store)
            store.forget(uri)
            say(stored=kept.put(store), sha1=kept.sha1)
            load_others(store, place, host)
    say(done=True)


def load_others(store: kacas.Store, place: Path, host: str) -> None:
    others = [path.name for path in place.iterdir() if path.is_file() and path.name != host]
    for event in events_of(place, others)[-4:]:
        if "stored" in event:
            assert contents.sha1_of(store.load_bytes(event["stored"])) == event["sha1"]


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
