"""Every example in README.md and docs/ runs, and prints what the page says; every link leads somewhere.

In ```python blocks, prompts are run as doctests, code without prompts is executed; the blocks of a page share
their names. In ```console blocks each `$ ` line (with its `> ` lines) is typed into one bash per page; it must
succeed, and the output is compared where the page shows some. `...` stands for anything. A block behind
`<!-- not run: why -->` is not run.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kacas
import kacas.asking
import kacas.changing
import kacas.default
import kacas.kachery
import kacas.loading
import kacas.store
import kacas.storing

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
END = "--- end of output, status"

_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.M)


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    line: int
    why_not_run: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(match["kind"], match["body"], text.count("\n", 0, match.start("body")) + 1, match["why"] or "")
        for match in _BLOCK.finditer(text)
    ]


class Shell:
    """One bash that is typed into."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[str, int]:
        """(what it printed, its exit status)"""
        shell = self._process
        assert shell.stdin
        assert shell.stdout
        # The command gets no input of ours: it would eat the lines behind it.
        shell.stdin.write(f"{{\n{command}\n}} </dev/null\nprintf '\\n{END} %s\\n' $?\n")
        shell.stdin.flush()
        printed = []
        for line in shell.stdout:
            if line.startswith(END):
                return "".join(printed), int(line.removeprefix(END))
            printed.append(line)
        pytest.fail(f"the shell ended at: {command}")

    def close(self) -> None:
        self._process.communicate()


def matches(expected: str, printed: str) -> bool:
    """Whether the output is what the page shows; blanks at line ends do not count."""
    wanted = "\n".join(line.rstrip() for line in expected.strip().splitlines())
    found = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    pattern = ".*?".join(re.escape(part) for part in wanted.split("..."))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


def commands_in(body: str) -> Iterator[tuple[str, str]]:
    """(command, output that is shown) of a console block."""
    command, output = "", ""
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], ""
        elif line.startswith("> ") and not output:
            command += "\n" + line[2:]
        else:
            assert command, f"{line!r} is output without a command"
            output += line + "\n"
    yield command, output


def run_console(block: Block, where: str, shell: Shell) -> None:
    for command, expected in commands_in(block.body):
        printed, status = shell.run(command)
        assert status == 0, f"{where}: `{command}` failed with {status}:\n{printed}"
        if expected.strip():
            assert matches(expected, printed), f"{where}: `{command}` printed\n{printed}\nand not\n{expected}"


def run_python(block: Block, where: str, names: dict[str, Any]) -> None:
    body = textwrap.dedent(block.body)
    if not body.lstrip().startswith(">>>"):
        exec(compile(body, where, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(body, names, where, where, block.line)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert not report, f"{where}:\n" + "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_example_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "KACAS_OWNER": "ada",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "READER": str(ROOT / "docs" / "independent_reader.py"),
    }.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"__name__": "__main__"}
    shell = Shell()
    try:
        for block in blocks_of(page):
            where = f"{page.name}:{block.line}"
            if block.why_not_run:
                continue
            if block.kind == "console":
                run_console(block, where, shell)
            elif block.kind == "python":
                run_python(block, where, names)
    finally:
        shell.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_block_of_the_page_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind in ("python", "console", "toml", "hex", "text", "json"), f"{page.name}:{block.line}"
        assert page.read_text("utf-8").count("\n```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text("utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            anchors = {_anchor(heading) for heading in _HEADING.findall(path.read_text("utf-8"))}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}, a heading that is not there"


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def test_the_wildcard_stands_for_anything_and_nothing_else_does() -> None:
    assert matches("a ... c\n", "a b\nb c  \n")
    assert not matches("a.c", "abc")
    assert not matches("a", "a b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_test_that_the_page_names_exists(page: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}, which is not there"
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path} has no {name}"


def test_every_example_of_the_functions_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    all_names = {"Path": Path, **{name: getattr(kacas, name) for name in kacas.__all__}}
    for module in (
        kacas,
        kacas.asking,
        kacas.changing,
        kacas.default,
        kacas.kachery,
        kacas.loading,
        kacas.storing,
        kacas.store,
    ):
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=all_names):
            ran += runner.run(test, out=report.append).attempted
        assert not report, "".join(report)
    assert ran > 30
