"""The functions of kachery-cloud, on kacas: in its scripts, `import kacas.kachery as kcl` stands for `import kachery_cloud as kcl`.

>>> import kacas.kachery as kcl
>>> uri = kcl.store_text("example text", label="example.txt")
>>> uri
'sha1://d9e989f651cdd269d7f9bb8a215d024d8d283688?label=example.txt'
>>> kcl.load_text(uri)
'example text'

Names, arguments and what comes back are as there: a load gives None for what is not found anywhere. Content is in the default
store. store_* also uploads to the user's default remote, if there is one; store_*_local never does. `cache_locally` may be
given and changes nothing: what is stored stays in the store, and the file that it came from is left alone. Errors are those of
kacas, where kachery-cloud raised Exception. New scripts had better use `kacas` itself, which does more and raises NotFoundError.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import simplejson
from numpy.typing import NDArray

from kacas.default import default_store
from kacas.errors import (
    InvalidKeyError,
    InvalidRangeError,
    InvalidSettingError,
    MutableNotFoundError,
    NotFoundError,
    UnsupportedDataError,
)
from kacas.kachery_feeds import Feed
from kacas.private_uris import any_uri, encrypted_uris
from kacas.pushing import pushed
from kacas.settings import identity_file
from kacas.store import Store

T = TypeVar("T")
_CLOUD = "@cloud"
"""The folder of those mutables that kachery-cloud kept in the cloud; the local ones are where its import puts them."""


# --- store ----------------------------------------------------------------------------------


def store_file(filename: str, *, label: str | None = None, cache_locally: bool = False, local: bool = False) -> str:
    """Store a file, and upload it. Without a label the URI has none. A sha1:// URI is taken for the file that it names."""
    return pushed(_push(local), lambda store: _store_file(store, filename, label))


def store_text(text: str, *, label: str | None = None, cache_locally: bool = False, local: bool = False) -> str:
    return pushed(_push(local), lambda store: store.store_text(text, label=label))


def store_json(
    x: Any,
    *,
    separators: tuple[str, str] = (",", ":"),
    indent: int | str | None = None,
    label: str | None = None,
    cache_locally: bool = False,
    local: bool = False,
) -> str:
    """Keys are sorted. separators, indent: they make other bytes, and so another identity."""
    text = _json(x, separators, indent)
    return pushed(_push(local), lambda store: store.store_text(text, label=label))


def store_npy(array: Any, *, label: str | None = None, cache_locally: bool = False, local: bool = False) -> str:
    return pushed(_push(local), lambda store: store.store_npy(array, label=label))


def store_pkl(x: Any, *, label: str | None = None, cache_locally: bool = False, local: bool = False) -> str:
    """Plain data and NumPy arrays only. The identity of a pickle may differ from that which kachery-cloud gave."""
    return pushed(_push(local), lambda store: store.store_pkl(x, label=label))


def store_file_local(filename: str, *, label: str | None = None, reference: bool | None = None) -> str:
    """Store a file, here only. reference: keep it where it is, and verify it on every read, as `link_file`."""
    if reference:
        return link_file(filename, label=label)
    return store_file(filename, label=label, local=True)


def store_text_local(text: str, label: str | None = None) -> str:
    return store_text(text, label=label, local=True)


def store_json_local(
    x: Any,
    *,
    separators: tuple[str, str] = (",", ":"),
    indent: int | str | None = None,
    label: str | None = None,
) -> str:
    return store_json(x, separators=separators, indent=indent, label=label, local=True)


def store_npy_local(array: Any, label: str | None = None) -> str:
    return store_npy(array, label=label, local=True)


def store_pkl_local(x: Any, label: str | None = None) -> str:
    return store_pkl(x, label=label, local=True)


def link_file(filename: str, *, label: str | None = None) -> str:
    """Keep a file where it is. Other than there, a file that was changed meanwhile is noticed at every read, and refused."""
    return default_store().link_file(filename, label=label or "")


