"""The functions on the default store: each has an example that works, and the environment says which store."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import kacas
from kacas import asking, changing, encrypting, loading, storing, transferring
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from tests.access_group import make_group

PUBLIC = sorted(kacas.__all__)
FUNCTIONS = [name for name in PUBLIC if inspect.isfunction(getattr(kacas, name))]
MODULES = (asking, changing, encrypting, loading, storing, transferring)


def examples_of(subject: object, module: ModuleType) -> list[doctest.DocTest]:
    names = {"Path": Path, **{name: getattr(kacas, name) for name in PUBLIC}}
    found = doctest.DocTestFinder(recurse=False).find(subject, module=module, globs=vars(module) | names)
    return [test for test in found if test.examples]


def run(tests: list[doctest.DocTest]) -> None:
    report: list[str] = []
    for test in tests:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example_and_it_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    function = getattr(kacas, name)
    if function.__module__ == transferring.__name__:
        (tmp_path / "bucket").mkdir()
        change_remotes(lambda _: [RemoteConfiguration("lab", f"file://{tmp_path}/bucket", default=True)])
    if function.__module__ == encrypting.__name__:
        make_group(tmp_path)
    tests = examples_of(function, sys.modules[function.__module__])
    assert tests, f"kacas.{name} has no >>> example"
    run(tests)


def test_the_example_of_the_package_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples_of(kacas, kacas)
    assert tests
    run(tests)


def test_every_function_says_what_it_does() -> None:
    for name in PUBLIC:
        assert (inspect.getdoc(getattr(kacas, name)) or "").strip(), f"kacas.{name} has no docstring"
    assert "open_file" in (kacas.load_file.__doc__ or ""), "who wants a part is told where to go"


def test_all_that_is_public_is_exported() -> None:
    own = {
        name
        for module in MODULES
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert own | {"default_store"} == set(FUNCTIONS)
    from kacas import errors

    raised = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert raised <= set(PUBLIC)
    assert {"Store", "LazyArray", "Description", "Claim", "Forgotten", "HistoryItem", "StoreStats"} <= set(PUBLIC)
    assert len(set(kacas.__all__)) == len(kacas.__all__)
    assert set(PUBLIC) <= set(dir(kacas))
    assert kacas.__version__.count(".") >= 2


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        kacas.no_such_name  # noqa: B018


def test_every_verb_of_the_store_is_a_function_too() -> None:
    verbs = {name for name in vars(kacas.Store) if name.startswith(("store_", "load_", "open_"))}
    verbs |= {"exists", "find", "describe", "forget", "history", "batch"}
    for name in verbs - {"store_id", "store_stream", "open"}:
        assert name in FUNCTIONS
        signature = inspect.signature(getattr(kacas.Store, name))
        mine = inspect.signature(getattr(kacas, name))
        pushes = name in FUNCTIONS and name.startswith("store_")
        assert ("push" in mine.parameters) == pushes, name
        assert [(p.name, p.kind, p.default) for p in mine.parameters.values() if p.name != "push"] == [
            (p.name, p.kind, p.default) for p in list(signature.parameters.values())[1:]
        ], name


def test_the_functions_work_on_the_store_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "one"))
    uri = kacas.store_text("content")
    assert kacas.default_store().path == tmp_path / "one"
    assert kacas.default_store() is kacas.default_store()
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "two"))
    assert kacas.default_store().path == tmp_path / "two"
    assert not kacas.exists(uri)
    with kacas.Store.open(tmp_path / "one", create=False) as store:
        assert store.load_text(uri) == "content"


def test_without_kacas_dir_the_store_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KACAS_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    uri = kacas.store_text("content")
    assert kacas.default_store().path == tmp_path / "home" / ".kacas"
    assert (tmp_path / "home" / ".kacas" / "kacas.toml").exists()
    assert kacas.load_text(uri) == "content"


def test_the_owner_of_what_i_store_is_who_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_OWNER", "Ada")
    uri = kacas.store_text("content")
    assert [claim.owner for claim in kacas.describe(uri).claims] == ["Ada"]
    monkeypatch.setenv("KACAS_OWNER", "Grace")
    assert list(kacas.history()) == []
    assert kacas.forget(uri).kept_by == ("Ada",)


def test_a_setting_that_cannot_be_used_is_refused_by_every_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_THREADS", "many")
    with pytest.raises(kacas.InvalidSettingError, match="KACAS_THREADS"):
        kacas.store_text("content")


def test_a_store_that_was_closed_is_opened_again_by_the_next_call() -> None:
    uri = kacas.store_text("content")
    kacas.default_store().close()
    assert kacas.load_text(uri) == "content"


def test_the_default_store_works_in_a_forked_child() -> None:
    code = """
import os, kacas
uri = kacas.store_text("from the parent")
child = os.fork()
if child == 0:
    code = 1
    try:
        assert kacas.load_text(uri) == "from the parent"
        kacas.store_text("from the child", label="child.txt")
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert [item.label for item in kacas.history()] == ["child.txt", ""]
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_kacas_reads_no_settings_and_makes_no_store(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path / "home"), "KACAS_THREADS": "not a number", "PATH": ""}
    code = "import kacas; from kacas import *; print(sorted(__import__('os').listdir('.')))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "home").exists()


def test_a_round_trip_of_every_kind_on_the_default_store(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4)
    (tmp_path / "file").write_bytes(b"file")
    with kacas.batch():
        uris = [
            kacas.store_file(tmp_path / "file"), kacas.store_bytes(b"bytes"), kacas.store_text("text"),
            kacas.store_json([1]), kacas.store_npy(array), kacas.store_pkl({"a": 1}),
        ]  # fmt: skip
    file, data, text, json, npy, pkl = uris
    assert kacas.load_file(file, dest=tmp_path / "copy").read_bytes() == b"file"
    assert (kacas.load_bytes(data, 1, 3), kacas.load_text(text)) == (b"yt", "text")
    assert (kacas.load_json(json), kacas.load_pkl(pkl)) == ([1], {"a": 1})
    np.testing.assert_array_equal(kacas.load_npy(npy), array)
    np.testing.assert_array_equal(kacas.open_npy(npy)[1:, ::2], array[1:, ::2])
    assert kacas.open_file(data).read() == b"bytes"
    assert [item.uri for item in kacas.history()] == uris[::-1]


def test_no_function_has_the_name_of_a_module_which_would_take_its_place() -> None:
    modules = {path.stem for path in Path(kacas.__file__).parent.iterdir()}
    assert modules.isdisjoint(PUBLIC)
