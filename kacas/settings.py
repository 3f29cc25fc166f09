"""Settings: the environment, the user's kacas.toml and a store's kacas.toml are read here and nowhere else."""

from __future__ import annotations

import getpass
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kacas.errors import InvalidSettingError, NewerFormatError
from kacas.model.content_cuts import CONTENT_CUTTER

STORE_FORMAT = 1
DURABILITIES = ("full", "relaxed")
SHARINGS = ("private", "group")
STORE_IN = ("here", "upstream")
_GIB = 1 << 30
DEFAULT_MEMORY = 256 << 20
LEAST_MEMORY = 64 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
_NAMES = {
    "directory": "KACAS_DIR",
    "cache_directory": "KACAS_CACHE_DIR",
    "owner": "KACAS_OWNER",
    "threads": "KACAS_THREADS",
    "cache_size": "KACAS_CACHE_SIZE",
    "memory": "KACAS_MEMORY",
    "upstream": "KACAS_UPSTREAM",
    "store_in": "KACAS_STORE_IN",
}
_REMOTE = "KACAS_REMOTE"
_INPUTS = (*_NAMES.values(), _REMOTE, "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "LOGNAME", "USER")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE", "KACAS_CLIENT_ID", "KACAS_PRIVATE_KEY")
_WATCHED = ("kacas.toml", "remotes.toml", "credentials.toml", "identity.toml")
Fingerprint = tuple[object, ...]


class Environment(Mapping[str, str]):
    """Environment variables that do not show themselves: private keys and credentials are among them, and tools that report errors
    show the variables of every function."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def environment_of(given: Mapping[str, str] | None) -> Environment:
    """That of the process, unless another one is given."""
    return Environment(os.environ if given is None else given)


@dataclass(frozen=True)
class Settings:
    """What this user wants on this host. sources: setting → "environment", "file" or "default".

    directory: the default store. cache_directory: index and materialised files, host-local.
    owner: whose claims my stores make. threads: encoders and decoders at work for one call.
    cache_size: bytes that materialised files may take before old ones are dropped.
    memory: bytes that a store may take for its buffers and caches, beside what the caller holds.
    upstream: the store behind the default one: what is absent there is taken from it. None if there is none.
    store_in: which of the two keeps what is put into the default store, "here" or "upstream".
    remote: the remote that stores push to, "" for none, whatever remotes.toml says; None: as it says.
    remotes_file: where the user's remotes are; None if there are none: then nothing needs to know of remotes.
    """

    directory: Path
    cache_directory: Path
    owner: str
    threads: int
    cache_size: int
    memory: int = DEFAULT_MEMORY
    upstream: Path | None = None
    store_in: str = "here"
    remote: str | None = None
    remotes_file: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Environment variables first, then the user's kacas.toml, then defaults. Raises InvalidSettingError."""
        env = environment_of(environment)
        home = _home(env)
        config = user_file("kacas.toml", env)
        remotes_file = user_file("remotes.toml", env)
        table = _read_user_file(config)
        values: dict[str, str] = {}
        sources: dict[str, str] = {}
        for name, variable in _NAMES.items():
            if env.get(variable):
                values[name], sources[name] = env[variable], "environment"
            elif name in table:
                values[name], sources[name] = _user_value(name, table[name], config), "file"
            else:
                sources[name] = "default"
        sources["remote"] = "environment" if _REMOTE in env else "default"
        cache_home = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
        return cls(
            directory=_path("directory", values, home / ".kacas"),
            cache_directory=_path("cache_directory", values, cache_home / "kacas"),
            owner=_owner(values.get("owner") or _login()),
            threads=_threads(values.get("threads")),
            cache_size=_size("cache_size", values["cache_size"]) if "cache_size" in values else 64 * _GIB,
            memory=_memory(values.get("memory")),
            upstream=_upstream(values),
            store_in=check_store_in(values.get("store_in", "here"), "upstream" in values),
            remote=env.get(_REMOTE),
            remotes_file=remotes_file if env.get(_REMOTE) or remotes_file.exists() else None,
            sources=sources,
        )

    @staticmethod
    def fingerprint() -> Fingerprint:
        """What `from_environment` depends on, and which state the user's files are in: cheap enough to ask at every call."""
        get = os.environ.get
        configuration = get("XDG_CONFIG_HOME") or f"{get('HOME') or _home(os.environ)}/.config"
        keys = hash(tuple(map(get, _KEYS)))  # no secret lies about
        return (*map(get, _INPUTS), keys, *(_state(f"{configuration}/kacas/{name}") for name in _WATCHED))


