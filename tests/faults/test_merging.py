"""Merging under faults: an interrupt or an error at any call costs no put, and what is merged need not be opened."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

import kacas
from kacas.model.merging import MergeRule, tier_of
from tests.faults import contents, strace
from tests.faults.children import fork
from tests.faults.examination import check_sound, check_verified, known_contents, make_store, names, open_store, said
from tests.faults.programs import puts

CALLS = [
    "fsync",
    *(pytest.param(calls, marks=pytest.mark.heavy) for calls in ("link,linkat", "pwritev,pwritev2", "fchmod")),
]

_UNNOTICED = 3  # calls in a row


def run_faulty(base: Path, calls: str, fault: str) -> list[dict[str, object]]:
    """The workload "merging" on a new store, with a fault injected. Returns what it said."""
    base.mkdir()
    make_store(base, [contents.text("earlier")])
    strace.attach(lambda: puts.run("merging", base), strace.inject(calls, fault))
    return said(base)


def check(base: Path, events: list[dict[str, object]]) -> int:
    """Sound, and nothing is left over. Returns how many merged packs there are."""
    known = known_contents()
    stored = {str(event["uri"]): known[str(event["label"])] for event in events if "uri" in event}
    check_sound(base, stored, base / "fresh-cache")
    packs = os.listdir(base / "store" / "packs")
    assert [name for name in packs if name.startswith(".")] == []
    return sum(tier_of(bytes.fromhex(name.removesuffix(".pack"))) > 0 for name in packs)


@pytest.mark.parametrize("calls", CALLS)
def test_after_ctrl_c_at_any_step_of_a_merge_nothing_is_left_over(tmp_path: Path, calls: str) -> None:
    for n in itertools.count(1):
        base = tmp_path / str(n)
        events = run_faulty(base, calls, f"signal=SIGINT:when={n}")
        check(base, events)
        shutil.rmtree(base)
        if {"done": True} in events:
            assert n > 7
            return
        assert events[-1]["raised"] == "KeyboardInterrupt"


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("error", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.heavy)])
def test_an_error_of_any_call_of_a_merge_fails_no_put(tmp_path: Path, calls: str, error: str) -> None:
    unharmed = unnoticed = 0
    for n in itertools.count(1):
        base = tmp_path / str(n)
        events = run_faulty(base, calls, f"error={error}:when={n}")
        merges = check(base, events)
        shutil.rmtree(base)
        # The error of a call that a put does without, as of a cache, is not noticed; nor is one behind the last call.
        unnoticed = unnoticed + 1 if {"done": True} in events and merges == 3 else 0
        if unnoticed == _UNNOTICED:
            break
        if unnoticed:
            continue
        # Either a put said that it failed, or all are there and a merge was given up.
        assert {"done": True} in events or events[-1]["known"] is True, events[-1]
        unharmed += {"done": True} in events
    assert unharmed >= 3


def test_a_full_disk_fails_a_merge_and_no_put(tmp_path: Path) -> None:
    # The second write is that of the first merge: of what was there earlier and the first put.
    events = run_faulty(tmp_path / "full", "pwritev,pwritev2", "error=ENOSPC:when=2")
    assert {"done": True} in events
    assert check(tmp_path / "full", events) == 0, "it is not tried again at once"


def test_processes_that_put_and_merge_at_once_lose_nothing(tmp_path: Path) -> None:
    open_store(tmp_path / "store", tmp_path / "cache", create=True).close()

    def work(number: int) -> dict[str, str]:
        # The odd ones are another host: their index is their own.
        with open_store(tmp_path / "store", tmp_path / ("cache" if number % 2 else "other-cache")) as store:
            store.repository.lookup.rule = MergeRule(fan_in=4)
            return {(c := contents.text(f"{number}-{i}")).put(store): c.label for i in range(20)}

    children = [fork(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]
    stored: dict[str, str] = {}
    for child in children:
        stored |= child.wait().get()
    assert len(stored) == 80
    for cache in ("cache", "other-cache", "fresh-cache"):
        with open_store(tmp_path / "store", tmp_path / cache) as store:
            for uri, label in stored.items():
                contents.text(label).check(store, uri)
            assert len(list(store.history())) == 80
            assert store.stats().contents == store.stats().entries == 80
            assert check_verified(store).redundant == []


def test_what_is_merged_is_opened_neither_by_a_new_index_nor_by_a_miss(tmp_path: Path) -> None:
    with open_store(tmp_path / "store", tmp_path / "cache-of-maker", create=True) as store:
        store.repository.lookup.rule = MergeRule(fan_in=5)
        for number in range(60):
            store.store_text(f"pack {number}")
    files = names(tmp_path / "store")
    assert len(files) > 70
    log = tmp_path / "log"
    options = ["-y", "-o", str(log), "-e", f"trace=?open,?openat,?stat,?statx,?newfstatat,{strace.MARK_CALLS}"]
    env = {"KACAS_CACHE_DIR": str(tmp_path / "cache")}
    strace.run("counted", tmp_path / "store", "miss", "second-miss", "single-put", options=options, **env)
    calls = strace.sections(log)

    def packs(operation: str) -> int:
        """How many calls name a pack that is opened or asked for its size (once each, by its descriptor)."""
        named = [call for call in calls[operation] if any(path.endswith(".pack") for path in call.paths)]
        opened = [call for call in named if call.name.startswith("open")]
        assert len(named) <= 2 * len(opened)
        return len(opened)

    # 60 = 2 × 25 + 2 × 5: two of the second tier and two of the first.
    assert packs("open") == 4
    assert packs("miss") <= 4
    assert packs("second-miss") == 0
    assert packs("single-put") <= 2


def test_a_loss_of_the_merged_pack_while_a_store_is_open_is_no_loss(tmp_path: Path) -> None:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
        store.repository.lookup.rule = MergeRule(fan_in=3)
        stored = {(c := contents.text(f"text {i}")).put(store): c for i in range(3)}
        (merged,) = [path for path in (tmp_path / "store" / "packs").iterdir() if path.name.startswith("fff")]
        merged.unlink()
        for uri, content in stored.items():
            content.check(store, uri)
        with pytest.raises(kacas.NotFoundError):
            store.load_bytes("sha1://" + "00" * 20)
        for content in stored.values():
            content.put(store)
        check_verified(store)
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        for uri, content in stored.items():
            content.check(store, uri)
        check_verified(store)
