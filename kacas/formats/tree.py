"""Directories, read: their documents, what a path in them names, and how two of them differ."""

from __future__ import annotations

import difflib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from kacas.errors import InvalidUriError, NewerFormatError, NotFoundError, WrongKindError
from kacas.model.description import Description, Difference, DirectoryItem
from kacas.model.tree import MAX_TREE_SIZE, EntryType, NewerTreeError, TreeEntry, TreeError, decode_tree
from kacas.model.uri import DirectoryUri, Uri, label_text
from kacas.private_uris import any_uri
from kacas.repository import Repository

_KEPT_ENTRIES = 200_000  # of directories read last: some 100 MiB at most
Directory = dict[bytes, TreeEntry]


class Totals(NamedTuple):
    """Of a directory and all below: files, names of any type, bytes of the files."""

    files: int
    names: int
    size: int


class Trees:
    """Reads directories of one repository and remembers the last. Thread-safe."""

    def __init__(self, repository: Repository, most_kept: int = _KEPT_ENTRIES) -> None:
        """most_kept: entries of directories that are remembered."""
        self._repository = repository
        self._most_kept = most_kept
        self._kept: OrderedDict[bytes, Directory] = OrderedDict()
        self._kept_entries = 0
        self._lock = threading.Lock()

    def read(self, sha1: bytes, where: str) -> Directory:
        """The directory's entries by name. where: for messages.

        Raises NotFoundError, WrongKindError, DamagedError, NewerFormatError.
        """
        if (kept := self._kept.get(sha1)) is not None:
            return kept
        uri = Uri(sha1)
        _, content = self._repository.resolve(uri)
        if content.size > MAX_TREE_SIZE:
            raise WrongKindError(f"{where} is not a directory: it has {content.size} bytes", sha1=sha1.hex())
        try:
            directory = {entry.name: entry for entry in decode_tree(self._repository.read(uri))}
        except NewerTreeError as exc:
            raise NewerFormatError(f"{where}: {exc}; upgrade kacas to read it", needed=exc.needed) from exc
        except TreeError as exc:
            raise WrongKindError(
                f"{where} is not a directory: {exc}; load a file by its sha1:// URI", sha1=sha1.hex()
            ) from exc
        self._keep(sha1, directory)
        return directory

    def _keep(self, sha1: bytes, directory: Directory) -> None:
        with self._lock:
            if sha1 in self._kept or len(directory) > self._most_kept:
                return
            self._kept[sha1] = directory
            self._kept_entries += len(directory)
            while self._kept_entries > self._most_kept:
                self._kept_entries -= len(self._kept.popitem(last=False)[1])

    def entry(self, uri: DirectoryUri) -> TreeEntry:
        """What the path names; the directory itself has an empty name. Links are not followed."""
        found = TreeEntry(b"", EntryType.DIRECTORY, uri.sha1)
        for depth, name in enumerate(uri.path):
            where = uri.given or str(DirectoryUri(uri.sha1, "", uri.path[:depth]))
            if found.type is EntryType.FILE:
                raise NotFoundError(f"{where} is a file; nothing can be in it", sha1=uri.sha1.hex())
            if found.type is EntryType.LINK:
                raise _link_error(where, found)
            directory = self.read(found.sha1, where)
            if name not in directory:
                raise NotFoundError(f"{where} has no {label_text(name)!r}{_near(name, directory)}", sha1=uri.sha1.hex())
            found = directory[name]
        return found

    def content_uri(self, text: str, *, directory: bool = False) -> Uri:
        """The content that a URI of any kind names. directory: a directory's document will do.

        Raises InvalidUriError, NotFoundError, and WrongKindError for a directory or a link.
        """
        uri = any_uri(text)
        if isinstance(uri, Uri):
            return uri
        entry = self.entry(uri)
        if entry.type is EntryType.LINK:
            raise _link_error(text, entry)
        if entry.type is EntryType.DIRECTORY and not directory:
            raise WrongKindError(
                f"{text} is a directory; restore it with load_dir (kacas load), look into it with list_dir (kacas ls), "
                "or add the path of a file",
                sha1=uri.sha1.hex(),
            )
        return Uri(entry.sha1, uri.label if not uri.path else label_text(entry.name), given=uri.given)

    def directory(self, text: str, path: str = "") -> DirectoryUri:
        """The directory that a URI and a path in it name, as a URI with no path. Raises as `entry`, WrongKindError."""
        uri = any_uri(text)
        if isinstance(uri, Uri):
            uri = DirectoryUri(uri.sha1, uri.label, given=uri.given)
        try:
            names = tuple(name for name in path.encode("utf-8", "surrogateescape").split(b"/") if name)
        except UnicodeEncodeError as exc:
            raise InvalidUriError(f"the path {path!r} is not Unicode text: {exc.reason}", uri=text) from exc
        whole = uri.below(names)
        entry = self.entry(whole)
        if entry.type is EntryType.LINK:
            raise _link_error(str(whole), entry)
        if entry.type is EntryType.FILE:
            raise WrongKindError(f"{whole} is a file, not a directory", sha1=entry.sha1.hex())
        label = label_text(whole.path[-1]) if whole.path else whole.label
        return DirectoryUri(entry.sha1, label, given=whole.given)

    def list(self, text: str, path: str = "") -> list[DirectoryItem]:
        """The entries of a directory, sorted by the bytes of their names."""
        uri = self.directory(text, path)
        return [_item(entry) for entry in self.read(uri.sha1, str(uri)).values()]

    def described(self, description: Description) -> Description:
        """With the number and the sizes of all files below, if it is a directory's."""
        if description.kind != "directory":
            return description
        try:
            totals = self.totals(bytes.fromhex(description.sha1), description.uri)
        except WrongKindError:
            return description  # a kind is what somebody said
        return replace(description, files=totals.files, total_size=totals.size)

    def totals(self, sha1: bytes, where: str) -> Totals:
        """What is below a directory, all told. A subdirectory that is named often is read once: it may be named 2^60 times."""
        known: dict[bytes, Totals] = {}
        stack = [(sha1, where.partition("?")[0])]
        while stack:
            current, place = stack[-1]
            entries = self.read(current, place).values()
            waiting = {
                entry.sha1: f"{place}/{quote_from_bytes(entry.name)}"
                for entry in entries
                if entry.type is EntryType.DIRECTORY and entry.sha1 not in known
            }
            if waiting:
                stack += waiting.items()
                continue
            stack.pop()
            files = [entry.size for entry in entries if entry.type is EntryType.FILE]
            below = [known[entry.sha1] for entry in entries if entry.type is EntryType.DIRECTORY]
            known[current] = Totals(
                files=len(files) + sum(one.files for one in below),
                names=len(entries) + sum(one.names for one in below),
                size=sum(files) + sum(one.size for one in below),
            )
        return known[sha1]

    def is_directory(self, text: str) -> bool:
        """Whether the URI names a directory. Raises as `entry` for a path that is not there."""
        uri = any_uri(text)
        return isinstance(uri, DirectoryUri) and self.entry(uri).type is EntryType.DIRECTORY

    def differences(self, one: str, other: str) -> Iterator[Difference]:
        """How the second directory differs from the first; equal subdirectories are not read."""
        stack = [("", self.directory(one).sha1, self.directory(other).sha1)]
        while stack:
            prefix, before, after = stack.pop()
            if before == after:
                continue
            left, right = self.read(before, prefix or one), self.read(after, prefix or other)
            for name in sorted(left.keys() | right.keys()):
                old, new, path = left.get(name), right.get(name), prefix + label_text(name)
                if old is None or new is None:
                    yield Difference(path, "added" if old is None else "removed", *_types(old, new))
                elif old.type is new.type is EntryType.DIRECTORY:
                    stack.append((path + "/", old.sha1, new.sha1))
                elif old.type is not new.type:
                    yield Difference(path, "type", *_types(old, new))
                elif (old.sha1, old.target) != (new.sha1, new.target):
                    yield Difference(path, "content", *_types(old, new))
                elif old != new:
                    yield Difference(path, "mode", *_types(old, new))


