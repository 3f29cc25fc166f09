"""The guest kernel that other fault tests need: it says how its script ended, and loses what power loss loses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.faults import uml

pytestmark = pytest.mark.skipif(bool(uml.missing()), reason=uml.missing())


def test_a_guest_gives_back_what_its_script_printed_and_how_it_ended(tmp_path: Path) -> None:
    ended = uml.run(
        f"echo to be seen; echo -n 'this too' >&2; echo $WORD >{tmp_path}/written; seq 5000; exit 3",
        environment={"WORD": "it's here"},
    )
    assert ended.status == 3
    assert ended.output == "to be seen\nthis too" + "".join(f"{n}\n" for n in range(1, 5001))
    assert (tmp_path / "written").read_text() == "it's here\n"
    with pytest.raises(AssertionError, match="to be seen"):
        ended.check()


def test_a_guest_that_takes_too_long_is_killed_and_leaves_nothing() -> None:
    begun = time.monotonic()
    with uml.boot("echo $GUEST_WORK.; sleep 1000", timeout_s=6) as guest:
        work = guest.wait_for(".\n", 5).splitlines()[0].rstrip(".")
        assert guest.running()
        assert os.path.exists(work)
        assert guest.wait().status is None
    assert time.monotonic() - begun < 100
    assert not os.path.exists(work)


def test_power_loss_keeps_what_was_synced_to_a_disk_and_no_more(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    mount = "mkdir /mnt/disk && mount /dev/ubda /mnt/disk && cd /mnt/disk"
    with uml.boot(
        f"mkfs.ext4 -q /dev/ubda && {mount} && echo kept >kept && sync kept . && echo lost >lost; ls -1; echo all; sleep 99",
        disks=[disk],
    ) as guest:
        guest.wait_for("all\n", 60)
        ended = guest.kill()
        assert ended.status is None
        assert ended.output == "kept\nlost\nlost+found\nall\n"
    assert uml.run(f"{mount} && ls -1 && cat kept", disks=[disk]).check() == "kept\nlost+found\nkept\n"
