"""Results as JSON, tables and plots: every field is checked, and what is drawn and written comes from the file alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.page import BEGIN, END, insert_page, inserted_page, markdown
from bench.plots import PLOTS, draw
from bench.results import Results, ResultsError, read_part, read_results
from tests.test_house import ROOT

STORED = Path(__file__).with_name("results.json")
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def results() -> Results:
    return read_results(STORED)


def test_what_is_written_is_what_was_read(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "again.json")
    assert read_results(tmp_path / "again.json") == results
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(STORED.read_text())


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*way, key)
        yield from places(child, (*way, key))


def test_a_field_of_another_type_is_refused_wherever_it_is(tmp_path: Path) -> None:
    report = json.loads(STORED.read_text())
    report["parts"] = {name: report["parts"][name] for name in ("growth", "documents")}
    ways = list(places(report))
    assert len(ways) > 100
    broken = tmp_path / "broken.json"
    for way in ways:
        inner = report
        for key in way[:-1]:
            inner = inner[key]
        kept, inner[way[-1]] = inner[way[-1]], None
        broken.write_text(json.dumps(report))
        with pytest.raises(ResultsError):
            read_results(broken)
        inner[way[-1]] = kept


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "kacas benchmarks", "version": 2}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ResultsError, match=r"other\.json"):
        read_results(tmp_path / "other.json")


def test_a_figure_that_does_not_agree_with_its_values_is_refused(tmp_path: Path) -> None:
    report = json.loads(STORED.read_text())
    report["parts"]["growth"]["figures"]["10,000 records"]["kacas"]["open_s"]["median"] += 1
    (tmp_path / "broken.json").write_text(json.dumps(report))
    with pytest.raises(ResultsError, match=r"growth.*open_s.*median"):
        read_results(tmp_path / "broken.json")


def test_a_part_that_has_no_figures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text('{"date": "2026-11-26", "machine": {}, "versions": {}}')
    with pytest.raises(ResultsError, match="figures"):
        read_part(tmp_path / "part.json", 1.0)


def test_every_plot_is_made_of_the_stored_results_and_the_same_each_time(results: Results, tmp_path: Path) -> None:
    assert draw(results, tmp_path / "one") == list(PLOTS)
    draw(results, tmp_path / "two")
    for name in PLOTS:
        one = (tmp_path / "one" / f"{name}.svg").read_bytes()
        assert ElementTree.fromstring(one).tag.endswith("svg")
        same = (
            one == (tmp_path / "two" / f"{name}.svg").read_bytes()
        )  # not within the assertion: pytest would explain it
        assert same


def test_a_plot_without_figures_is_not_made_and_an_old_one_goes(results: Results, tmp_path: Path) -> None:
    (tmp_path / "growth.svg").write_text("of other results")
    only = Results(quick=True, parts={"trees": results.parts["trees"]})
    assert draw(only, tmp_path) == ["small_files"]
    assert [path.name for path in tmp_path.iterdir()] == ["small_files.svg"]


def test_the_page_says_what_was_measured_on_what_and_what_was_not(results: Results) -> None:
    part = Results(quick=True, parts={"trees": results.parts["trees"]}, missing={"edited": "it ended with status 1"})
    page = markdown(part, {"small_files"})
    for said in ("a look, not a figure", "processor: a processor", "restic 0.14.0", "edited (it ended with status 1)"):
        assert said in page
    absent = next(line for line in page.splitlines() if line.startswith("Not installed"))
    assert {"DVC", "icechunk"} <= set(absent.rstrip(".").replace(": ", ", ").split(", "))
    assert page.count("plots/small_files.svg") == 1
    assert "store.svg" not in page
    assert "| store the tree and sync, s |" in page


def test_the_page_has_a_table_for_every_part(results: Results) -> None:
    page = markdown(results, PLOTS)
    assert all(page.count(f"(plots/{name}.svg)") == 1 for name in PLOTS)
    for said in (
        "The recording (64 MiB",
        "The film (16 MiB",
        "along the last axis",
        "An HDF5 file",
        "store_json",
        "find a chunk, µs",
    ):
        assert said in page


def test_the_page_is_put_between_its_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert_page(path, "new | table")
    assert inserted_page(path) == "new | table"
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    insert_page(path, "new | table")
    assert path.read_text() == text
    path.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        insert_page(path, "new")


def test_the_documented_tables_and_plots_are_those_of_the_results_beside_them() -> None:
    committed = read_results(DOCS / "plots" / "results.json")
    plots = {path.stem for path in (DOCS / "plots").glob("*.svg")}
    same = inserted_page(DOCS / "benchmarks.md") == markdown(committed, plots)
    assert same, "run: python -m bench.everything --from docs/plots/results.json --docs docs"
    assert all(f"plots/{name}.svg" in (DOCS / "benchmarks.md").read_text() for name in plots)
