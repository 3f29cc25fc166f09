"""A machine whose power can be cut at any moment: a user-mode Linux with an ext4 disk of its own.

What the machine wrote to its disk, a file here, stays; what was only in its memory, its page cache too, is gone.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.strace import ROOT

DISK = Path("/mnt/disk")  # inside
_INIT = """\
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 KACAS_CACHE_DIR=/mnt/disk/cache
mount -t proc proc /proc
mount -t tmpfs mnt /mnt
mkdir -p /mnt/dev /mnt/disk /mnt/tmp
export TMPDIR=/mnt/tmp
mount -t devtmpfs dev /mnt/dev
mount -t ext4 /mnt/dev/ubda /mnt/disk
cd {root}
{command}
echo o > /proc/sysrq-trigger
sleep 10
"""


class Machine:
    """One disk, and the machine that is on or off. place: a directory for its files, which it sees too."""

    def __init__(self, place: Path, disk_size: int) -> None:
        self._place = place
        self._disk = place / "disk.img"
        with open(self._disk, "wb") as disk:
            disk.truncate(disk_size)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._disk], check=True)
        self._running: subprocess.Popen[bytes] | None = None

    def switch_on(self, program: str, *arguments: str | Path) -> None:
        """Boot, mount the disk at /mnt/disk, run a program of tests/faults/programs/ as root, then switch off."""
        command = shlex.join([sys.executable, "-m", f"tests.faults.programs.{program}", *map(str, arguments)])
        init = self._place / "init"
        init.write_text(_INIT.format(root=shlex.quote(str(ROOT)), command=command))
        init.chmod(0o755)
        line = [
            kernel(), "mem=512M", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", f"ubd0={self._disk}",
            "con=null", "con0=null,fd:1",
        ]  # fmt: skip
        with open(self._place / "console", "ab") as console:
            self._running = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )

    def is_on(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def cut(self) -> None:
        """Now: nothing is flushed, nobody is asked."""
        if self._running is not None:
            try:
                os.killpg(self._running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has switched itself off
            self._running.wait()

    def wait(self, timeout_s: float) -> None:
        """Until it has switched itself off."""
        assert self._running is not None
        self._running.wait(timeout_s)

    def console(self) -> str:
        """What it showed since it was made."""
        return (self._place / "console").read_text("utf-8", "replace")


def kernel() -> str:
    return "linux.uml"
