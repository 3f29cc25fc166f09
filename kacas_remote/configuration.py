"""The user's remotes: ~/.config/kacas/remotes.toml, in the order in which they are asked. `kacas remote` writes it.

The file is 0600 and holds no secrets. It is replaced as a whole, so who reads it sees the old or the new one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kacas.disk.small_file import read_small
from kacas.errors import InvalidSettingError, NewerFormatError
from kacas.settings import Settings, user_file
from kacas_remote.blobs.keys import place_prefix
from kacas_remote.errors import InvalidRemoteError, RemoteNotFoundError
from kacas_remote.own_file import change_file

REMOTES_FORMAT = 1
SCHEMES = ("s3", "gs", "az", "file", "https", "http", "memory")
READ_ONLY_SCHEMES = ("https", "http")
_BUCKETS = ("s3", "gs", "az")
_ESCAPED = re.compile("%[0-9A-Fa-f]{2}", re.ASCII)
_MOST = 1 << 20  # bytes of the file
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_HEADER = (
    "# Remotes of kacas, in the order in which they are asked. `kacas remote` writes this file anew:\n"
    "# comments do not stay. No secrets here: those are in the environment, or in credentials.toml.\n"
)


@dataclass(frozen=True)
class Probed:
    """What a service was seen to honour; None is what could not be tried. at: UTC, ISO.

    conditional_put: of several who create one blob at once, one succeeds. ranges: it gives parts. checksums: it refuses bytes
    that do not fit theirs. multipart: blobs may come in parts. listing, deleting, signing: it lets us. writable: it takes blobs.
    clock_s: how far its clock is ahead of ours, seconds.
    """

    at: str = ""
    writable: bool | None = None
    conditional_put: bool | None = None
    ranges: bool | None = None
    checksums: bool | None = None
    multipart: bool | None = None
    listing: bool | None = None
    deleting: bool | None = None
    signing: bool | None = None
    clock_s: int | None = None


@dataclass(frozen=True)
class RemoteConfiguration:
    """One remote, as the user has it.

    endpoint: of a service that is not Amazon's. default: the one that is meant where none is named. push: stores push to it
    without being asked. plain: push whole objects, for browsers and kachery clients. trusted: whoever can write there is
    believed. read_only: nothing is pushed there. anonymous: requests are not signed. profile: of ~/.aws, "" for the usual one.
    private: the access group, as the user calls it, for whose members all that is there is sealed; "" for nobody's.
    """

    name: str
    url: str
    endpoint: str = ""
    region: str = ""
    default: bool = False
    push: bool = False
    plain: bool = False
    trusted: bool = False
    read_only: bool = False
    anonymous: bool = False
    profile: str = ""
    private: str = ""
    probed: Probed | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRemoteError, which quotes no credentials."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRemoteError(
                f"{self.name[:80]!r} is no name for a remote; it has lower-case letters, digits and -, as lab or lab-2"
            )
        _check_url("the URL", self.name, self.url, SCHEMES)
        if self.endpoint:
            _check_url("the endpoint", self.name, self.endpoint, ("https", "http"))
        if self.private and not self.private.isprintable():
            raise InvalidRemoteError(f"the group of remote {self.name} is no name of one; see: kacas group list")
        if self.private and self.plain:
            raise InvalidRemoteError(
                f"remote {self.name} cannot be both plain and private: plain objects are for who has no key of the group. Add "
                "two remotes, with a prefix each"
            )
        if self.push and not self.default:
            raise InvalidRemoteError(
                f"remote {self.name} has push but is not the default; only the default may have it"
            )
        if self.push and not self.writable:
            raise InvalidRemoteError(f"remote {self.name} can only be read: nothing can be pushed to it")

    def check_prefix(self) -> None:
        """Of a new one. Raises InvalidRemoteError if no blob can have a key there."""
        if self.scheme not in ("file", *READ_ONLY_SCHEMES):
            path = urlsplit(self.url).path
            place_prefix(path, self.url)
            # Buckets have been filled below names with a % in them: they are opened as ever, and no new ones are made.
            if self.scheme in _BUCKETS and _ESCAPED.search(path):
                raise InvalidRemoteError(
                    f"the prefix in {self.url} cannot be used: in a bucket it would be as it is written, with the %; take one "
                    "without blanks and the like, as in s3://bucket/lab/data"
                )

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def writable(self) -> bool:
        """Whether anything can be pushed there, as far as is known."""
        return not self.read_only and self.scheme not in READ_ONLY_SCHEMES


def _check_url(what: str, name: str, url: str, schemes: Sequence[str]) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidRemoteError(f"{what} of remote {name} cannot be used; correct its host and port") from exc
    if parts.scheme not in schemes or "://" not in url:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidRemoteError(f"{what} of remote {name} must begin with one of {known}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # It is not shown: what is in it may be a secret.
        raise InvalidRemoteError(
            f"{what} of remote {name} must hold no user, password, ? or #; credentials come from the environment, "
            "~/.aws/credentials, or ~/.config/kacas/credentials.toml"
        )
    if not url.isprintable() or any(char.isspace() or char in '"\\' for char in url):
        instead = "take a prefix without them" if parts.scheme in _BUCKETS else "write them as %20, %22, ..."
        raise InvalidRemoteError(f"{what} of remote {name} holds blanks, quotes or the like; {instead}")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise InvalidRemoteError(f"{what} of remote {name} must be file:///, then an absolute path")
    if parts.scheme not in ("file", "memory") and not parts.hostname:
        raise InvalidRemoteError(f"{what} of remote {name} names no {'host' if 'http' in parts.scheme else 'bucket'}")
    if port is not None and "http" not in parts.scheme:
        raise InvalidRemoteError(f"{what} of remote {name} has a port; where the service is, is said by --endpoint")


def read_remotes(settings: Settings | None = None) -> tuple[RemoteConfiguration, ...]:
    """The user's remotes, in the order in which they are asked. KACAS_REMOTE says which is the default, and that it has push.

    Raises InvalidSettingError naming the file, NewerFormatError.
    """
    settings = Settings.from_environment() if settings is None else settings
    if settings.remotes_file is None:
        return ()
    found = read_remotes_file(settings.remotes_file)
    if settings.remote is None:
        return found
    if settings.remote and settings.remote not in [remote.name for remote in found]:
        raise InvalidRemoteError(f"KACAS_REMOTE {settings.remote[:80]!r} is none of your remotes; {_known(found)}")
    return tuple(replace(one, default=one.name == settings.remote, push=one.name == settings.remote) for one in found)


def remote_named(name: str, remotes: Sequence[RemoteConfiguration]) -> RemoteConfiguration:
    """Raises RemoteNotFoundError."""
    for remote in remotes:
        if remote.name == name:
            return remote
    raise RemoteNotFoundError(f"there is no remote {name[:80]!r}; {_known(remotes)}")


def default_remote(remotes: Sequence[RemoteConfiguration]) -> RemoteConfiguration | None:
    return next((remote for remote in remotes if remote.default), None)


def push_remote(remotes: Sequence[RemoteConfiguration]) -> RemoteConfiguration | None:
    """The remote that stores push to without being asked; None if they are local."""
    return next((remote for remote in remotes if remote.push), None)


def _known(remotes: Sequence[RemoteConfiguration]) -> str:
    names = ", ".join(remote.name for remote in remotes[:20])
    return f"{f'there are {names}' if names else 'there are none'}; add one by: kacas remote add NAME URL"


def remotes_path(environment: Mapping[str, str] | None = None) -> Path:
    return user_file("remotes.toml", environment)


def read_remotes_file(path: Path) -> tuple[RemoteConfiguration, ...]:
    """() if it is not there. Raises InvalidSettingError naming the file, NewerFormatError."""
    try:
        text = read_small(str(path), _MOST).decode("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as exc:
        raise InvalidSettingError(f"{path} cannot be read: {exc}; correct it or move it away") from exc
    return parse_remotes(text, str(path))


def parse_remotes(text: str, where: str) -> tuple[RemoteConfiguration, ...]:
    """The inverse of `render_remotes`. Raises InvalidSettingError naming `where`, NewerFormatError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidSettingError(f"{where} cannot be read: {exc}; correct it or move it away") from exc
    version = table.get("format", REMOTES_FORMAT)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InvalidSettingError(f"{where}: format = {version!r:.80} is no version; it is {REMOTES_FORMAT}")
    if version > REMOTES_FORMAT:
        raise NewerFormatError(
            f"{where} has format {version}, this kacas reads up to {REMOTES_FORMAT}; upgrade kacas", needed=version
        )
    _refuse_unknown(table, ("format", "remotes"), where)
    remotes = table.get("remotes", {})
    if not isinstance(remotes, dict):
        raise InvalidSettingError(f"{where}: remotes must be tables, [remotes.NAME]")
    found = tuple(_parse_remote(name, values, f"{where}: remotes.{name[:80]}") for name, values in remotes.items())
    if sum(remote.default for remote in found) > 1:
        raise InvalidSettingError(f"{where}: more than one remote has default = true; leave it to one")
    return found


