"""The house rules that no linter knows: short files, telling names, docstrings, tests like the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kacas", "kacas_remote", "tests", "bench", "demo")
LONGEST = 400  # lines: a file is one idea
SAYS_NOTHING = {
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "base",
    "core",
    "manager",
    "misc",
    "lib",
    "stuff",
}
SECRET = {"secret", "secrets", "private_key", "nonce", "tag", "mac", "password"}

MODULES = sorted(
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def test_there_are_modules_to_look_at() -> None:
    assert {path.parts[0] for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_file_is_one_idea_of_at_most_400_lines(module: Path) -> None:
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{module} has {lines} lines: split it by idea"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_name_says_what_the_thing_is(module: Path) -> None:
    for part in (*module.parts[:-1], module.stem):
        assert not SAYS_NOTHING & set(part.lower().split("_")), f"{module}: {part!r} says nothing"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_says_what_it_is_for(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
    assert docstring, f"{module} has no docstring"


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "kacas_remote"], ids=str)
def test_what_is_secret_or_proves_something_is_compared_in_constant_time(module: Path) -> None:
    """By hmac.compare_digest, or by libsodium: == tells by its time how many bytes were right. Of sizes it may be said."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare) and any(isinstance(how, ast.Eq | ast.NotEq) for how in node.ops):
            names = {name for side in (node.left, *node.comparators) for name in _names(side)}
            assert not SECRET & names, f"{module}:{node.lineno} compares {SECRET & names} by == or !="


def _names(node: ast.AST) -> set[str]:
    """All names in an expression and their words, but those whose size is meant."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
        return set()
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    is_public = name == "e_tag" or name.lower().endswith("_size")
    own = set() if is_public else {name, *name.lower().split("_")}
    return own.union(*map(_names, ast.iter_child_nodes(node)))


def test_the_tests_mirror_the_house() -> None:
    floors = {path.parent.relative_to(ROOT / "kacas") for path in (ROOT / "kacas").rglob("__init__.py")}
    for floor in floors:
        tests = list((ROOT / "tests" / floor).glob("test_*.py"))
        assert tests, f"kacas/{floor} has no tests/{floor}/test_*.py"


def test_the_license_is_the_one_that_the_project_declares() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
