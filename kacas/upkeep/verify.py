"""Verify: read every byte of a store and say what is wrong, and which URIs it touches.

First pass: every pack, payload by payload, decoded and digested. Second pass: every content, its tree
walked and its bytes hashed to the SHA-1 that its URI promises. Then the records of mutables and feeds. Merged packs come
before what they were merged from: damage in a pack that a good one replaces touches nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kacas.content import Content
from kacas.disk.adopted import adopted_files
from kacas.disk.pack_reader import PackReader
from kacas.errors import (
    AdoptedFileError,
    DamagedContentError,
    DamagedError,
    DamagedPackError,
    ForeignPackError,
    KacasError,
    MissingPackageError,
    NewerFormatError,
)
from kacas.fetch import Fetch
from kacas.layouts import open_content
from kacas.model.codec import DecodeError, Decoder, MissingCodecError
from kacas.model.digest import new_sha1, payload_digest
from kacas.model.entry import Action, Entry, Kind
from kacas.model.location import Location
from kacas.model.merging import sources_of
from kacas.model.pack_format import (
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    Table,
    check_payload,
    decode_payload_header,
)
from kacas.model.tree import MAX_TREE_SIZE, TreeError, decode_tree
from kacas.repository import Repository
from kacas.store import Store
from kacas.upkeep.verify_records import check_records
from kacas.upkeep.verify_segments import check_segments


@dataclass(frozen=True)
class Problem:
    """kind: "damaged", "foreign", "newer", "missing", "collision", "contradicting" (a segment does not say what the tables
    say), or "adopted" (a linked file is missing, changed or unreadable; the message has its path). pack, digest: hex, ""
    where there is none. record: the path in the store of a mutable's or feed's record, or ""."""

    kind: str
    pack: str
    digest: str
    uris: tuple[str, ...]
    message: str
    record: str = ""


@dataclass
class VerifyReport:
    """packs, chunks (payloads), contents, records: how many were looked at; checked_size: payload and content bytes read.

    redundant: what is wrong with packs of which all is in a good merged pack too, and with segments, of which all is in packs;
    nothing is read from them.
    unchecked: payloads that could not be decoded, by the package that this needs and that is not installed; the checksums
    of their encoded bytes are right.
    """

    packs: int = 0
    chunks: int = 0
    contents: int = 0
    records: int = 0
    checked_size: int = 0
    problems: list[Problem] = field(default_factory=list)
    redundant: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unchecked: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """No problem found, nothing left unchecked. Orphans (leftovers of writers that died) and redundant packs hold
        nothing that a URI needs."""
        return not self.problems and not self.unchecked


def verify(store: Store, *, quick: bool = False, linked: bool = True) -> VerifyReport:
    """Check the whole store. quick: only the packs and that every tree is complete, without hashing contents.

    linked: read linked files too. Else, and when `quick`, it is only looked whether they are there, with their size.
    A linked file that is wrong is a problem if something that is kept can be loaded from nowhere else.
    What is found damaged is remembered, so that storing the content again writes a good copy.
    """
    return _Verification(store.repository, quick, linked).run()


class _Verification:
    def __init__(self, repository: Repository, quick: bool, linked: bool) -> None:
        self._repository = repository
        self._lookup = repository.lookup
        self._quick = quick
        self._linked = linked
        self._fetch = Fetch(repository.lookup, 2, room=repository.room)
        self._report = VerifyReport()
        self._entries: dict[tuple[bytes, bytes], Entry] = {}
        self._sha1s: set[bytes] = set()
        self._adopted: dict[bytes, list[Entry]] = {}
        self._cancelled: set[bytes] = set()
        self._bad: dict[bytes, list[Problem]] = {}
        self._faulty: set[bytes] = set()
        self._covered: set[bytes] = set()  # by merged packs that are good

    def run(self) -> VerifyReport:
        volume, report = self._repository.volume, self._report
        self._lookup.refresh()
        packs = sorted(volume.list_packs(), reverse=True)  # merged ones before what they cover
        report.orphans = volume.list_orphans()
        total = sum(map(volume.pack_size, packs))
        done = 0
        for pack_id in packs:
            done += self._check_pack(pack_id)
            self._repository.report_progress("checking packs", done, total)
        self._report.problems += [problem for problems in self._bad.values() for problem in problems]
        for segment_kind, message in check_segments(volume, self._lookup):
            problems = report.problems if segment_kind == "contradicting" else report.redundant
            problems.append(Problem(segment_kind, "", "", (), message))
        self._lookup.refresh()  # nothing new relies on packs that were found damaged
        self._check_contents()
        for found in check_records(volume):
            report.records += found is None or found.kind != "missing"
            if found is not None:
                uris = (found.uri,) if found.uri else ()
                report.problems.append(Problem(found.kind, "", "", uris, found.message, found.record))
        return report

    # --- packs ------------------------------------------------------------------------------

    def _check_pack(self, pack_id: bytes) -> int:
        self._lookup.packs.forget(pack_id)  # what is on the disk now, not what we have open
        try:
            reader = self._lookup.packs.get(pack_id)
        except FileNotFoundError:
            return 0  # collected meanwhile
        except DamagedPackError as exc:
            self._pack_problem(pack_id, exc)
            return 0
        self._report.packs += 1
        try:
            table = reader.read_table()
            # An entry of a damaged table is believed by nobody.
            entries = list(table.entries())
        except (DamagedPackError, NewerFormatError, PackFormatError) as exc:
            self._lookup.packs.forget(pack_id)
            if pack_id not in self._covered:
                self._lookup.tables.read_whole(pack_id)  # remembers the problem
            self._pack_problem(pack_id, exc if isinstance(exc, KacasError) else reader.damage(str(exc)))
            return reader.size
        for entry in entries:
            if entry.names_layout:
                self._entries.setdefault((entry.sha1, entry.root), entry)
            elif entry.action == Action.ADOPTED:
                self._adopted.setdefault(entry.sha1, []).append(entry)
            elif entry.action == Action.FORGET:
                self._cancelled.update(entry.cancels)
        with ThreadPoolExecutor(2, "kacas-verify") as pool:
            rows = list(_locations(table, pack_id))
            for problems, unchecked in pool.map(
                lambda part: self._check_payloads(reader, part), [rows[0::2], rows[1::2]]
            ):
                for package, count in unchecked.items():
                    self._report.unchecked[package] = self._report.unchecked.get(package, 0) + count
                for digest, message, location in problems:
                    self._lookup.mark_damaged(digest, location)
                    self._note(pack_id, Problem("damaged", pack_id.hex(), digest.hex(), (), message))
        self._check_gaps(reader, table)
        self._check_sources(reader, table, {entry.entry_id for entry in entries})
        self._report.chunks += len(table.records)
        self._report.checked_size += reader.size
        return reader.size

    def _pack_problem(self, pack_id: bytes, exc: KacasError) -> None:
        kind = {ForeignPackError: "foreign", NewerFormatError: "newer"}.get(type(exc), "damaged")
        self._note(pack_id, Problem(kind, pack_id.hex(), "", (), str(exc)))

    def _note(self, pack_id: bytes, problem: Problem) -> None:
        self._faulty.add(pack_id)
        if pack_id in self._covered:
            self._report.redundant.append(problem)
        elif problem.digest:
            self._bad.setdefault(bytes.fromhex(problem.digest), []).append(problem)
        else:
            self._report.problems.append(problem)

    def _check_payloads(
        self, reader: PackReader, rows: list[tuple[bytes, Location]]
    ) -> tuple[list[tuple[bytes, str, Location]], Counter[str]]:
        """Every payload read, its checksum, sizes and digest compared. Returns (digest, what is wrong, where), and how many
        could not be decoded, by package."""
        decoder = Decoder()
        bad = []
        unchecked: Counter[str] = Counter()
        for digest, location in rows:
            try:
                _check_payload(reader, digest, location, decoder)
            except DamagedPackError as exc:
                bad.append((digest, str(exc), location))
            except MissingCodecError as exc:
                unchecked[exc.package] += 1
            except (PackFormatError, DecodeError) as exc:
                bad.append((digest, str(reader.damage(str(exc), digest=digest)), location))
        return bad, unchecked

    def _check_gaps(self, reader: PackReader, table: Table) -> None:
        """Payloads must follow one another: a byte that belongs to none is unaccounted for."""
        footer = reader.read_footer()
        at = HEADER_SIZE
        for _, location in sorted(_locations(table, reader.pack_id), key=lambda row: row[1].offset):
            if location.offset != at:
                break
            at = location.stop
        if at != footer.table_offset:
            self._pack_problem(reader.pack_id, reader.damage(f"bytes from {at} on belong to no payload"))

    def _check_sources(self, reader: PackReader, table: Table, entry_ids: set[bytes]) -> None:
        """All that its sources hold must be in a merged pack: nobody looks into them any more."""
        sources = sources_of(table)
        digests = set(table.records["digest"].tolist()) if sources else set()
        for source in sorted(sources & self._repository.volume.list_packs()) if sources else ():
            try:
                held = self._lookup.packs.get(source).read_table()
                held_ids = {entry.entry_id for entry in held.entries()}
            except (FileNotFoundError, DamagedPackError, NewerFormatError, PackFormatError):
                continue  # it is checked by itself
            if not (digests.issuperset(held.records["digest"].tolist()) and entry_ids >= held_ids):
                lack = f"it does not hold all of pack {source.hex()}.pack, which it says it does; move it out of packs/"
                self._pack_problem(reader.pack_id, reader.damage(lack))
        if reader.pack_id not in self._faulty:
            self._covered |= sources

    # --- contents ---------------------------------------------------------------------------

    def _check_contents(self) -> None:
        progress = self._repository.report_progress
        self._sha1s = {sha1 for sha1, _ in self._entries}
        total = sum(entry.size for entry in self._entries.values())
        done = 0
        for entry in self._entries.values():
            uri = entry.uri
            links = self._adopted.get(entry.sha1, [])
            try:
                content = open_content(self._fetch, entry.root, entry.size, adopted_files(links, entry.size))
                self._check_content(content, entry, uri, lambda at: progress("checking contents", done + at, total))  # noqa: B023
                if entry.kind == Kind.DIRECTORY:
                    self._check_members(content, uri)
            except NewerFormatError as exc:
                self._report.problems.append(Problem("newer", exc.pack, "", (uri,), f"{uri}: {exc}"))
            except MissingPackageError as exc:
                self._report.unchecked.setdefault(exc.package, 0)  # its payloads were counted with their pack
            except AdoptedFileError as exc:
                # Whoever forgot what he had linked may delete the file.
                if any(link.entry_id not in self._cancelled for link in links):
                    self._report.problems.append(Problem("adopted", "", "", (uri,), str(exc)))
            except DamagedError as exc:
                pack = exc.pack if isinstance(exc, DamagedPackError) else ""
                digest = str(getattr(exc, "digest", ""))
                kind = "damaged" if pack else "missing"
                self._report.problems.append(Problem(kind, pack, digest, (uri,), f"{uri} cannot be loaded: {exc}"))
            self._report.contents += 1
            done += entry.size

    def _check_content(self, content: Content, entry: Entry, uri: str, progress: Callable[[int], None]) -> None:
        if self._quick or (content.adopted is not None and not self._linked):
            self._look_at(content)
            return
        sha1 = new_sha1()
        done = 0
        for part in content.windows():
            sha1.update(part)
            done += len(part)
            progress(done)
        self._report.checked_size += content.size
        if sha1.digest() != entry.sha1:
            self._report.problems.append(
                Problem("damaged", "", entry.root.hex(), (uri,), f"{uri}: its bytes have the SHA-1 {sha1.hexdigest()}")
            )

    def _check_members(self, content: Content, uri: str) -> None:
        """Everything that a directory names must be known; whether it can be loaded is checked by itself."""
        if content.size > MAX_TREE_SIZE:
            return
        document = bytearray(content.size)
        content.read_into(0, memoryview(document))
        try:
            entries = decode_tree(bytes(document))
        except TreeError:
            return  # the kind is a hint: whoever wrote it may have meant something else
        for entry in entries:
            if entry.sha1 and entry.sha1 not in self._sha1s:
                what = f"{uri} holds {entry.text!r}, of which no pack knows: sha1://{entry.sha1.hex()}"
                self._report.problems.append(Problem("missing", "", "", (uri,), f"{what}; store the directory again"))

    def _look_at(self, content: Content) -> None:
        """Whether every part is there, by what the index and the files' sizes say."""
        gone: AdoptedFileError | None = None
        if content.adopted is not None:
            try:
                content.adopted.check()
            except AdoptedFileError as exc:
                gone = exc
        elsewhere = content.adopted is not None and gone is None
        for child in content.chunks():
            if not elsewhere and self._fetch.find_payload(child.digest) is None:
                missing = DamagedContentError(f"chunk {child.digest.hex()} is in no pack", digest=child.digest.hex())
                raise gone or missing


