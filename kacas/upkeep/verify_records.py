"""Verify, the records: every generation of every mutable, every batch of every feed, every version of the record of an access
group, and that no batch or version is missing. Who signed a version is judged by who uses the group, not here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kacas.disk.records import BEGINNING, RecordKind, Sequence, Sequences
from kacas.disk.volume import Volume
from kacas.errors import DamagedRecordError, NewerFormatError, StoreError, StrayError
from kacas.feeds import Feeds
from kacas.model.feed import BatchFormatError, decode_batch, decode_message
from kacas.model.mutable import GenerationFormatError, decode_generation
from kacas.mutables import Mutables


@dataclass(frozen=True)
class RecordProblem:
    """kind: "damaged", "newer" or "missing". record: its path in the store. uri: of the feed, "" for mutables."""

    kind: str
    record: str
    uri: str
    message: str


def check_records(volume: Volume) -> Iterator[RecordProblem | None]:
    """For each record what is wrong with it, or None."""
    sequences = Sequences(volume)
    yield from _going_on("refs", "", _check_mutables(sequences))
    yield from _going_on("feeds", "", _check_feeds(sequences))
    yield from _going_on("groups", "", _check_groups(sequences))


def _going_on(name: str, uri: str, checks: Iterator[RecordProblem | None]) -> Iterator[RecordProblem | None]:
    """A place that cannot be listed is a problem there, and what else there is is checked."""
    try:
        yield from checks
    except StoreError as exc:
        yield RecordProblem("damaged", name, uri, str(exc))


def _check_mutables(sequences: Sequences) -> Iterator[RecordProblem | None]:
    strays: list[StrayError] = []
    for key in Mutables(sequences, "").keys("", strays.append):
        sequence = sequences.sequence(f"refs/{key}", RecordKind.MUTABLE)
        yield from _going_on(sequence.name, "", _check_mutable(sequence))
    for exc in strays:
        yield RecordProblem("damaged", os.path.relpath(exc.path, sequences.volume.path), "", str(exc))


def _check_feeds(sequences: Sequences) -> Iterator[RecordProblem | None]:
    for uri, sequence in Feeds(sequences, "").all():
        yield from _going_on(sequence.name, uri, _check_chain(sequence, uri, _BatchCheck()))


def _check_groups(sequences: Sequences) -> Iterator[RecordProblem | None]:
    for name in sequences.names("groups"):
        if re.fullmatch(r"[0-9a-f]{32}", name, re.ASCII):
            sequence = sequences.sequence(f"groups/{name}", RecordKind.GROUP)
            yield from _going_on(sequence.name, "", _check_chain(sequence, "", _anything))


def _check_mutable(sequence: Sequence) -> Iterator[RecordProblem | None]:
    for number in sequence.numbers():
        try:
            record = sequence.read(number)
            if record is not None:  # pruned meanwhile
                decode_generation(record.body)
        except (DamagedRecordError, NewerFormatError, GenerationFormatError, StoreError) as exc:
            yield _problem(sequence, number, "", exc)
        else:
            yield None


class _BatchCheck:
    """Shown the bodies of a feed's records in order; None in place of one that cannot be read."""

    def __init__(self) -> None:
        self._stop: int | None = 0

    def __call__(self, body: bytes | None) -> bool:
        """Whether it follows the one before. Raises BatchFormatError."""
        before, self._stop = self._stop, None
        if body is None:
            return True
        batch = decode_batch(body)
        for message in batch.messages:
            decode_message(message)
        self._stop = batch.stop
        return before is None or batch.first == before


def _anything(body: bytes | None) -> bool:
    return True


def _check_chain(
    sequence: Sequence, uri: str, follows: Callable[[bytes | None], bool]
) -> Iterator[RecordProblem | None]:
    """Of a sequence of which nothing is removed. follows: whether the body of a record may be behind the one before."""
    numbers = sequence.numbers()
    missing = sorted(set(range(1, numbers[-1])) - set(numbers)) if numbers else []
    if missing:
        missing = sorted(
            set(missing) - set(sequence.numbers())
        )  # a listing made meanwhile may have left out the newest
    for number in missing:
        name = f"{sequence.name}/{number}"
        yield RecordProblem("missing", name, uri, f"{name} is missing; restore that file from a backup")
    before: bytes | None = BEGINNING.digest
    for number in numbers:
        if number - 1 in missing:
            before = None
            follows(None)
        try:
            record = sequence.read(number)
            if record is None:
                raise sequence.damaged(number, "a listing shows it, but it cannot be opened")
            if not follows(record.body) or before not in (None, record.previous):
                raise sequence.damaged(number, "it does not follow the one before it, or that is not what was written")
            before = record.digest
        except (DamagedRecordError, NewerFormatError, BatchFormatError, StoreError) as exc:
            before = None
            follows(None)
            yield _problem(sequence, number, uri, exc)
        else:
            yield None


def _problem(sequence: Sequence, number: int, uri: str, exc: Exception) -> RecordProblem:
    kind = "newer" if isinstance(exc, NewerFormatError) else "damaged"
    is_in_words = not isinstance(exc, BatchFormatError | GenerationFormatError)
    message = str(exc) if is_in_words else str(sequence.damaged(number, str(exc)))
    return RecordProblem(kind, f"{sequence.name}/{number}", uri, message)
