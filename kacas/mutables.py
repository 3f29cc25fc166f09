"""Mutables: text under a key that may be set anew, kept in the store as a sequence of generations.

Every change is a new record, deleting too. Of many who change a mutable at once, each goes on from what it has seen, so
compare-and-set needs no lock and no server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from kacas.disk.records import BEGINNING, NO_DIGEST, Mark, Record, RecordKind, Sequence, Sequences, behind_damage
from kacas.errors import DamagedRecordError, MutableConflictError, MutableNotFoundError, StrayError
from kacas.model.description import MutableChange
from kacas.model.mutable import (
    Generation,
    GenerationFormatError,
    check_folder,
    check_key,
    check_value,
    decode_generation,
)

_TOP = "refs"
_KEPT = 100  # generations, whatever their age
_PRUNE_EVERY = 64


class Anything(Enum):
    """ANYTHING as an expected value: whatever is there, or nothing."""

    ANYTHING = "anything"

    def __repr__(self) -> str:
        return "ANYTHING"


ANYTHING: Final = Anything.ANYTHING


class Mutables:
    """All mutables of one store. Thread-safe."""

    def __init__(self, sequences: Sequences, owner: str) -> None:
        self._sequences = sequences
        self._owner = owner

    def set(self, key: str, value: str, expect: str | Anything | None) -> None:
        """Set it, if it is what was expected: a value, None for "not there", or ANYTHING.

        Raises MutableConflictError, InvalidKeyError, UnsupportedDataError, DamagedRecordError (not with ANYTHING), StoreError.
        """
        self._change(check_key(key), check_value(value), expect)

    def get(self, key: str) -> str:
        """Raises MutableNotFoundError, InvalidKeyError, DamagedRecordError, NewerFormatError, StoreError."""
        newest = self._sequence(check_key(key)).newest()
        value = None if newest is None else self._generation(key, newest).value
        if value is None:
            raise MutableNotFoundError(f"there is no mutable {key!r} in {self._sequences.volume.path}", key=key)
        return value

    def delete(self, key: str, expect: str | Anything | None) -> bool:
        """Delete it; False if it was not there. Raises as `set`."""
        return self._change(check_key(key), None, expect)

    def delete_folder(self, folder: str) -> int:
        """Delete all that are below a folder, one by one. Returns how many there were."""
        return sum(self._change(key, None, ANYTHING) for key in self.list(folder))

    def list(self, folder: str) -> list[str]:
        """The keys of all that are below a folder and not deleted, sorted; "" is the folder of all.

        One whose newest record is damaged is among them: `get` tells what is wrong with it. What does not belong there is not.
        """
        return sorted(key for key in self.keys(check_folder(folder)) if self._is_there(key))

    def history(self, key: str) -> Iterator[MutableChange]:
        """What was set and deleted, newest first, as far back as it is kept. Raises as `get`, when it comes to it."""
        sequence = self._sequence(check_key(key))
        record = sequence.newest()
        numbers = set(sequence.numbers())
        while record is not None:
            generation = self._generation(key, record)
            yield MutableChange(record.number, generation.value, record.time / 1e9, generation.owner)
            if record.previous == NO_DIGEST or record.number - 1 not in numbers:
                return
            older = sequence.read(record.number - 1)
            # One that does not lead to the next was written by somebody who knew no better, and never counted.
            record = older if older is not None and older.digest == record.previous else None

    def _change(self, key: str, value: str | None, expect: str | Anything | None) -> bool:
        """False if there was nothing to delete."""
        sequence = self._sequence(key)
        body = Generation(value, self._owner).encode()
        for _ in sequence.attempts():
            after, found = self._look(key, sequence, expect)
            if value is None and found is None:
                return False
            record = sequence.create(after, body)
            if record is not None:
                if record.number % _PRUNE_EVERY == 0:
                    sequence.prune(_KEPT, record)
                return True
        raise AssertionError("attempts end by raising")

    def _look(self, key: str, sequence: Sequence, expect: str | Anything | None) -> tuple[Mark, str | Anything | None]:
        """What the next generation follows, and the value there is: ANYTHING if it cannot be read."""
        try:
            newest = sequence.newest()
            found = None if newest is None else self._generation(key, newest).value
        except DamagedRecordError as exc:
            if expect is not ANYTHING:
                raise
            return behind_damage(exc.number), ANYTHING  # whoever sets it anew, whatever it was, heals it
        if expect is not ANYTHING and found != expect:
            raise MutableConflictError(
                f"the mutable {key!r} {'is not there' if found is None else f'has the value {_shown(found)}'}, where "
                f"{'none' if expect is None else _shown(expect)} was expected: somebody changed it. Get it, and try again",
                key=key,
                expected=expect,
                found=found,
            )
        return (BEGINNING if newest is None else newest.mark), found

    def _sequence(self, key: str) -> Sequence:
        return self._sequences.sequence(f"{_TOP}/{key}", RecordKind.MUTABLE)

    def _generation(self, key: str, record: Record) -> Generation:
        try:
            return decode_generation(record.body)
        except GenerationFormatError as exc:
            raise self._sequence(key).damaged(record.number, str(exc)) from exc

    def _is_there(self, key: str) -> bool:
        try:
            newest = self._sequence(key).newest()
            return newest is not None and self._generation(key, newest).value is not None
        except DamagedRecordError:
            return True
        except StrayError:
            return False

    def keys(self, folder: str, strays: Callable[[StrayError], object] = lambda _: None) -> Iterator[str]:
        """All that ever had a value and are below the folder, and strays among them. strays: told of what is no folder.

        Raises StrayError if the folder itself is none.
        """
        folders, asked = [folder], folder
        while folders:
            folder = folders.pop()
            try:
                names = self._sequences.names(f"{_TOP}/{folder}" if folder else _TOP)
            except StrayError as exc:
                if folder == asked:
                    raise
                strays(exc)
                continue
            for name in names:
                path = f"{folder}/{name}" if folder else name
                if name.startswith("@"):
                    folders.append(path)  # as deep as anybody made them
                elif not name.startswith("."):
                    yield path


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
