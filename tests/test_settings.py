"""Settings: environment before file before default; what cannot be used is refused in words."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.errors import InvalidSettingError, KacasError, NewerFormatError
from kacas.settings import STORE_FORMAT, Settings, StoreSettings


def from_file(home: Path, text: str, **environment: str) -> Settings:
    config = home / ".config" / "kacas" / "kacas.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text, "utf-8")
    return Settings.from_environment({"HOME": str(home), **environment})


FILE = """
directory = "/file/store"
cache_directory = "/file/cache"
owner = "file owner"
threads = 3
cache_size = "3G"
memory = "100M"
upstream = "/file/lab"
store_in = "upstream"
"""
ENVIRONMENT = {
    "KACAS_DIR": "/env/store",
    "KACAS_CACHE_DIR": "/env/cache",
    "KACAS_OWNER": "env owner",
    "KACAS_THREADS": "5",
    "KACAS_CACHE_SIZE": "5M",
    "KACAS_MEMORY": "1G",
    "KACAS_UPSTREAM": "/env/lab",
    "KACAS_STORE_IN": "here",
}


def test_without_file_and_environment_the_defaults_hold(tmp_path: Path) -> None:
    found = Settings.from_environment({"HOME": str(tmp_path)})
    assert found.directory == tmp_path / ".kacas"
    assert found.cache_directory == tmp_path / ".cache" / "kacas"
    assert found.owner
    assert 2 <= found.threads <= 8
    assert found.cache_size == 64 << 30
    assert found.memory == 256 << 20
    assert set(found.sources.values()) == {"default"}


def test_the_users_file_comes_before_the_defaults(tmp_path: Path) -> None:
    found = from_file(tmp_path, FILE)
    expected = Settings(
        Path("/file/store"), Path("/file/cache"), "file owner", 3, 3 << 30, 100 << 20, Path("/file/lab"), "upstream"
    )
    assert found == expected
    assert found.sources == dict.fromkeys(found.sources, "file") | {"remote": "default"}


def test_the_environment_comes_before_the_users_file(tmp_path: Path) -> None:
    found = from_file(tmp_path, FILE, **ENVIRONMENT)
    expected = Settings(
        Path("/env/store"), Path("/env/cache"), "env owner", 5, 5 << 20, 1 << 30, Path("/env/lab"), "here"
    )
    assert found == expected
    assert found.sources == dict.fromkeys(found.sources, "environment") | {"remote": "default"}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_each_setting_is_taken_from_its_own_source(tmp_path: Path, variable: str) -> None:
    found = from_file(tmp_path, 'threads = 4\nowner = "f"\n', **{variable: ENVIRONMENT[variable]})
    names = {
        "KACAS_DIR": "directory",
        "KACAS_CACHE_DIR": "cache_directory",
        "KACAS_OWNER": "owner",
        "KACAS_THREADS": "threads",
        "KACAS_CACHE_SIZE": "cache_size",
        "KACAS_MEMORY": "memory",
        "KACAS_UPSTREAM": "upstream",
        "KACAS_STORE_IN": "store_in",
    }
    expected = dict.fromkeys([*names.values(), "remote"], "default") | {"threads": "file", "owner": "file"}
    assert found.sources == expected | {names[variable]: "environment"}


def test_an_empty_variable_is_as_if_it_were_not_set(tmp_path: Path) -> None:
    assert from_file(tmp_path, FILE, **dict.fromkeys(ENVIRONMENT, "")) == from_file(tmp_path, FILE)


@pytest.mark.parametrize("text", ["lab", ""])
def test_the_remote_may_be_named_or_be_none(tmp_path: Path, text: str) -> None:
    found = Settings.from_environment({"HOME": str(tmp_path), "KACAS_REMOTE": text})
    assert found.remote == text
    assert found.sources["remote"] == "environment"
    assert Settings.from_environment({"HOME": str(tmp_path)}).remote is None


def test_the_process_environment_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "here"))
    assert Settings.from_environment().directory == tmp_path / "here"
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "there"))
    assert Settings.from_environment().directory == tmp_path / "there"


def test_relative_paths_become_absolute_and_xdg_directories_are_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Settings.from_environment(
        {
            "HOME": "/h",
            "KACAS_DIR": "data/store",
            "XDG_CACHE_HOME": str(tmp_path / "c"),
            "XDG_CONFIG_HOME": "/none",
        }
    )
    assert found.directory == tmp_path / "data" / "store"
    assert found.cache_directory == tmp_path / "c" / "kacas"


@pytest.mark.parametrize(
    "text, size",
    [
        ("0", 0),
        ("1073741824", 1 << 30),
        ("500M", 500 << 20),
        ("64 GiB", 64 << 30),
        ("2t", 2 << 40),
        ("7kb", 7168),
    ],
)
def test_a_size_may_have_a_unit(tmp_path: Path, text: str, size: int) -> None:
    assert Settings.from_environment({"HOME": str(tmp_path), "KACAS_CACHE_SIZE": text}).cache_size == size


@pytest.mark.parametrize(
    "variable, value",
    [
        *(("KACAS_THREADS", value) for value in ["0", "-1", "257", "many", "2.5", "٣", "0x2", "9" * 5000]),
        *(("KACAS_CACHE_SIZE", value) for value in ["-1", "much", "5X", "1.5G", "GiB", "9" * 16, "٣"]),
        *(("KACAS_MEMORY", value) for value in ["-1", "much", "63M", "0"]),
        *(("KACAS_STORE_IN", value) for value in ["there", "Here", "upstream"]),
        ("KACAS_UPSTREAM", "s3://bucket/store"),
        *(("KACAS_OWNER", value) for value in ["a\nb", "\x00", "o" * 257, "é" * 129, "\udc80", "a\x1b[31m"]),
        ("KACAS_DIR", "~no-such-user-on-this-host/store"),
        ("KACAS_CACHE_DIR", "~no-such-user-on-this-host/cache"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_a_value_that_cannot_be_used_is_refused_in_words(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        Settings.from_environment({"HOME": str(tmp_path), variable: value})
    assert variable in str(caught.value)
    assert repr(value)[:20] in str(caught.value)


@pytest.mark.parametrize(
    "text, named",
    [
        ("threads = ", "kacas.toml"),
        ("threads = 0", "0"),
        ("threads = true", "True"),
        ('threads = "two"', "two"),
        ("cache_size = 1.5", "1.5"),
        ("cache_size = [1]", "[1]"),
        ("directory = 5", "directory"),
        ('directory = ["/a", "/b"]', "directory"),
        ("owner = {}", "owner"),
        ("colour = 'red'", "colour"),
        ("[store]\ndirectory = '/x'", "store"),
        ("directory = '/a'\ndirectory = '/b'", "kacas.toml"),
        ("x = " + "[" * 20_000, "kacas.toml"),
        ("threads = " + "9" * 5_000, "kacas.toml"),
    ],
    ids=lambda text: text[:30],
)
def test_a_users_file_that_cannot_be_used_is_refused_in_words(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        from_file(tmp_path, text)
    assert named in str(caught.value)


def test_a_users_file_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    from_file(tmp_path, "")
    (tmp_path / ".config" / "kacas" / "kacas.toml").write_bytes(b"owner = '\xff'")
    with pytest.raises(InvalidSettingError, match=r"kacas\.toml"):
        Settings.from_environment({"HOME": str(tmp_path)})


STORE = StoreSettings(
    "0123456789abcdef" * 2,
    "relaxed",
    created="2026-01-02T03:04:05Z",
    file_system="ext4",
    hard_links=False,
    cutter="another",
)


@given(
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["full", "relaxed"]),
    st.sampled_from(["", "ext4", "fuse.sshfs", "nfs4"]),
    st.booleans(),
    st.sampled_from(["private", "group"]),
    st.booleans(),
    st.booleans(),
)
def test_a_stores_settings_come_back_as_they_were(
    store_id: bytes, durability: str, file_system: str, links: bool, sharing: str, sticky: bool, readable: bool
) -> None:
    stored = replace(STORE, store_id=store_id.hex(), durability=durability, file_system=file_system, hard_links=links)
    if sharing == "group":
        stored = replace(stored, sharing=sharing, sticky=sticky, world_readable=readable)
    assert StoreSettings.parse(stored.render(), "kacas.toml") == stored


def test_a_sharing_that_this_kacas_does_not_know_is_a_newer_one() -> None:
    text = STORE.render().replace('sharing = "private"', 'sharing = "federated"')
    with pytest.raises(NewerFormatError, match=r"/data/store/kacas\.toml says sharing = 'federated'.*upgrade kacas"):
        StoreSettings.parse(text, "/data/store/kacas.toml")


def test_what_a_store_does_not_say_has_its_default() -> None:
    text = f'[store]\nid = "{STORE.store_id}"\nformat = 1\n'
    text += '[settings]\ndurability = "full"\nsharing = "private"\n'
    assert StoreSettings.parse(text, "kacas.toml") == StoreSettings(STORE.store_id)
    assert StoreSettings(STORE.store_id).cutter == "fastcdc2020-128k-256k-1m-nc2-seed0"


@pytest.mark.parametrize("version", [STORE_FORMAT + 1, 99])
def test_a_store_of_a_newer_format_is_refused_with_the_version_that_is_needed(version: int) -> None:
    text = replace(STORE, format_version=version).render()
    with pytest.raises(NewerFormatError, match="upgrade kacas") as caught:
        StoreSettings.parse(text, "/data/store/kacas.toml")
    assert caught.value.needed == version
    assert "/data/store/kacas.toml" in str(caught.value)


def test_a_newer_format_is_named_even_if_nothing_else_is_understood() -> None:
    with pytest.raises(NewerFormatError):
        StoreSettings.parse('[store]\nformat = 2\n[settings]\ndurability = "paranoid"\n', "kacas.toml")


@pytest.mark.parametrize(
    "before, after",
    [
        (STORE.store_id, STORE.store_id[:-1]),
        (STORE.store_id, STORE.store_id.upper()),
        (STORE.store_id, STORE.store_id[:-1] + "g"),
        (f'"{STORE.store_id}"', "7"),
        ("format = 1", "format = 0"),
        ("format = 1", "format = -1"),
        ("format = 1", 'format = "1"'),
        ("format = 1", ""),
        ('durability = "relaxed"', 'durability = "paranoid"'),
        ('durability = "relaxed"', 'durability = ["full"]'),
        ('cutter = "another"', "cutter = 7"),
        ('cutter = "another"', 'cutter = ["another"]'),
        ('durability = "relaxed"', ""),
        ('sharing = "private"', "sharing = 7"),
        ('sharing = "private"', 'sharing = ["private"]'),
        ('sharing = "private"', 'sharing = "group"\nsticky = 1'),
        ('sharing = "private"', 'sharing = "group"\nworld_readable = "yes"'),
        ("[store]", "[stare]"),
        ("[store]", "["),
        ("[settings]", "[probed]\n[setting]"),
    ],
    ids=lambda text: text[:24],
)
def test_a_stores_file_with_a_value_off_is_refused_and_named(before: str, after: str) -> None:
    text = STORE.render()
    assert before in text
    with pytest.raises(InvalidSettingError, match=r"/data/store/kacas\.toml"):
        StoreSettings.parse(text.replace(before, after), "/data/store/kacas.toml")


@pytest.mark.parametrize(
    "text",
    ["", "settings = 3\nstore = 4", "probed = 1\n" + STORE.render(), "x = " + "[" * 20_000],
    ids=["nothing", "no tables", "a table twice", "nested"],
)
def test_what_is_no_stores_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"/data/store/kacas\.toml"):
        StoreSettings.parse(text, "/data/store/kacas.toml")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_stores_file_gives_settings_or_a_typed_error(data: st.DataObject) -> None:
    text = list(STORE.render())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 9))] = data.draw(st.text(max_size=2))
    try:
        found = StoreSettings.parse("".join(text), "kacas.toml")
    except KacasError as exc:
        assert isinstance(exc, (InvalidSettingError, NewerFormatError))
        return
    assert len(bytes.fromhex(found.store_id)) == 16
    assert found.durability in ("full", "relaxed")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_user_without_a_home_is_told_to_set_one() -> None:
    """As in a container that runs under any uid."""
    program = (
        "import os; from kacas.settings import Settings\n"
        "os.setuid(54321)\n"
        "try: Settings.from_environment()\n"
        "except Exception as exc: print(type(exc).__name__, exc)\n"
        "os.environ['HOME'] = '/tmp'\n"
        "print(Settings.from_environment().owner)"
    )
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "InvalidSettingError there is no home directory: HOME is not set, and user 54321 is not in passwd; set HOME",
        "uid-54321",
    ]
