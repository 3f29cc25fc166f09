"""The user's groups: ~/.config/kacas/groups.toml, by the names that this user gave them. `kacas group` writes it.

A place is written `remote:NAME`, `store:/PATH` or `file:/PATH`. The file is 0600 and holds no secrets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kacas.disk.small_file import read_small
from kacas.errors import InvalidSettingError, NewerFormatError
from kacas.settings import Settings, user_file
from kacas_remote.configuration import default_remote, read_remotes, remote_named
from kacas_remote.errors import GroupNotFoundError, RemoteNotFoundError
from kacas_remote.groups.places import BucketPlace, FilePlace, Place, StorePlace
from kacas_remote.groups.record import group_text, is_name, parse_group
from kacas_remote.opening import open_bucket
from kacas_remote.own_file import change_file

GROUPS_FORMAT = 1
_MOST = 1 << 20  # bytes of the file
_KINDS = ("remote", "store", "file")
_FORMS = "the name of one of your remotes, `store`, store:/PATH, or the path of a file, as ./lab.group"


@dataclass(frozen=True)
class JoinedGroup:
    """name: as this user calls it. place: as it is written in the file."""

    name: str
    group_id: bytes
    place: str


def groups_path(environment: Mapping[str, str] | None = None) -> Path:
    return user_file("groups.toml", environment)


def read_groups(path: Path) -> tuple[JoinedGroup, ...]:
    """() if there is no file. Raises InvalidSettingError naming the file, NewerFormatError."""
    try:
        table = tomllib.loads(read_small(str(path), _MOST).decode("utf-8"))
        version = table.get("format")
        if type(version) is int and version > GROUPS_FORMAT:
            raise NewerFormatError(
                f"{path} has format {version}, this kacas reads up to {GROUPS_FORMAT}; upgrade kacas", needed=version
            )
        if version != GROUPS_FORMAT or set(table) - {"format", "groups"}:
            raise ValueError(f"it is not what kacas writes (format = {GROUPS_FORMAT}, and tables [groups.NAME])")
        return tuple(_joined(name, values) for name, values in dict(table.get("groups", {})).items())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise InvalidSettingError(f"{path} cannot be read: {exc}; correct it or move it away") from exc


def _joined(name: str, values: object) -> JoinedGroup:
    if not isinstance(values, dict) or set(values) != {"id", "place"} or not is_name(name):
        raise ValueError(f"groups.{name[:80]} must be a table with an id and a place")
    group_id = parse_group(str(values["id"]))
    kind, _, rest = str(values["place"]).partition(":")
    if group_id is None or kind not in _KINDS or not rest or not rest.isprintable() or set(rest) & set('"\\'):
        raise ValueError(f"the id or place of groups.{name[:80]} is none")
    return JoinedGroup(name, group_id, str(values["place"]))


def _render(groups: Sequence[JoinedGroup]) -> str:
    tables = [f'\n[groups."{one.name}"]\nid = "{group_text(one.group_id)}"\nplace = "{one.place}"\n' for one in groups]
    return (
        "# Access groups that you are in, or were. `kacas group` writes this file anew: comments do not stay.\n"
        f"format = {GROUPS_FORMAT}\n" + "".join(tables)
    )


def change_groups(
    edit: Callable[[tuple[JoinedGroup, ...]], Sequence[JoinedGroup]], environment: Mapping[str, str] | None = None
) -> None:
    """Replace the file by what `edit` makes of it. Raises as `read_groups`, what `edit` raises."""
    path = groups_path(environment)
    change_file(path, lambda: _render(edit(read_groups(path))))


def joined_group(name_or_id: str, environment: Mapping[str, str] | None = None) -> JoinedGroup:
    """By this user's name of it, or ag_<32 hex>. Raises GroupNotFoundError, InvalidSettingError."""
    groups = read_groups(groups_path(environment))
    group_id = parse_group(name_or_id)
    for one in groups:
        if name_or_id == one.name or group_id == one.group_id:
            return one
    if group_id is not None:
        raise GroupNotFoundError(
            f"{name_or_id} is no access group that you joined; whoever let you in tells where its record is. Then: "
            f"kacas group join NAME {name_or_id} --at PLACE"
        )
    names = ", ".join(one.name for one in groups[:20])
    raise GroupNotFoundError(
        f"you have no access group {name_or_id[:80]!r}; {f'you have {names}' if names else 'you have none'}. Make one: kacas group "
        "create NAME; or join one: kacas group join NAME ID --at PLACE"
    )


def place_text(given: str | None, settings: Settings) -> str:
    """A place as it is written in the file. given: as the user names it; None for the default remote, else the default store.

    Raises InvalidSettingError, RemoteNotFoundError.
    """
    remotes = read_remotes(settings)
    if given is None:
        usual = default_remote(remotes)
        given = usual.name if usual else "store"
    kind, _, rest = given.partition(":")
    if given == "store":
        text = f"store:{settings.directory}"
    elif kind == "remote" or given in [one.name for one in remotes]:
        text = f"remote:{remote_named(rest if kind == 'remote' else given, remotes).name}"
    elif kind in ("store", "file") and rest:
        text = f"{kind}:{Path(rest).expanduser().absolute()}"
    elif "/" in given or "." in given:
        text = f"file:{Path(given).expanduser().absolute()}"
    else:
        raise RemoteNotFoundError(f"{given[:80]!r} is no place for the record of a group: name {_FORMS}")
    if not text.isprintable() or set(text) & set('"\\'):
        raise InvalidSettingError(f"the place {text[:200]!r} has signs in it that cannot be kept; choose another path")
    return text


def open_place(group: JoinedGroup, settings: Settings, retry_for_s: float | None = None) -> Place:
    """Asks nothing of it. retry_for_s: how long a bucket that is away is asked again, if not for as long as usual.

    Raises RemoteNotFoundError, InvalidSettingError, MissingPackageError."""
    kind, _, rest = group.place.partition(":")
    if kind == "store":
        return StorePlace(Path(rest), group.group_id)
    if kind == "file":
        return FilePlace(Path(rest))
    remote = remote_named(rest, read_remotes(settings))
    return BucketPlace(open_bucket(remote, retry_for_s=retry_for_s), group.group_id, read_only=not remote.writable)