def _parse_remote(name: str, values: object, where: str) -> RemoteConfiguration:
    table = _typed(RemoteConfiguration, values, where, without=("name",))
    if "url" not in table:
        raise InvalidSettingError(f"{where} has no url")
    try:
        return RemoteConfiguration(name=name, **table)
    except InvalidRemoteError as exc:
        raise InvalidRemoteError(f"{where}: {exc}") from exc


def _typed(kind: type, values: object, where: str, without: Sequence[str] = ()) -> dict[str, Any]:
    """The values that the fields of a dataclass have, each of the field's type."""
    if not isinstance(values, dict):
        raise InvalidSettingError(f"{where} must be a table")
    wanted = {one.name: str(one.type) for one in fields(kind) if one.name not in without}
    _refuse_unknown(values, tuple(wanted), where)
    table: dict[str, Any] = {}
    for key, value in values.items():
        if key == "probed":
            table[key] = Probed(**_typed(Probed, value, f"{where}.probed"))
        elif type(value).__name__ != wanted[key].partition(" ")[0]:
            kinds = {"str": "text", "bool": "true or false", "int": "a number"}
            raise InvalidSettingError(f"{where}: {key} must be {kinds[wanted[key].partition(' ')[0]]}")
        else:
            table[key] = value
    return table


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise InvalidSettingError(f"{where}: {unknown[0][:80]!r} is not known here; known are {', '.join(known)}")


