"""Leases of a store that fetches: what stands in their place does not keep content from being read; work goes on behind them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import kacas
from kacas.model.uri import parse_any_uri, parse_uri
from kacas.settings import Settings
from kacas.tiers import Tiers
from kacas.upkeep.doctor.run import examine
from tests.upstreams import fetched_packs


@pytest.mark.parametrize("of_all", [True, False])
@pytest.mark.parametrize("stand", [Path.touch, lambda path: path.symlink_to(path), os.mkfifo])
def test_what_stands_in_the_place_of_leases_is_warned_of_once_and_everything_is_read_through(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path, stand: Callable[[Path], None], of_all: bool
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_text("one")
    uri, tree = lab.store_text("text"), lab.store_dir(tmp_path / "files")
    if of_all:
        stand(node.path / "leases")
    else:
        (node.path / "leases").mkdir()
        for each in (uri, tree):
            stand(node.path / "leases" / f"fetch-{parse_any_uri(each).sha1.hex()}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert node.load_text(uri) == node.load_text(uri) == "text"
        node.load_dir(tree, tmp_path / "out")
    assert (tmp_path / "out" / "one").read_text() == "one"
    (warning,) = told
    assert f"{node.path / 'leases'} cannot be used by " in str(warning.message)
    assert "move it away. What is read comes from the upstream, and is not kept; `kacas doctor`" in str(warning.message)
    assert fetched_packs(node) == []
    report = examine(node.path, Settings.from_environment())
    assert [one.id for one in report.remaining if str(node.path / "leases") in one.what]
    assert not report.healthy


def test_what_is_due_after_a_fetch_is_done_when_the_lease_is_free_again(lab: kacas.Store, node: kacas.Store) -> None:
    """As merging small packs: nobody is to wait for that."""
    held: list[list[str]] = []
    repository = node.repository
    tiers = Tiers(
        repository.volume, repository.lookup, repository._layouts, repository.behind, threads=1, room=1 << 20, kept=0,
        report=lambda stage, done, total: None, published=lambda: held.append(os.listdir(node.path / "leases")),
    )  # fmt: skip
    tiers.bring(parse_uri(lab.store_text("text")))
    assert (held, tiers.fetches) == ([[]], 1)
