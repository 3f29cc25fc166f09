"""The plan of a push: which contents its URIs name, members of directories included, and which of them get a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kacas.content import Content
from kacas.errors import WrongKindError
from kacas.formats.tree import Trees
from kacas.layouts import best_first
from kacas.model.codec import MIB
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import PayloadKind
from kacas.model.entry import Action, Entry, Kind
from kacas.model.location import Location
from kacas.model.tree import EntryType
from kacas.model.uri import DirectoryUri, Uri, label_bytes
from kacas.private_uris import any_uris
from kacas.repository import Repository

CHUNK = int(PayloadKind.CHUNK)
RECIPE_ABOVE = 16 * MIB
"""Bytes of content: what is smaller is found by the tables of the packs, unless it was asked for."""
MOST_ASKED = 64
"""If more URIs are pushed at once, those that are small get no recipe of their own."""

_KEPT_ENTRIES = 10_000  # of directories: each is walked once, but many URIs may lead through one


class Target(NamedTuple):
    """One content. label: UTF-8. root: None if any layout will do. asked: indexes of the URIs that it is pushed for.

    has_recipe: whether it is to have one; is_member: whether a directory that is pushed names it.
    """

    sha1: bytes
    size: int
    kind: int
    label: bytes = b""
    root: bytes | None = None
    asked: tuple[int, ...] = ()
    has_recipe: bool = False
    is_member: bool = False

    @property
    def key(self) -> tuple[bytes, bytes | None]:
        """Of the target in a plan."""
        return self.sha1, self.root


@dataclass
class Plan:
    """uris: as they were given. targets: by SHA-1 and root, members before the directory that names them.

    members: SHA-1s of everything below each directory that gets a recipe, itself included.
    """

    uris: list[str]
    targets: dict[tuple[bytes, bytes | None], Target] = field(default_factory=dict)
    members: dict[bytes, set[bytes]] = field(default_factory=dict)

    def with_recipes(self) -> Plan:
        """Each that is asked for gets a recipe: as a plain object nothing else says that it was."""
        targets = {
            key: one._replace(has_recipe=one.has_recipe or not one.is_member) for key, one in self.targets.items()
        }
        return replace(self, targets=targets)

    def without(self, settled: set[int]) -> list[Target]:
        """The targets of URIs that are not settled."""
        return [target for target in self.targets.values() if not target.asked or not settled.issuperset(target.asked)]


def plan_of(repository: Repository, uris: Iterable[str]) -> Plan:
    """Raises InvalidUriError, NotFoundError, WrongKindError, DamagedError for a URI that cannot be pushed at all."""
    plan = Plan(list(dict.fromkeys(uris)))
    trees = Trees(repository, _KEPT_ENTRIES)
    few = len(plan.uris) <= MOST_ASKED
    files: dict[int, Uri] = {}
    for index, uri in enumerate(any_uris(plan.uris)):
        if isinstance(uri, DirectoryUri):
            entry = trees.entry(uri)
            if entry.type is EntryType.DIRECTORY:
                label = uri.label if not uri.path else entry.text
                repository.bring_tree(entry.sha1)
                _add_directory(plan, repository, trees, index, entry.sha1, label)
                continue
            uri = trees.content_uri(plan.uris[index])
        files[index] = uri
    _add_files(plan, repository, files, few)
    return plan


def _add_files(plan: Plan, repository: Repository, files: dict[int, Uri], few: bool) -> None:
    known = repository.lookup.entries_of_many({uri.sha1 for uri in files.values()})
    for index, uri in files.items():
        found = newest_first([one for one, _ in known.get(uri.sha1, ())], uri.root)
        if not found:
            repository.bring(uri)
            found = [repository.resolve(uri)[0]]
        entry = found[0]
        if entry.kind == Kind.DIRECTORY and (sha1 := _directory_of(repository, entry)):
            _add_directory(
                plan, repository, Trees(repository, _KEPT_ENTRIES), index, sha1, uri.label or entry.label_text
            )
            continue
        _add(
            plan, Target(
                uri.sha1, entry.size, entry.kind, label_bytes(uri.label) or entry.label, uri.root, (index,),
                few or entry.size > RECIPE_ABOVE,
            )
        )  # fmt: skip


def _directory_of(repository: Repository, entry: Entry) -> bytes | None:
    """A directory's document that was named as a file stands for the directory."""
    try:
        Trees(repository).read(entry.sha1, entry.uri)
    except WrongKindError:
        return None
    return entry.sha1


