"""What many small packs cost: opening, missing, listing and storing in a store of single texts, merged and left alone.

    python -m bench.packs                       # 10,000 texts, each a durable put of its own; about 4 minutes
    python -m bench.packs --texts 1000          # a look, not a figure

"cold" is with the index gone, as on another host; the page cache is warm in all of it. Opens are of pack files.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench import machine
from bench.measure import Series, paired
from bench.report import by_system
from bench.running import new_run, options_parser, say, write_json
from kacas import Store
from kacas.disk.pack_reader import PackReader
from kacas.model.merging import RULE, MergeRule
from kacas.settings import Settings

MISSING = "sha1://" + "00" * 20
ALONE = replace(RULE, fan_in=1 << 62)  # never reached
SYSTEMS = {"merged": RULE, "left alone": ALONE}
ROWS = {
    "packs": "pack files",
    "disk_mib": "disk, MiB",
    "put_first_ms": "a put, the first tenth (median), ms",
    "put_last_ms": "a put, the last tenth (median), ms",
    "put_mean_ms": "a put, mean of all, ms",
    "put_longest_ms": "the longest put, ms",
    "cold_open_ms": "open, cold, ms",
    "cold_open_opens": "open, cold: packs opened",
    "warm_open_ms": "open, warm, ms",
    "warm_open_opens": "open, warm: packs opened",
    "miss_ms": "first miss, ms",
    "miss_opens": "first miss: packs opened",
    "miss_again_ms": "second miss, ms",
    "put_after_open_ms": "first put after opening, ms",
    "history_ms": "history of all, ms",
    "history_opens": "history: packs opened",
    "load_ms": "load of a text (mean of 100), ms",
}


class Opens:
    """Counts the packs that are opened, while `with counted() as opens:` lasts."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def counted() -> Iterator[Opens]:
    opens, original = Opens(), PackReader.__init__

    def count(self: PackReader, path: Path, pack_id: bytes, store_id: bytes) -> None:
        opens.count += 1
        original(self, path, pack_id, store_id)

    PackReader.__init__ = count  # type: ignore[method-assign]
    try:
        yield opens
    finally:
        PackReader.__init__ = original  # type: ignore[method-assign]


def open_store(directory: Path, rule: MergeRule) -> Store:
    settings = replace(Settings.from_environment(), cache_directory=directory / "cache", owner="bench")
    store = Store.open(directory / "store", settings=settings)
    store.repository.lookup.rule = rule
    return store


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure(directory: Path, rule: MergeRule, texts: int) -> dict[str, float]:
    """One round: fill a new store, then look at it in every way. Times in milliseconds."""
    with open_store(directory, rule) as store:
        uris: list[str] = []
        puts = [
            seconds(lambda number=number: uris.append(store.store_text(f"text {number}")))  # type: ignore[misc]
            for number in range(texts)
        ]
        stats = store.stats()
    tenth = max(1, texts // 10)
    figures = {
        "packs": float(stats.packs),
        "disk_mib": machine.disk_size(directory / "store") / (1 << 20),
        "put_first_ms": statistics.median(puts[:tenth]) * 1e3,
        "put_last_ms": statistics.median(puts[-tenth:]) * 1e3,
        "put_mean_ms": statistics.fmean(puts) * 1e3,
        "put_longest_ms": max(puts) * 1e3,
    }
    shutil.rmtree(directory / "cache")
    for temperature in ("cold", "warm"):
        with counted() as opens:
            begun = time.perf_counter()
            store = open_store(directory, rule)
            figures[f"{temperature}_open_ms"] = (time.perf_counter() - begun) * 1e3
        figures[f"{temperature}_open_opens"] = opens.count
        if temperature == "cold":
            store.close()
    with store:
        figures["put_after_open_ms"] = seconds(lambda: store.store_text("one more")) * 1e3
        with counted() as opens:
            figures["miss_ms"] = seconds(lambda: store.exists(MISSING)) * 1e3
        figures["miss_opens"] = opens.count
        figures["miss_again_ms"] = seconds(lambda: store.exists(MISSING)) * 1e3
        with counted() as opens:
            figures["history_ms"] = seconds(lambda: list(store.history())) * 1e3
        figures["history_opens"] = opens.count
        some = uris[:: max(1, texts // 100)]
        figures["load_ms"] = seconds(lambda: [store.load_text(uri) for uri in some]) / len(some) * 1e3
    return figures


def run(texts: int, rounds: int, place: Path) -> tuple[dict[str, object], str]:
    """The report as JSON and as a table."""

    def turn_of(name: str, rule: MergeRule) -> Callable[[int], dict[str, float]]:
        return lambda number: measure(place / f"{name}-{number}", rule, texts)

    figures = paired(rounds, {name: turn_of(name, rule) for name, rule in SYSTEMS.items()}, warm_up=0)
    rows: list[tuple[str, dict[str, Series | None]]] = [
        (title, {name: figures[name][what] for name in SYSTEMS}) for what, title in ROWS.items()
    ]
    report = {
        "machine": machine.describe(place),
        "texts": texts,
        "figures": {
            name: {what: series.as_json() for what, series in found.items()} for name, found in figures.items()
        },
    }
    return report, by_system(list(SYSTEMS), rows)


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser("bench.packs", __doc__ or "", output="packs.json", peers=(), rounds="1")
    parser.add_argument("--texts", type=int, default=10_000, help="single puts, each a pack of its own (%(default)s)")
    options = parser.parse_args(arguments)
    with new_run(options.workdir, leave=options.leave) as place:
        report, table = run(options.texts, options.rounds or 1, place)
    write_json(options.output, report)
    print(table)
    say(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main()