def _types(old: TreeEntry | None, new: TreeEntry | None) -> tuple[str | None, str | None]:
    return old.type.value if old else None, new.type.value if new else None


def _item(entry: TreeEntry) -> DirectoryItem:
    uri: str | None = None
    if entry.type is EntryType.FILE:
        uri = str(Uri(entry.sha1, entry.text))
    elif entry.type is EntryType.DIRECTORY:
        uri = str(DirectoryUri(entry.sha1, entry.text))
    return DirectoryItem(
        entry.text,
        entry.type.value,
        entry.size if entry.type is EntryType.FILE else None,
        entry.executable,
        uri,
        label_text(entry.target) if entry.target else None,
    )


def _link_error(where: str, entry: TreeEntry) -> WrongKindError:
    return WrongKindError(
        f"{where} is a symbolic link to {label_text(entry.target)!r}; links are kept but not followed: "
        "name what it leads to"
    )


def _near(name: bytes, directory: Directory) -> str:
    names = [label_text(other) for other in list(directory)[:10_000]]
    near = difflib.get_close_matches(label_text(name), names, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    decoded = unquote_to_bytes(name)
    if decoded != name and decoded in directory:
        return f"; did you mean {label_text(decoded)!r}?"
    return f"; it holds {len(directory)} names, see list_dir (kacas ls)"
