"""Power loss: a machine is cut off in the middle of its work and booted again; what it acknowledged is there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.power import DISK, Machine
from tests.faults.programs.powered import said

PATIENCE_S = 120
DISK_SIZE = 4 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path, DISK_SIZE)
    yield made
    made.cut()
    (tmp_path / "disk.img").unlink()


@dataclass
class Losses:
    """Of some cycles. cuts: how often the power was cut while it stored; acknowledged: what it said before."""

    cuts: int
    acknowledged: int
    lost: list[str]
    temporaries: int


def lose_power(machine: Machine, directory: Path, cycles: int, *, durability: str = "full") -> Losses:
    """So many times: boot, look at all that was acknowledged, store, be cut off; then look once more."""
    draw = random.Random()
    cuts = 0
    for cycle in map(str, range(cycles)):
        machine.switch_on("powered", DISK / "store", DISK / "cache", directory, cycle, durability)
        if cycle != "0" and draw.random() < 0.15:
            time.sleep(draw.uniform(0, 4))  # while it boots, mounts, or looks
        else:
            await_looked(machine, directory, cycle)
            time.sleep(draw.uniform(0.1, 3))
        assert machine.is_on(), machine.console()[-3000:]
        machine.cut()
        cuts += any("uri" in event for event in said(directory, cycle))
    machine.switch_on("powered", DISK / "store", DISK / "cache", directory, "last", durability)
    await_looked(machine, directory, "last")
    machine.wait(PATIENCE_S)
    events = said(directory)
    assert [event["failed"] for event in events if "failed" in event] == []
    check_index_began_anew([event for event in events if "before" in event])
    return Losses(
        cuts=cuts,
        acknowledged=sum("uri" in event for event in events),
        lost=sorted({uri for event in events for uri in event.get("lost", [])}),
        temporaries=sum(event.get("temporaries", 0) for event in events),
    )


def await_looked(machine: Machine, directory: Path, cycle: str) -> None:
    """Until it has looked at what was there before."""
    end = time.monotonic() + PATIENCE_S
    while not any("checked" in event for event in said(directory, cycle)):
        working = machine.is_on() and time.monotonic() < end
        assert working, [machine.console()[-3000:], said(directory, cycle)[-1:]]
        time.sleep(0.02)


def check_index_began_anew(opened: list[dict[str, Any]]) -> None:
    """At each boot: LMDB does not sync, so what a machine left that lost its power is not believed."""
    assert len({tuple(event["now"]) for event in opened}) == len(opened)
    assert all(event["before"] != event["now"] for event in opened)


def test_what_was_acknowledged_before_the_power_failed_is_there(machine: Machine, tmp_path: Path) -> None:
    losses = lose_power(machine, tmp_path, 3)
    assert losses.lost == []
    assert losses.cuts >= 1
    assert losses.acknowledged >= 10


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_what_was_acknowledged_is_there_after_20_power_losses(machine: Machine, tmp_path: Path) -> None:
    losses = lose_power(machine, tmp_path, 20)
    print(losses)
    assert losses.lost == []
    assert losses.cuts >= 10
    assert losses.acknowledged >= 400


@pytest.mark.heavy
def test_a_store_that_does_not_sync_loses_content_here(machine: Machine, tmp_path: Path) -> None:
    # Else a power loss here would prove nothing.
    losses = lose_power(machine, tmp_path, 3, durability="relaxed")
    assert losses.lost != []