def _state(path: str) -> tuple[int, int, int] | None:
    """Another one when the file is another: it is never changed in place by us, and by an editor not within a clock tick."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def user_file(name: str, environment: Mapping[str, str] | None = None) -> Path:
    """A file of the user's own configuration, ~/.config/kacas/<name>: never in a store."""
    return _user_directory(environment_of(environment)) / name


def identity_file(environment: Mapping[str, str] | None = None) -> Path:
    """Where the user's key pair is kept."""
    return user_file("identity.toml", environment)


def state_directory(environment: Mapping[str, str] | None = None) -> Path:
    """Where this user's unfinished work is noted on this host."""
    env = environment_of(environment)
    return Path(env.get("XDG_STATE_HOME") or _home(env) / ".local" / "state") / "kacas"


def _home(env: Mapping[str, str]) -> Path:
    try:
        return Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError as exc:  # no passwd entry, as in many containers
        raise InvalidSettingError(
            f"there is no home directory: HOME is not set, and user {os.getuid()} is not in passwd; set HOME"
        ) from exc


def _user_directory(env: Mapping[str, str]) -> Path:
    return Path(env.get("XDG_CONFIG_HOME") or _home(env) / ".config") / "kacas"


def _read_user_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidSettingError(f"{path} cannot be read: {exc}; correct it or move it away") from exc
    unknown = sorted(set(table) - set(_NAMES))
    if unknown:
        raise InvalidSettingError(f"{path}: {unknown[0]!r} is not a setting; known are {', '.join(_NAMES)}")
    return table


def _user_value(name: str, value: object, path: Path) -> str:
    numbers = name in ("threads", "cache_size", "memory")
    if isinstance(value, str) or (numbers and isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InvalidSettingError(f"{path}: {name} = {value!r} must be {'a number or text' if numbers else 'text'}")


def _path(name: str, values: Mapping[str, str], default: Path) -> Path:
    text = values.get(name)
    return expanded_path(text, _NAMES[name]) if text else default.absolute()


def expanded_path(text: str, given_by: str) -> Path:
    """The absolute path, with ~ expanded. Raises InvalidSettingError, which names what it was given by."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as exc:  # ~somebody who is not there
        raise InvalidSettingError(f"{given_by} {text!r} is not a path that can be used: {exc}") from exc


def _upstream(values: Mapping[str, str]) -> Path | None:
    text = values.get("upstream")
    if text is None:
        return None
    if "://" in text:
        raise InvalidSettingError(
            f"KACAS_UPSTREAM {text!r} must be the directory of a store; no other kind is known yet"
        )
    return _path("upstream", values, Path())


def check_store_in(text: str, has_upstream: bool) -> str:
    """The same. Raises InvalidSettingError if it is neither "here" nor "upstream", or there is no upstream."""
    if text not in STORE_IN:
        raise InvalidSettingError(f"KACAS_STORE_IN {text!r} must be 'here' or 'upstream'")
    if text == "upstream" and not has_upstream:
        raise InvalidSettingError("KACAS_STORE_IN is 'upstream', but the store has no upstream; set KACAS_UPSTREAM")
    return text


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in many containers
        return f"uid-{os.getuid()}"


def _owner(text: str) -> str:
    if not text or len(text.encode("utf-8", "replace")) > 256 or not text.isprintable():
        raise InvalidSettingError(f"KACAS_OWNER {text[:80]!r} must be a printable name of at most 256 bytes")
    return text


def _threads(text: str | None) -> int:
    if text is None:
        return max(2, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2))
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= 256:
        raise InvalidSettingError(f"KACAS_THREADS {text!r} must be a number from 1 to 256")
    return int(text)


def _size(name: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise InvalidSettingError(f"{_NAMES[name]} {exc}") from exc


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError, which says what one looks like."""
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} must be a size such as 500M, 64G or 1073741824")
    return int(match[1]) * _UNITS[match[2].upper()]


