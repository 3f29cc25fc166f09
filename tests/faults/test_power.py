"""Power loss: a machine is cut off in the middle of its work and booted again; what it acknowledged is there."""

from __future__ import annotations

import random
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import strace, uml
from tests.faults.programs.powered import said

PATIENCE_S = 120
DISK_SIZE = 4 << 30
STORE, CACHE = Path("/mnt/disk/store"), Path("/mnt/disk/cache")


@dataclass
class Machine:
    """It has one disk, a file here: what it wrote there stays, what was only in its memory is gone.

    said: a directory here, in which it says what it does.
    """

    disk: Path
    said: Path
    durability: str = "full"

    @contextmanager
    def switched_on(self, cycle: str) -> Iterator[uml.Guest]:
        program = ["powered", STORE, CACHE, self.said, cycle, self.durability]
        script = f"mkdir /mnt/disk && mount -t ext4 /dev/ubda /mnt/disk && {shlex.join(strace.command(*program))}"
        environment = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/run"}
        with uml.boot(script, memory_mib=512, disks=[self.disk], environment=environment) as guest:
            yield guest

    def await_looked(self, guest: uml.Guest, cycle: str) -> None:
        """Until it has looked at what was there before."""
        end = time.monotonic() + PATIENCE_S
        while not any("checked" in event for event in said(self.said, cycle)):
            working = guest.running() and time.monotonic() < end
            assert working, [guest.output(), said(self.said, cycle)[-1:]]
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if lacking := uml.missing({"mkfs.ext4": "e2fsprogs"}):
        pytest.skip(lacking)
    made = Machine(tmp_path / "disk", tmp_path)
    with open(made.disk, "wb") as disk:
        disk.truncate(DISK_SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", made.disk], check=True, env={"PATH": uml.ADMIN_PATH})
    yield made
    made.disk.unlink()


@dataclass
class Losses:
    """Of some cycles. cuts: how often the power was cut while it stored. uris, changes: what it acknowledged before, of contents
    and of mutables and messages."""

    cuts: int
    uris: int
    changes: int
    lost: list[str]
    temporaries: int


def lose_power(machine: Machine, cycles: int) -> Losses:
    """So many times: boot, look at all that was acknowledged, store, be cut off; then look once more."""
    draw = random.Random()
    cuts = 0
    for cycle in map(str, range(cycles)):
        with machine.switched_on(cycle) as guest:
            if cycle != "0" and draw.random() < 0.15:
                time.sleep(draw.uniform(0, 4))  # while it boots, mounts, or looks
            else:
                machine.await_looked(guest, cycle)
                time.sleep(draw.uniform(0.1, 3))
            assert guest.kill().status is None
        cuts += any("uri" in event for event in said(machine.said, cycle))
    with machine.switched_on("last") as guest:
        guest.wait().check()
    events = said(machine.said)
    assert [event["failed"] for event in events if "failed" in event] == []
    check_index_began_anew([event for event in events if "before" in event])
    return Losses(
        cuts=cuts,
        uris=sum("uri" in event for event in events),
        changes=sum(event.get("done", False) for event in events),
        lost=sorted({uri for event in events for uri in event.get("lost", [])}),
        temporaries=sum(event.get("temporaries", 0) for event in events),
    )


def check_index_began_anew(opened: list[dict[str, Any]]) -> None:
    """At each boot: LMDB does not sync, so what a machine left that lost its power is not believed."""
    assert len({tuple(event["now"]) for event in opened}) == len(opened)
    assert all(event["before"] != event["now"] for event in opened)


def test_what_was_acknowledged_before_the_power_failed_is_there(machine: Machine) -> None:
    losses = lose_power(machine, 2)
    assert losses.lost == []
    assert losses.cuts >= 1
    assert losses.uris >= 10


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_what_was_acknowledged_is_there_after_20_power_losses(machine: Machine) -> None:
    losses = lose_power(machine, 20)
    print(losses)
    assert losses.lost == []
    assert losses.cuts >= 10
    assert losses.uris >= 100
    assert losses.changes >= 20


@pytest.mark.heavy
def test_a_store_that_does_not_sync_loses_content_here(machine: Machine) -> None:
    # Else a power loss here would prove nothing.
    machine.durability = "relaxed"
    assert lose_power(machine, 3).lost != []
