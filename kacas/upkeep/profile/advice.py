"""What to change, by rules over measured figures. Where no rule finds a gain that is worth it, there is no advice.

The rules are listed for users in docs/how-to.md; each advice carries its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kacas.upkeep.profile.figures import Advice
from kacas.upkeep.profile.operations import Reading, Trip
from kacas.upkeep.profile.wording import seconds, size, three_digits, times

LEAST_SAMPLE = 1 << 20  # bytes of data: less says nothing of anything but small things
FASTER = 1.25  # a change of codec, durability, threads or memory must give so many times the speed
NOT_SLOWER = 0.95  # of two figures one may be slower by so much: they are never quite the same
AT_MOST_LARGER = 1.15  # and a faster codec may take so many times the space
SMALLER = 1.05  # a denser codec must save so much
TOGETHER = 3.0  # a batch must store so many times as many small things
TILES = 3.0  # tiles must read a column so many times as fast
MAPPED = 2.0  # the local cache must give an array again so many times as fast
INDEX = 1.5  # another place for the index must answer so many times as fast
CACHE_DISK = 1.5  # a local disk must read so many times as fast as that of the store


@dataclass
class Findings:
    """What was measured and the rules ask for. None and empty: not measured, so there is nothing to say of it.

    trips: way → its trip: "auto", "fast", "small", "relaxed" or "full" (whichever the store is not), "threads", "memory".
    index: place → chunks looked up a second, the one in use first. cold: bytes a second read cold: store, cache.
    """

    has_recipes: bool
    sample_size: int
    durability: str
    trips: dict[str, Trip] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    singly: float | None = None
    singly_relaxed: float | None = None
    together: float | None = None
    index: dict[str, float] = field(default_factory=dict)
    cold: tuple[float, float] | None = None
    threads: int = 0
    memory: int = 0


def advise(found: Findings) -> list[Advice]:
    """What is worth it, the largest gain first: for this data, then for any."""
    for_data = [_codecs, _small_codec, _durability, _tiles, _mapped, _threads, _memory]
    for_any = [_cache_disk, _index_place, _batches]
    groups = [for_data, for_any] if found.sample_size >= LEAST_SAMPLE else [for_any]
    return [one for rules in groups for one in _largest_first(rules, found)]


def _largest_first(rules: Sequence[Callable[[Findings], Iterator[Advice]]], found: Findings) -> list[Advice]:
    return sorted((one for rule in rules for one in rule(found)), key=lambda one: -one.factor)


def _codecs(found: Findings) -> Iterator[Advice]:
    auto, fast = found.trips.get("auto"), found.trips.get("fast")
    if not found.has_recipes or auto is None or fast is None:
        return
    store, load = auto.store_s / fast.store_s, auto.load_s / fast.load_s
    larger = fast.stored_size / max(1, auto.stored_size)
    if max(store, load) >= FASTER and min(store, load) >= NOT_SLOWER and larger <= AT_MOST_LARGER:
        yield Advice(
            "codec.fast",
            'store with codec="fast" (kacas store --codec fast)',
            f"if time counts more than the disk: it takes {_percent(larger)} of the bytes of auto",
            f"storing {times(store)}, loading {times(load)} as fast: {seconds(fast.store_s)} and {seconds(fast.load_s)} for "
            f"{size(found.sample_size)} instead of {seconds(auto.store_s)} and {seconds(auto.load_s)}",
            f"storing or loading with fast at least {FASTER} × as fast as with auto, neither below {NOT_SLOWER} ×, in "
            f"at most {AT_MOST_LARGER} × the bytes",
            max(store, load),
        )


def _small_codec(found: Findings) -> Iterator[Advice]:
    auto, small = found.trips.get("auto"), found.trips.get("small")
    if not found.has_recipes or auto is None or small is None:
        return
    saved = auto.stored_size / max(1, small.stored_size)
    if saved >= SMALLER:
        yield Advice(
            "codec.small",
            'store with codec="small" (kacas store --codec small)',
            f"if the disk counts more than time: storing takes {times(small.store_s / auto.store_s)} as long, loading "
            f"{times(small.load_s / auto.load_s)}",
            f"{_percent(1 / saved)} of the bytes of auto: {size(small.stored_size)} instead of {size(auto.stored_size)}",
            f"auto takes at least {SMALLER} × the bytes of small",
            saved,
        )


def _durability(found: Findings) -> Iterator[Advice]:
    auto, relaxed = found.trips.get("auto"), found.trips.get("relaxed")
    if found.durability != "full" or auto is None or relaxed is None:
        return
    large = auto.store_s / relaxed.store_s
    small = found.singly_relaxed / found.singly if found.singly and found.singly_relaxed else 0.0
    if large >= FASTER:
        yield Advice(
            "durability",
            "a store with durability relaxed (kacas init PATH --durability relaxed), chosen when it is made",
            "if what was stored in the last seconds may be lost at a power cut, as on scratch disks",
            f"storing this data {times(large)} as fast: {seconds(relaxed.store_s)} instead of {seconds(auto.store_s)}"
            + (f"; small things one by one {times(small)}" if small >= FASTER else ""),
            f"storing the data at least {FASTER} × as fast without syncs",
            large,
        )


def _batches(found: Findings) -> Iterator[Advice]:
    if not found.singly or not found.together or found.together / found.singly < TOGETHER:
        return
    gain = found.together / found.singly
    yield Advice(
        "batch",
        "store many small things in one batch: with kacas.batch(): ..., or kacas store with all paths at once",
        "if many small things come together; their URIs hold when the block ends",
        f"{times(gain)} as many: {three_digits(found.together)} texts of 1 KiB a second instead of "
        f"{three_digits(found.singly)}",
        f"a batch stores at least {TOGETHER:.0f} × as many small texts a second",
        gain,
    )


def _tiles(found: Findings) -> Iterator[Advice]:
    whole, tiled = found.reading.column_s, found.reading.tile_column_s
    if not whole or not tiled or whole / tiled < TILES:
        return
    lengths = ", ".join("None" if length is None else str(length) for length in found.reading.tiles)
    yield Advice(
        "tiles",
        f"store the array as tiles: store_npy(array, chunks=({lengths}))",
        "if it is read along its other axes, such as one channel over all time",
        f"a slice along the first axis {times(whole / tiled)} as fast: {seconds(tiled)} instead of {seconds(whole)}",
        f"one index of the last axis read at least {TILES:.0f} × as fast from tiles",
        whole / tiled,
    )


def _mapped(found: Findings) -> Iterator[Advice]:
    auto, mapped = found.trips.get("auto"), found.reading.mapped_s
    if auto is None or not mapped or auto.load_s / mapped < MAPPED:
        return
    yield Advice(
        "local_cache",
        "load_npy(uri, mmap=True), which keeps the array decoded in the host-local cache",
        f"if the same array is loaded again and again: it takes its {size(found.sample_size)} in KACAS_CACHE_DIR, and is "
        "verified the first time only",
        f"from the second time on {times(auto.load_s / mapped)} as fast: {seconds(mapped)} instead of {seconds(auto.load_s)}",
        f"mapping the cached file and copying all of it at least {MAPPED:.0f} × as fast as loading",
        auto.load_s / mapped,
    )


def _cache_disk(found: Findings) -> Iterator[Advice]:
    if found.cold is None or found.cold[1] / found.cold[0] < CACHE_DISK:
        return
    store, cache = found.cold
    yield Advice(
        "cache_disk",
        "load_file(uri) or load_npy(uri, mmap=True): copies in the host-local cache, in front of the store",
        "if the same content is read more than once on this machine",
        f"cold reads {times(cache / store)} as fast: {size(cache)}/s instead of {size(store)}/s",
        f"the cache's disk reads cold at least {CACHE_DISK} × as fast as the store's",
        cache / store,
    )


def _index_place(found: Findings) -> Iterator[Advice]:
    if len(found.index) < 2:
        return
    here, *others = found.index.items()
    place, best = max(others, key=lambda one: one[1])
    if best / here[1] >= INDEX:
        yield Advice(
            "index_place",
            f"put index and cache on another disk: KACAS_CACHE_DIR={place}/kacas",
            "if that disk has room for the files that load_file keeps",
            f"chunks looked up {times(best / here[1])} as fast: {three_digits(best)} a second instead of "
            f"{three_digits(here[1])}",
            f"an index there answers at least {INDEX} × as fast",
            best / here[1],
        )


def _threads(found: Findings) -> Iterator[Advice]:
    yield from _setting(found, "threads", "KACAS_THREADS", str(found.threads), "if no other work needs the processors")


def _memory(found: Findings) -> Iterator[Advice]:
    given = f"{found.memory >> 20}M"
    yield from _setting(
        found, "memory", "KACAS_MEMORY", given, "if that much memory is free for each store that is open"
    )


def _setting(found: Findings, key: str, variable: str, value: str, when: str) -> Iterator[Advice]:
    auto, other = found.trips.get("auto"), found.trips.get(key)
    if auto is None or other is None:
        return
    gain = max(auto.store_s / other.store_s, auto.load_s / other.load_s)
    if gain >= FASTER:
        yield Advice(
            key,
            f"{variable}={value}",
            when,
            f"storing {times(auto.store_s / other.store_s)}, loading {times(auto.load_s / other.load_s)} as fast",
            f"storing or loading at least {FASTER} × as fast with it",
            gain,
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
