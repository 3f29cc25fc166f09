"""Genuine NFS, v3 and v4.2: two hosts that know of each other only through the store's directory.

What they do is in programs/on_hosts.py, shared_work.py, nfs_sources.py and nfs_costs.py; figures are printed (pytest -s).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults import nfs

pytestmark = [
    pytest.mark.skipif(bool(nfs.missing()), reason=nfs.missing()),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
VERSION = pytest.mark.parametrize("version", nfs.VERSIONS)
HEAVY = pytest.mark.heavy
PROGRAM = "python -m tests.faults.programs"
VISIBLE_S = 2.0  # the bound that docs/reliability.md states is 3 s; the guest's processor is slow
Report = dict[str, Any]


def on_hosts(version: str, kind: str, seconds: int, count: int, frozen_s: int = 0) -> Report:
    """What the processes of both hosts returned; it was checked in there that nothing is lost, torn or reordered."""
    output = nfs.run(
        version,
        f"{PROGRAM}.on_hosts {kind} {seconds} {count} {frozen_s or ''}",
        memory_mib=2048,
        timeout_s=240 + 5 * seconds + 10 * count,
    ).check()
    report: Report = json.loads(output.splitlines()[-1])
    print(f"\nNFS v{version}, {kind}, 2 x {count} processes, {seconds} s:", json.dumps(report)[:4000])
    return report


def total(report: Report, what: str) -> int:
    return sum(result[what] for result in report["results"].values())


def errors(report: Report) -> list[str]:
    return [error for result in report["results"].values() for error in result["errors"]]