def _add_directory(plan: Plan, repository: Repository, trees: Trees, index: int, sha1: bytes, label: str) -> None:
    below: set[bytes] = set()
    for target in _walk(repository, trees, sha1, label, index):
        below.add(target.sha1)
        _add(plan, target)
    plan.members[sha1] = below


def _walk(repository: Repository, trees: Trees, sha1: bytes, label: str, index: int) -> Iterator[Target]:
    """Everything below a directory, and itself at last; what is named often comes once."""
    documents: list[bytes] = []
    seen: set[bytes] = set()
    stack = [(sha1, str(DirectoryUri(sha1)))]
    while stack:
        current, where = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        documents.append(current)
        for entry in trees.read(current, where).values():
            if entry.type is EntryType.DIRECTORY:
                stack.append((entry.sha1, f"{where}/{entry.text}"))
            elif entry.type is EntryType.FILE and entry.sha1 not in seen:
                seen.add(entry.sha1)
                yield Target(
                    entry.sha1, entry.size, Kind.FILE, entry.name if entry.size > RECIPE_ABOVE else b"", None, (index,),
                    entry.size > RECIPE_ABOVE, True,
                )  # fmt: skip
    for document in reversed(documents):
        yield Target(
            document, repository.resolve(Uri(document))[0].size, Kind.DIRECTORY, label_bytes(label) if document == sha1 else b"",
            None, (index,), document == sha1, document != sha1,
        )  # fmt: skip


def _add(plan: Plan, target: Target) -> None:
    other = plan.targets.pop(target.key, None)
    if other is not None:
        target = target._replace(
            asked=(*other.asked, *target.asked), has_recipe=target.has_recipe or other.has_recipe,
            label=target.label or other.label, is_member=target.is_member and other.is_member,
        )  # fmt: skip
    plan.targets[target.key] = target


class Split(NamedTuple):
    """small: targets that are one chunk in a pack of this store, with their roots. places: of those chunks."""

    small: list[tuple[Target, bytes]]
    places: dict[bytes, list[Location]]
    others: list[Target]


def split(repository: Repository, targets: Sequence[Target]) -> Split:
    """Tell which of a group of targets can be sent without opening them."""
    wanted = {one.sha1: one.size for one in targets if one.root is None and 0 < one.size <= CHUNK_TARGET}
    roots = repository.lookup.roots(wanted)
    places = repository.lookup.locate(roots.values())
    small: list[tuple[Target, bytes]] = []
    others: list[Target] = []
    for target in targets:
        root = roots.get(target.sha1) if target.root is None else None
        place = places.get(root) if root is not None else None
        if root is not None and place and (place[0].kind, place[0].raw_size) == (CHUNK, target.size):
            small.append((target, root))
        else:
            others.append(target)
    return Split(small, places, others)


def newest_first(entries: list[Entry], root: bytes | None) -> list[Entry]:
    """Those that name a layout, of this root if it is not None, as `Layouts` opens them: linked files come last."""
    adopted = {entry.root for entry in entries if entry.action == Action.ADOPTED}
    found = [entry for entry in entries if entry.names_layout and root in (None, entry.root)]
    return sorted(found, key=lambda entry: (entry.root not in adopted, entry.time_ns), reverse=True)


def layouts_of(repository: Repository, target: Target, *, plain: bool) -> list[tuple[Entry, Content]]:
    """The layouts to be pushed, the best first: in packs the newest, as a plain object what is read fastest in order.

    Raises NotFoundError, DamagedError.
    """
    uri = Uri(target.sha1, root=target.root)
    found = repository.readable(uri)
    if not plain:
        return found
    best = best_first(found)
    return [best, *(one for one in found if one[1].root != best[1].root)]
