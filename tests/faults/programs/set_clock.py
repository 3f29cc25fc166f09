"""Sets the clock of the machine it runs on, a guest, forth and back: python -m tests.faults.programs.set_clock PLACE

Whatever the clock says, a file's URI is that of its bytes, and what was stored or handed out is there.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from dataclasses import replace
from pathlib import Path

import kacas
from kacas.model.merging import MergeRule
from kacas.settings import Settings
from tests.faults import contents
from tests.faults.examination import check_verified

HOUR_S = 3600
JUMPS_S = (HOUR_S, -2 * HOUR_S, HOUR_S, -HOUR_S, 2 * HOUR_S, -HOUR_S)


def run(place: Path) -> None:
    warnings.simplefilter("error")
    # No budget: only what was handed out lately stays.
    settings = replace(Settings.from_environment(), cache_directory=place / "cache", cache_size=1)
    source = place / "source"
    source.write_bytes(b"0" * 100_000)
    stored: dict[str, contents.Content] = {}
    handed_out: deque[Path] = deque()
    with kacas.Store.open(place / "store", settings=settings) as store:
        store.repository.lookup.rule = MergeRule(fan_in=3)
        for number, jump_s in enumerate(JUMPS_S):
            store.store_file(source)
            time.clock_settime(time.CLOCK_REALTIME, time.time() + jump_s)
            for change in range(20):  # several within one tick of the kernel's clock
                data = f"{number} {change:3}".encode() * 10_000
                with open(source, "r+b") as file:
                    file.write(data)
                assert store.store_file(source).startswith(f"sha1://{contents.sha1_of(source.read_bytes())}")
            for content in (contents.text(f"{number}"), contents.array(f"{number}", 2000)):
                stored[content.put(store)] = content
            handed_out.extend(Path(store.load_file(uri)) for uri in [*stored][-2:])
            for uri, content in stored.items():
                content.check(store, uri)
            assert all(path.exists() for path in handed_out)
            assert stored.keys() <= {item.uri for item in store.history()}
        check_verified(store)
    print("all is there")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