def _memory(text: str | None) -> int:
    size = DEFAULT_MEMORY if text is None else _size("memory", text)
    if size < LEAST_MEMORY:
        raise InvalidSettingError(f"KACAS_MEMORY {text!r} must be at least {LEAST_MEMORY >> 20}M")
    return size


@dataclass(frozen=True)
class StoreSettings:
    """The kacas.toml of a store. store_id: 32 hex digits; durability: "full" or "relaxed"; sharing: "private" or "group".

    sticky: of a shared store, only its owner, and whoever made a file, can delete. world_readable: not only members read it.
    cutter: how its files are cut; a store that does not say is of the time when there was but one way.
    """

    store_id: str
    durability: str = "full"
    sharing: str = "private"
    sticky: bool = False
    world_readable: bool = False
    cutter: str = CONTENT_CUTTER
    format_version: int = STORE_FORMAT
    created: str = ""
    file_system: str = ""
    hard_links: bool = True

    def render(self) -> str:
        """The file's text; `parse` is its inverse."""
        shared = (
            f"sticky = {str(self.sticky).lower()}\nworld_readable = {str(self.world_readable).lower()}\n"
            if self.sharing != "private"
            else ""
        )
        return (
            "# A kacas store. The id and the format belong to the packs: do not edit them.\n"
            f'[store]\nid = "{self.store_id}"\nformat = {self.format_version}\ncreated = "{self.created}"\n\n'
            f'[settings]\ndurability = "{self.durability}"\nsharing = "{self.sharing}"\n{shared}'
            f'cutter = "{self.cutter}"\n\n'
            f'[probed]\nfile_system = "{self.file_system}"\nhard_links = {str(self.hard_links).lower()}\n'
        )

    @classmethod
    def parse(cls, text: str, where: str) -> StoreSettings:
        """Raises InvalidSettingError, or NewerFormatError if the store needs a newer kacas."""
        try:
            table = tomllib.loads(text)
            store, settings, probed = table["store"], table["settings"], table.get("probed", {})
            version = store["format"]
            if isinstance(version, int) and version > STORE_FORMAT:
                raise NewerFormatError(
                    f"{where} has format {version}, this kacas reads up to {STORE_FORMAT}; upgrade kacas",
                    needed=version,
                )
            sharing = settings["sharing"]
            if isinstance(sharing, str) and sharing not in SHARINGS:
                raise NewerFormatError(
                    f"{where} says sharing = {sharing[:80]!r}, which this kacas does not know; upgrade kacas",
                    needed=STORE_FORMAT + 1,
                )
            parsed = cls(
                store_id=store["id"],
                durability=settings["durability"],
                sharing=sharing,
                sticky=_flag(settings, "sticky"),
                world_readable=_flag(settings, "world_readable"),
                cutter=settings.get("cutter", CONTENT_CUTTER),
                format_version=version,
                created=str(store.get("created", "")),
                file_system=str(probed.get("file_system", "")),
                hard_links=bool(probed.get("hard_links", True)),
            )
            valid = re.fullmatch(r"[0-9a-f]{32}", parsed.store_id) and parsed.format_version == STORE_FORMAT
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise InvalidSettingError(f"{where} is damaged ({exc}); restore it from a backup or a sister host") from exc
        known = parsed.durability in DURABILITIES and parsed.sharing in SHARINGS and isinstance(parsed.cutter, str)
        if not valid or not known:
            raise InvalidSettingError(f"{where} holds values that kacas does not know; restore it from a backup")
        return parsed


def _flag(table: Mapping[str, Any], name: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise TypeError(f"{name} is true or false, not {value!r:.80}")
    return value