def render_remotes(remotes: Sequence[RemoteConfiguration]) -> str:
    """The file's text: what is as by default is left out."""
    lines = [_HEADER + f"format = {REMOTES_FORMAT}\n"]
    for remote in remotes:
        lines.append(f"\n[remotes.{remote.name}]\n")
        lines += _lines(remote, ("name", "probed"))
        if remote.probed is not None:
            lines.append(f"\n[remotes.{remote.name}.probed]\n")
            lines += _lines(remote.probed)
    return "".join(lines)


def _lines(record: RemoteConfiguration | Probed, without: Sequence[str] = ()) -> Iterator[str]:
    for one in fields(record):
        value = getattr(record, one.name)
        if one.name not in without and value != one.default:
            yield f"{one.name} = {_toml(value)}\n"


def _toml(value: str | int) -> str:
    if isinstance(value, str):
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return str(value).lower()


Edit = Callable[[tuple[RemoteConfiguration, ...]], Sequence[RemoteConfiguration]]


def change_remotes(edit: Edit, path: Path | None = None) -> tuple[RemoteConfiguration, ...]:
    """Replace the file by what `edit` makes of it; of several who do so at once each sees what the one before made.

    Raises as `read_remotes_file`, what `edit` raises, and InvalidSettingError if the file cannot be written.
    """
    path = remotes_path() if path is None else path
    changed: list[RemoteConfiguration] = []

    def edited() -> str:
        changed.extend(edit(read_remotes_file(path)))
        return render_remotes(changed)

    change_file(path, edited)
    return tuple(changed)