def _locations(table: Table, pack_id: bytes) -> Iterator[tuple[bytes, Location]]:
    for digest, offset, payload_size, raw_size, parameters_size, kind, codec, _ in table.records.tolist():
        yield digest, Location(pack_id, offset, payload_size, raw_size, parameters_size, kind, codec)


def _check_payload(reader: PackReader, digest: bytes, location: Location, decoder: Decoder) -> None:
    data = bytearray(location.stop - location.offset)
    reader.read_into(memoryview(data), location.offset)
    view = memoryview(data)
    header = decode_payload_header(view)
    said = (header.digest, header.kind, header.codec, header.payload_size, header.raw_size, len(header.parameters))
    expected = (
        digest, location.kind, location.codec, location.payload_size, location.raw_size, location.parameters_size,
    )  # fmt: skip
    if said != expected:
        raise PackFormatError("its header and the table disagree")
    payload = view[PAYLOAD_HEADER_SIZE + location.parameters_size :]
    check_payload(header, view, payload)
    raw = memoryview(bytearray(header.raw_size))
    decoder.decode_into(header.codec, header.parameters, payload, raw)
    try:
        if payload_digest(header.kind, raw) != digest:
            raise PackFormatError("its bytes do not have the digest that they are stored under")
    except PackFormatError:
        raise
    except ValueError as exc:
        raise PackFormatError(str(exc)) from exc
