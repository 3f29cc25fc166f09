"""Whether secret bytes are in something: as they are, in hex, in base64, as Python prints them."""

from __future__ import annotations

import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from kacas_remote.sealing.epoch_keys import EpochKeys

PURPOSES = ("uri", "uri_nonce", "directory", "name", "name_nonce", "content", "ring")
ENOUGH = 24  # bytes of a secret in a row: who has them has the rest


class Leaks:
    """secrets: by what they are. `found_in` names those that are in some bytes."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._forms = [(name, form) for name, secret in secrets.items() for form in set(_forms(secret))]

    def found_in(self, data: bytes | str) -> list[str]:
        searched = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return sorted({name for name, form in self._forms if form in searched})

    def found_below(self, directory: Path, but: Iterable[Path] = ()) -> list[tuple[str, str]]:
        """In names and bytes of all files below a directory."""
        left_out = set(but)
        return [
            (name, str(path))
            for path in directory.rglob("*")
            if path not in left_out
            for name in self.found_in(path.name) + (self.found_in(path.read_bytes()) if path.is_file() else [])
        ]


def _forms(secret: bytes) -> Iterator[bytes]:
    for part in (secret[:ENOUGH], secret[-ENOUGH:]):
        yield part
        yield part.hex().encode()
        yield part.hex().upper().encode()
        yield repr(part)[2:-1].encode()
        yield ", ".join(map(str, part)).encode()
        for shift in range(3):  # base64 has three ways to begin; what hangs on the neighbours is cut off
            for encode in (b64encode, urlsafe_b64encode):
                yield encode(bytes(shift) + part)[4 if shift else 0 :].rstrip(b"=")[:-2]


def secrets_of(keys: Iterable[EpochKeys]) -> dict[str, bytes]:
    """The secrets of epochs and all keys that are made of them."""
    found = {}
    for one in keys:
        found[f"secret of epoch {one.epoch}"] = one.secret
        found |= {f"{purpose} key of epoch {one.epoch}": getattr(one, purpose) for purpose in PURPOSES}
    return found


def rendered(exception: BaseException) -> str:
    """As tools print it that show the values of variables, with all that it was caused by."""
    found = traceback.TracebackException.from_exception(exception, capture_locals=True)
    return "".join(found.format()) + repr(exception.args) + repr(vars(exception))


def rendered_error(call: Callable[[], object], *errors: type[BaseException]) -> str:
    """What a call that must fail raises, rendered. Only frames below the call are shown: a test's own variables are its own."""
    try:
        call()
    except errors as exc:
        exc.__traceback__ = exc.__traceback__.tb_next if exc.__traceback__ else None
        return rendered(exc)
    raise AssertionError("it was not refused")