def _push(local: bool) -> str | bool:
    """To the user's default remote, whether stores of kacas push to it or not."""
    settings = default_store().settings
    if local or settings.remotes_file is None:
        return False
    from kacas_remote.configuration import default_remote, read_remotes

    found = default_remote(read_remotes(settings))
    return False if found is None or not found.writable else found.name


def _store_file(store: Store, filename: str, label: str | None) -> str:
    if filename.startswith(("sha1://", "sha1-enc://")):
        filename = str(store.load_file(filename))
    return store.store_file(filename, label=label or "")


def _json(x: Any, separators: tuple[str, str], indent: int | str | None) -> str:
    try:
        return str(simplejson.dumps(x, separators=separators, indent=indent, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError, RecursionError) as exc:
        raise UnsupportedDataError(f"this cannot be stored as JSON: {exc}") from exc


# --- load -----------------------------------------------------------------------------------


def load_file(uri: str, *, verbose: bool = False, local_only: bool = False, dest: str | None = None) -> str | None:
    """The path of a file with the content, verified and read-only; or `dest`, to which it is copied.

    local_only: remotes are not asked. verbose: nothing is printed. An absolute path is taken for itself, if it is there.
    """
    if uri.startswith("/"):
        if not os.path.exists(uri):
            return None
        return uri if dest is None else str(shutil.copyfile(uri, dest))
    path = _found(local_only, lambda store: str(store.load_file(uri, dest=dest)))
    return path if path is None or dest is None or os.path.isdir(dest) else dest


def load_text(uri: str, *, local_only: bool = False) -> str | None:
    return _found(local_only, lambda store: store.load_text(uri))


def load_json(uri: str, *, local_only: bool = False) -> Any | None:
    return _found(local_only, lambda store: store.load_json(uri))


def load_npy(uri: str, *, local_only: bool = False) -> NDArray[Any] | None:
    return _found(local_only, lambda store: store.load_npy(uri))


def load_pkl(uri: str, *, local_only: bool = False) -> Any | None:
    """A pickle that wants anything but plain data and arrays is refused; nothing in it runs."""
    return _found(local_only, lambda store: store.load_pkl(uri))


def load_bytes(
    uri: str, start: int | None = None, end: int | None = None, *, write_to_stdout: bool = False
) -> bytes | None:
    """The bytes start:end, of which only the chunks needed are read. Raises InvalidRangeError beyond the content's ends.

    write_to_stdout: write them there, and return None.
    """

    def read(store: Store) -> bytes:
        size = store.size(uri)
        first, behind = 0 if start is None else start, size if end is None else end
        if not 0 <= first <= behind <= size:
            raise InvalidRangeError(f"{uri} has {size:,} bytes; {start}:{end} is no range of them")
        if not write_to_stdout:
            return store.load_bytes(uri, first, behind)
        with store.open_file(uri) as file:
            file.seek(first)
            while first < behind:
                part = file.read(min(behind - first, 1 << 20))
                sys.stdout.buffer.write(part)
                first += len(part)
        return b""

    data = _found(False, read)
    return None if write_to_stdout else data


def cat_file(uri: str) -> None:
    """Write the content to standard output; nothing if it is not found."""
    load_bytes(uri, write_to_stdout=True)


def _found(local_only: bool, load: Callable[[Store], T]) -> T | None:
    try:
        with _local_store() if local_only else _everywhere() as store:
            return load(store)
    except NotFoundError:
        return None


@contextmanager
def _everywhere() -> Iterator[Store]:
    yield default_store()


@contextmanager
def _local_store() -> Iterator[Store]:
    """The default store without remotes: what is here, or in the store that it has for its upstream."""
    settings = default_store().settings
    with Store.open(settings.directory, settings=settings, upstream=settings.upstream) as store:
        yield store


# --- for a group ----------------------------------------------------------------------------


def encrypt_uri(uri: str, *, access_group: str, label: str | None = None) -> str:
    """A URI that only the members of an access group can load. label: another one than it has; anybody can read it.

    Those that kachery-cloud encrypted on its server are not understood. `kacas.encrypt_uri` can hide the label as well.
    """
    named = any_uri(uri)
    if label is not None:
        named = replace(named, label=label, given="")
    return encrypted_uris([named], access_group)[0]


def decrypt_uri(uri: str) -> str:
    """The sha1:// URI that was encrypted."""
    return any_uri(uri).plain


# --- what changes ---------------------------------------------------------------------------


def set_mutable(key: str, value: str, *, project_id: str | None = None) -> None:
    """Give a key a value that all who share the store see. A folder may be written without its @: test/key is @test/key.

    These are kept apart from the local ones, in the folder @cloud. project_id: of no effect.
    """
    default_store().set_mutable(f"{_CLOUD}/{_key(key)}", value)


def get_mutable(key: str, *, project_id: str | None = None) -> str | None:
    return default_store().get_mutable(f"{_CLOUD}/{_key(key)}", default=None)


def delete_mutable(key: str, *, project_id: str | None = None) -> None:
    default_store().delete_mutable(f"{_CLOUD}/{_key(key)}")


def delete_mutable_folder(key: str, *, project_id: str | None = None) -> None:
    default_store().delete_mutable_folder(f"{_CLOUD}/{_folder(key)}")


def set_mutable_local(key: str, value: str) -> None:
    """As `kacas.set_mutable`, which sees it as well."""
    default_store().set_mutable(_key(key), value)


def get_mutable_local(key: str, default_value: str | None = None) -> str | None:
    return default_store().get_mutable(_key(key), default=default_value)


def delete_mutable_local(key: str) -> None:
    """Raises MutableNotFoundError if it is not there."""
    if not default_store().delete_mutable(_key(key)):
        raise MutableNotFoundError(f"there is no mutable {key!r}", key=key)


def delete_mutable_folder_local(key: str) -> None:
    """Raises InvalidKeyError if it is no folder: each of its parts begins with @."""
    if not key.rpartition("/")[2].startswith("@"):
        raise InvalidKeyError(f"{key!r} is no folder: a folder begins with @", key=key)
    default_store().delete_mutable_folder(_folder(key))


def _key(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{_folder(folder)}{slash}{name}" if slash else key


def _folder(key: str) -> str:
    """The ancestor's first versions had folders without @, and its documentation still does."""
    return "/".join(part if part.startswith("@") or not part else f"@{part}" for part in key.split("/"))


def create_feed(*, project_id: str | None = None) -> Feed:
    """Make a feed. project_id: of no effect."""
    return load_feed(default_store().create_feed())


def load_feed(feed_id_or_uri: str) -> Feed:
    """A feed, at its first message."""
    uri = feed_id_or_uri if "://" in feed_id_or_uri else f"kachery-feed://{feed_id_or_uri}"
    return Feed(uri, default_store().load_feed(uri))


# --- who I am -------------------------------------------------------------------------------


def get_client_id(generate_if_missing: bool = False) -> str:
    """The public half of this user's key pair, 64 hex digits. Raises InvalidSettingError if there is none.

    generate_if_missing: make a pair then, in ~/.config/kacas/identity.toml. `kacas import-kachery --keys` takes over an old one.
    """
    from kacas_remote import identity

    if generate_if_missing:
        identity.own_or_new()
    public = identity.own_public()
    if public is None:
        raise InvalidSettingError(
            f"you have no key pair, {identity_file()}; take over that of kachery-cloud with kacas import-kachery --keys, or "
            "make one: get_client_id(generate_if_missing=True)"
        )
    return public.hex()


def sha1_of_dict(x: dict[str, Any]) -> str:
    """The SHA-1 of the JSON that `store_json` would store."""
    return hashlib.sha1(_json(x, (",", ":"), None).encode()).hexdigest()
