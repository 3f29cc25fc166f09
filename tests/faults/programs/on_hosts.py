"""Many processes of two hosts that work on one store: python -m tests.faults.programs.on_hosts KIND SECONDS COUNT [FROZEN_S]

Runs in a guest of tests/faults/nfs.py. COUNT processes on each host do one kind of work (shared_work.py) at once; then a
third host, which knows nothing yet, looks whether all that they said is there. FROZEN_S: for so long, the network of
host b is cut meanwhile. All clocks are of one kernel, so times of different hosts can be compared.
Prints one line of JSON: what each process returned, and what each said while and after the network was cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kacas
from tests.faults.examination import check_verified
from tests.faults.programs import shared_work

SAID = Path("/mnt/said")  # in memory, not on NFS
HOSTS = ("a", "b")
Event = dict[str, Any]


class Talk:
    """What the processes tell each other beside the store: a file for each, to which only it appends."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.name = name
        self.others = [other for other in names if other != name]
        self._file = os.open(SAID / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._heard = dict.fromkeys(self.others, 0)

    def say(self, **event: Any) -> None:
        os.write(self._file, json.dumps(event | {"at": time.monotonic()}).encode() + b"\n")

    def heard(self) -> Iterator[Event]:
        """What the others said since this was asked last."""
        for name, start in self._heard.items():
            with open(SAID / name, "rb") as file:
                file.seek(start)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._heard[name] += len(whole)
            yield from map(json.loads, whole.splitlines())

    def meet(self) -> None:
        """Wait until all have come so far."""
        (SAID / f"{self.name}.ready").touch()
        while len(list(SAID.glob("*.ready"))) <= len(self.others):
            time.sleep(0.05)


def said_by(name: str) -> list[Event]:
    return [json.loads(line) for line in (SAID / name).read_text().splitlines()]


def store_on(host: str) -> Path:
    return Path(os.environ[f"KACAS_NFS_{host.upper()}"]) / "store"


def on(host: str, *arguments: object) -> list[str]:
    """The command line of this program on a host."""
    return ["on", host, sys.executable, "-m", "tests.faults.programs.on_hosts", *map(str, arguments)]


def work(kind: str, host: str, name: str, names: str, seconds: float) -> None:
    talk = Talk(name, names.split(","))
    with shared_work.KINDS[kind].open(store_on(host)) as store:
        talk.meet()
        result = shared_work.KINDS[kind].work(store, talk, time.monotonic() + seconds)
    (SAID / f"{name}.result").write_text(json.dumps(result))


def check(kind: str, names: str) -> None:
    said = {name: said_by(name) for name in names.split(",")}
    results = {name: json.loads((SAID / f"{name}.result").read_text()) for name in said}
    with kacas.Store.open(store_on("b"), create=False) as store:
        shared_work.KINDS[kind].check(store, said, results)
        check_verified(store)


def conduct(kind: str, seconds: float, count: int, frozen_s: float) -> None:
    SAID.mkdir()
    hosts = {f"{host}{number}": host for host in HOSTS for number in range(count)}
    names = ",".join(hosts)
    for name in hosts:
        (SAID / name).touch()
    running = [subprocess.Popen(on(host, "work", kind, host, name, names, seconds)) for name, host in hosts.items()]
    frozen = (0.0, 0.0)
    if frozen_s:
        while len(list(SAID.glob("*.ready"))) < len(running):
            assert not any(process.poll() for process in running), "a process failed before it began"
            time.sleep(0.1)
        time.sleep(seconds / 3)
        subprocess.run(["freeze", "b"], check=True)
        cut_s = time.monotonic()
        time.sleep(frozen_s)
        frozen = (cut_s + 1, time.monotonic())
        subprocess.run(["thaw", "b"], check=True)
    ended = [process.wait() for process in running]
    assert not any(ended), f"the processes ended with {ended}"
    subprocess.run(on("c", "check", kind, names), check=True)
    times = {name: [event["at"] for event in said_by(name)] for name in hosts}
    results = {name: json.loads((SAID / f"{name}.result").read_text()) for name in hosts}
    for result in results.values():
        result["seen"] = len(result.get("seen", ()))
    report = {
        "results": results,
        "while cut": {name: sum(frozen[0] < at < frozen[1] for at in said) for name, said in times.items()},
        "after": {name: sum(at > frozen[1] for at in said) for name, said in times.items()},
    }
    print(json.dumps(report))


def main() -> None:
    match sys.argv[1:]:
        case ["work", kind, host, name, names, seconds]:
            work(kind, host, name, names, float(seconds))
        case ["check", kind, names]:
            check(kind, names)
        case [kind, seconds, count, *frozen_s]:
            conduct(kind, float(seconds), int(count), float(frozen_s[0]) if frozen_s else 0)


if __name__ == "__main__":
    main()
