"""Boots a Linux kernel as a process of this machine (user-mode Linux), on this machine's own files.

For what needs a kernel of its own: file systems that this machine's kernel does not have, and a power that can fail.
The root of the guest is the root of this machine, so programs, virtual environments and files in /tmp are the same.
What the guest writes there goes through its page cache: it is sure to be here only after a `sync` in the guest.
What it prints is here at once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
PACKAGES = {KERNEL: "user-mode-linux", "modprobe": "kmod", "ip": "iproute2"}
ADMIN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Debian's kernel puts 2,696 bytes of floating point state back into a process (mov qword [rbp-8], 0xa88). On processors
# with AMX the state is longer, and the host's kernel takes all of it or nothing: the guest's kernel panics at boot.
# Asked for more than there is, the host's kernel gives and takes what there is.
_SHORT_STATE = bytes.fromhex("48c745f8 880a0000 bf05420000")
_WHOLE_STATE = bytes.fromhex("48c745f8 00400000 bf05420000")

# Runs a kernel until it ends, the time is over or SIGTERM comes, even when our process has died. A kernel is several
# processes, which leave the group of their parent: they are killed as the group that they are, or some would live on.
_WATCH = """set -m
sleep "$1" & timer=$!
trap 'kill -KILL -- -$!' TERM
"${@:2}" &
wait -n
kill -KILL -- -$! -$timer"""

_STATUS = re.compile(rb"\n--- ended with (\d+)\n\Z")


def missing(more: Mapping[str, str] | None = None) -> str:
    """What a guest needs and this machine lacks, in words; "" if nothing. more: program → Debian package."""
    wanted = PACKAGES | dict(more or {})
    lacking = {package for program, package in wanted.items() if not shutil.which(program, path=_path())}
    return f"not installed: apt-get install {' '.join(sorted(lacking))}" if lacking else ""


@dataclass(frozen=True)
class Ended:
    """status: the script's exit status; None if the guest ended, or was killed, before the script did.
    output: what the script printed, stderr too. console: the kernel's words."""

    status: int | None
    output: str
    console: str

    def check(self) -> str:
        """The output; an AssertionError with all of it unless the script ended with 0."""
        assert self.status == 0, f"the guest's script ended with {self.status}:\n{self.output}\n{self.console[-2000:]}"
        return self.output


class Guest:
    """A running guest."""

    def __init__(self, process: subprocess.Popen[bytes], work: Path, alive: int) -> None:
        self._process = process
        self._work = work
        self._alive = alive  # a pipe that ends when the last process of the guest has gone: a kernel is several

    def output(self) -> str:
        """What the script has printed until now."""
        return self._printed().decode("utf-8", "replace")

    def wait_for(self, words: str, timeout_s: float) -> str:
        """Wait until the script has printed these words; its output. An AssertionError if it ends, or takes longer."""
        end = time.monotonic() + timeout_s
        while words not in (output := self.output()):
            ended = self._process.poll() is not None
            assert not ended, f"the guest ended without {words!r}:\n{output}\n{self._console()[-2000:]}"
            assert time.monotonic() < end, f"no {words!r} within {timeout_s} s:\n{output}"
            time.sleep(0.02)
        return output

    def kill(self) -> Ended:
        """The power fails: what the guest had not written to a disk is gone."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> Ended:
        """Wait for its end; `boot` has set the limit."""
        self._process.wait()
        os.read(self._alive, 1)
        printed = self._printed()
        status = _STATUS.search(printed)
        return Ended(
            int(status[1]) if status else None,
            (printed[: status.start()] if status else printed).decode("utf-8", "replace"),
            self._console(),
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def _printed(self) -> bytes:
        return (self._work / "output").read_bytes().replace(b"\r\n", b"\n")

    def _console(self) -> str:
        return (self._work / "console").read_text("utf-8", "replace")


@contextmanager
def boot(
    script: str,
    *,
    memory_mib: int = 1024,
    disks: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> Iterator[Guest]:
    """Start a guest that runs this bash script as root, then powers off; at the end of the block it is killed.

    The script runs in the directory of this process, without stdin, its output a terminal. It finds /proc, /sys,
    /dev, and empty /run, /mnt and /dev/shm; `load_modules NAME...` loads modules of the kernel; $GUEST_WORK is a
    directory on this machine that goes with the guest.
    disks: image files, in the guest /dev/ubda, /dev/ubdb, ... environment: beside PATH, HOME, LANG and TERM, all that
    the script gets. timeout_s: the guest is killed after this time.
    """
    work = Path(tempfile.mkdtemp(prefix="kacas-guest."))
    guest = None
    alive, living = os.pipe()
    try:
        (work / "init").write_text(_init(script, work, environment or {}))
        (work / "init").chmod(0o755)
        drives = [f"ubd{number}={path}" for number, path in enumerate(disks)]
        with open(work / "output", "wb") as output, open(work / "console", "wb") as console:
            kernel = [
                _kernel(work),
                *(f"mem={memory_mib}M", "rootfstype=hostfs", "rootflags=/", "rw", f"init={work}/init"),
                # The kernel's own words on the console, the script's on a terminal of their own.
                *("con=null", "con0=null,fd:1", f"con1=null,fd:{output.fileno()}", f"uml_dir={work}", *drives),
            ]
            process = subprocess.Popen(
                ["bash", "-c", _WATCH, "guest", str(timeout_s), *kernel],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=[output.fileno(), living],
            )
        os.close(living)
        guest = Guest(process, work, alive)
        yield guest
    finally:
        if guest is not None and guest.running():
            guest.kill()
        os.close(alive)
        shutil.rmtree(work, ignore_errors=True)


def run(
    script: str,
    *,
    memory_mib: int = 1024,
    disks: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> Ended:
    """As `boot`, and wait for the script's end."""
    with boot(script, memory_mib=memory_mib, disks=disks, environment=environment, timeout_s=timeout_s) as guest:
        return guest.wait()


def _path() -> str:
    return f"{ADMIN_PATH}:{os.environ.get('PATH', '')}"


def _kernel(work: Path) -> str:
    """The kernel to boot: a mended copy in `work` if the installed one would not start here."""
    installed = shutil.which(KERNEL, path=_path())
    assert installed, missing()
    program = Path(installed).read_bytes()
    if program.count(_SHORT_STATE) != 1:
        return installed
    mended = work / KERNEL
    mended.write_bytes(program.replace(_SHORT_STATE, _WHOLE_STATE))
    mended.chmod(0o755)
    return str(mended)


def _init(script: str, work: Path, environment: Mapping[str, str]) -> str:
    """The guest's first process."""
    (work / "script").write_text(script)
    modules = work / "modules" / "lib" / "modules"
    modules.parent.mkdir(parents=True)
    modules.symlink_to(MODULES)
    settings = {
        "PATH": _path(),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "GUEST_WORK": str(work),
        **environment,
    }
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items())
    return f"""#!/bin/bash
{exports}
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm
for place in /run /mnt /dev/shm; do mount -t tmpfs tmpfs "$place"; done
load_modules() {{ for module in "$@"; do modprobe -d {work}/modules "$module" || return; done; }}
export -f load_modules
exec </dev/null >/dev/tty1 2>&1
stty -F /dev/tty1 -opost
cd {shlex.quote(os.getcwd())}
bash {work}/script
printf '\\n--- ended with %d\\n' $?
sync
echo o >/proc/sysrq-trigger
sleep 60
"""
