"""Genuine NFS, v3 and v4.2: two hosts that know of each other only through the store's directory.

What they do is in programs/on_hosts.py, shared_work.py, nfs_sources.py and nfs_costs.py. Figures are printed: pytest -s.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from tests.faults import nfs

pytestmark = [pytest.mark.skipif(bool(nfs.missing()), reason=nfs.missing()), pytest.mark.timeout(900)]
versions = pytest.mark.parametrize("version", nfs.VERSIONS)
quick_on_one = pytest.mark.parametrize(
    "version", [pytest.param(version, marks=[pytest.mark.heavy] * (version == "3")) for version in nfs.VERSIONS]
)
PROGRAMS = "python -m tests.faults.programs"
VISIBLE_S = 1.0  # docs/reliability.md
Report = dict[str, Any]


def on_hosts(version: str, kind: str, seconds: int, count: int, frozen_s: int = 0, before: str = "") -> Report:
    """What the processes of both hosts returned; that nothing was lost, torn or reordered was checked in there. before: a
    command that is run first."""
    script = f"set -e\n{before}\n{PROGRAMS}.on_hosts {kind} {seconds} {count} {frozen_s or ''}"
    ended = nfs.run(version, script, memory_mib=1024 * count, timeout_s=240 + 5 * seconds + 10 * count)
    report: Report = json.loads(ended.check().splitlines()[-1])
    print(f"\nNFS {version}, {kind}, 2 hosts x {count} processes, {seconds} s: {json.dumps(report)}")
    errors = [error for result in results(report) for error in result.get("errors", ())]
    assert not errors, errors
    return report


def results(report: Report) -> list[dict[str, Any]]:
    return list(report["results"].values())


@quick_on_one
def test_two_hosts_on_nfs_lose_nothing_and_an_index_outlives_a_new_mount(version: str) -> None:
    """A few seconds of what the heavy tests do."""
    output = nfs.run(
        version,
        f"""
        set -e
        mount -t tmpfs tmpfs /var/tmp
        {PROGRAMS}.on_hosts contents 4 2
        cache() {{ on a python -c 'import os, kacas; print(kacas.Store.open(os.environ["KACAS_DIR"]).repository.cache)'; }}
        before=$(cache)
        umount /mnt/a
        mkdir /mnt/other && mount -t tmpfs tmpfs /mnt/other  # it gets the number that the mount had
        attach a
        test "$(cache)" = "$before"
        rm -rf /mnt/b/cache
        KACAS_CACHE_DIR=/mnt/b/cache python -W ignore -c 'import kacas; kacas.Store.open("/mnt/b/store").store_text("x")'
        test ! -e /mnt/b/cache
        find /mnt/export -name '.nfs*' -o -name '*.mdb' | {{ ! grep .; }}
        """,
        timeout_s=200,
    ).check()
    assert all(result["stored"] and result["loaded"] for result in results(json.loads(output.splitlines()[0])))


@quick_on_one
def test_a_file_that_another_host_changed_is_never_taken_for_unchanged(version: str) -> None:
    output = nfs.run(version, f"on b {PROGRAMS}.nfs_sources", timeout_s=200).check()
    assert output.splitlines()[-1] == "all right"


@pytest.mark.heavy
@versions
def test_what_was_missed_or_replaced_is_found_at_once(version: str) -> None:
    output = nfs.run(version, f"on b {PROGRAMS}.nfs_surprises", timeout_s=200).check()
    assert output.splitlines()[-1] == "all right"


@pytest.mark.heavy
@versions
@pytest.mark.parametrize("kind", ["contents", "mutables", "feeds"])
def test_eight_processes_on_two_hosts_lose_nothing_in_a_minute(version: str, kind: str) -> None:
    report = on_hosts(version, kind, 60, 4)
    for result in results(report):
        assert result[{"contents": "stored", "mutables": "added", "feeds": "appended"}[kind]]
        assert not result.get("late")  # what was said to be there was found by the first look


@pytest.mark.heavy
@versions
def test_what_one_host_stores_others_see_within_a_second(version: str) -> None:
    report = on_hosts(version, "watch", 30, 2)
    for name, result in report["results"].items():
        if "delays" in result:
            print(f"{name}: median {statistics.median(result['delays']):.4f} s, longest {max(result['delays']):.4f} s")
            assert max(result["stale"]) < VISIBLE_S


@pytest.mark.heavy
@versions
@pytest.mark.parametrize("kind", ["contents", "mutables", "feeds"])
def test_while_a_host_is_cut_off_the_other_goes_on_and_then_both(version: str, kind: str) -> None:
    report = on_hosts(version, kind, 30, 2, frozen_s=10)
    assert all(count > 0 for name, count in report["while cut"].items() if name.startswith("a"))
    assert all(count == 0 for name, count in report["while cut"].items() if name.startswith("b"))
    assert all(count > 0 for count in report["after"].values())


@pytest.mark.heavy
@versions
def test_of_sixteen_processes_on_two_hosts_one_fetches(version: str) -> None:
    on_hosts(version, "fetch", 0, 8)


@pytest.mark.heavy
@versions
def test_two_hosts_that_pull_one_content_from_a_remote_make_one_download(version: str) -> None:
    fill = "from tests.faults.programs.shared_work import fill_bucket; fill_bucket()"
    on_hosts(version, "pull", 0, 2, before=f"python -c '{fill}'")


# Requests to the server, all kinds together, and what is left out of it: listing grows with the number of packs, and a
# process that opens a store with a cold index, or proves its first miss, opens each pack that no segment holds. What the
# client knew of a directory expires every now and then, and costs a few requests more.
MOST = {
    "open": 8,
    "hit": 3,
    "hit again": 0,
    "miss again": 3,
    "put": 16,
    "put again": 16,
    "put what is there": 8,
    "slice": 6,
    "miss after another's put": 24,
}
LISTING = ("READDIR", "READDIRPLUS")


@pytest.mark.heavy
@versions
def test_what_an_operation_asks_of_the_server_does_not_grow_with_the_store(version: str) -> None:
    output = nfs.run(version, f"{PROGRAMS}.nfs_costs 10 100 1000", memory_mib=2048, timeout_s=600).check()
    for packs, line in zip((10, 100, 1000), output.splitlines(), strict=True):
        counts = json.loads(line)
        print(f"\nNFS {version}, {packs} packs:")
        for name, requests in counts.items():
            print(f"  {name:26} {sum(requests.values()):5} {requests}")
        for name, most in MOST.items():
            assert sum(count for kind, count in counts[name].items() if kind not in LISTING) <= most, name
            assert sum(counts[name].get(kind, 0) for kind in LISTING) <= 1 + packs / 250, name
        for name in ("open, cold", "miss"):
            assert sum(counts[name].values()) <= 40 + 3 * packs, name
