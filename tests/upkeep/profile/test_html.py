"""The report: complete, well-formed, nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kacas.upkeep.profile import Profile
from kacas.upkeep.profile.comparison import compare
from kacas.upkeep.profile.html import report
from kacas.upkeep.profile.tables import tables

VOID = {"meta", "rect", "line", "circle"}
KNOWN = {
    "html", "head", "title", "style", "body", "main", "header", "section", "h1", "h2", "h3", "p", "b", "i", "small", "span",
    "div", "dl", "dt", "dd", "ol", "li", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "svg", "text",
    *VOID,
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "viewbox", "role", "aria-label", "x", "y", "x1", "x2", "y1",
    "y2", "cx", "cy", "r", "rx", "width", "height",
}  # fmt: skip
EVIL = "</style><script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>\"' & \u202e"


class Page(HTMLParser):
    """Parses strictly: every tag known, closed in order, no attribute that could fetch or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.seen: set[str] = set()
        self.numbers: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        self.seen.add(tag)
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if len(name) <= 2 or name in ("width", "height"):
                self.numbers.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_is_one_well_formed_page_with_plots(tiny: Profile) -> None:
    page = report(tiny, compare(tiny, tiny))
    parsed = Page(page)
    assert {"svg", "rect", "circle", "table"} <= parsed.seen
    assert page.startswith("<!DOCTYPE html>")
    numbers = [float(number) for number in parsed.numbers if number != "100%"]
    assert all(0 <= number < 10_000 for number in numbers)
    text = "".join(parsed.text)
    assert f"numpy {tiny.machine.libraries['numpy']}" in text
    for table in tables(tiny):
        assert table.title in text
        for row in table.rows:
            assert all(cell in text for cell in row)


def test_the_report_says_of_which_durability_the_figure_of_storing_is(tiny: Profile) -> None:
    for durability in ("full", "relaxed"):
        page = report(replace(tiny, place=replace(tiny.place, durability=durability)))
        assert f"<small>of the data, durability {durability}</small>" in page


def test_nothing_in_the_report_is_fetched_or_run(tiny: Profile) -> None:
    page = report(tiny, compare(tiny, tiny))
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|<iframe|javascript:", page, re.IGNORECASE)


@pytest.mark.parametrize("where", ["name", "store", "note", "processor", "dtype", "codec", "title"])
def test_names_of_the_users_are_text_and_nothing_else(tiny: Profile, where: str) -> None:
    evil = {
        "name": replace(tiny, data=replace(tiny.data, name=EVIL)),
        "store": replace(tiny, place=replace(tiny.place, store=EVIL, index=EVIL, file_system=EVIL)),
        "note": replace(tiny, notes=(EVIL,)),
        "processor": replace(tiny, machine=replace(tiny.machine, processor=EVIL)),
        "dtype": replace(tiny, data=replace(tiny.data, dtype=EVIL)),
        "codec": replace(tiny, codecs=tuple(replace(one, codec=EVIL, recipe=EVIL) for one in tiny.codecs)),
        "title": replace(tiny, limits=tuple(replace(one, title=EVIL) for one in tiny.limits)),
    }[where]
    parsed = Page(report(evil, compare(tiny, evil)))
    assert "alert(1)" in "".join(parsed.text)
    assert "\u202e" not in "".join(parsed.text)


def test_a_report_of_the_machine_alone_is_a_page_too(tiny: Profile) -> None:
    bare = replace(tiny, codecs=(), pipelines=(), operations=(), advice=(), limits=(), latencies=())
    parsed = Page(report(bare))
    assert "no rule found a gain" in "".join(parsed.text)


def test_the_report_is_written_in_text_that_every_browser_reads(tiny: Profile) -> None:
    assert '<meta charset="utf-8">' in report(tiny)[:200]
    report(replace(tiny, notes=("日本", "not UTF-8: \udcff"))).encode("utf-8")
