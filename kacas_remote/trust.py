"""Trust: whose word is taken for the root of a SHA-1, before all of the content was read here.

~/.config/kacas/trust.toml    publishers by the names that this user gave them
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kacas.errors import InvalidSettingError
from kacas.settings import identity_file
from kacas_remote import identity
from kacas_remote.errors import UntrustedError
from kacas_remote.own_file import change_file
from kacas_remote.signing import Signature, is_signed, parse_publisher, publisher_text, statement

TRUST_FORMAT = 1
_MAX_SIZE = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


class Claimed(Protocol):
    """What somebody says of a SHA-1: the head of a recipe, for example."""

    @property
    def sha1(self) -> bytes: ...
    @property
    def root(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def signatures(self) -> tuple[Signature, ...]: ...


@dataclass(frozen=True)
class Trust:
    """publishers: their names by their keys. own: the user's own key, which is always trusted; None if there is none."""

    publishers: Mapping[bytes, str]
    own: bytes | None = None

    @classmethod
    def of_user(cls, environment: Mapping[str, str] | None = None) -> Trust:
        """What this user's files say. Raises InvalidSettingError."""
        return cls(read_publishers(trust_file(environment)), identity.own_public(environment))

    def is_trusted(self, publisher: bytes) -> bool:
        return publisher == self.own or publisher in self.publishers

    def voucher(self, claim: Claimed) -> bytes | None:
        """A trusted publisher who signed it; None if there is none."""
        message = statement(claim.sha1, claim.root, claim.size, claim.kind)
        for signature in claim.signatures:
            if self.is_trusted(signature.publisher) and is_signed(message, signature):
                return signature.publisher
        return None


def untrusted(claim: Claimed, remote: str, uri: str) -> UntrustedError:
    """The error for a part of content that nobody vouches for. remote: its name. uri: what was asked for."""
    message = statement(claim.sha1, claim.root, claim.size, claim.kind)
    signers = [publisher_text(one.publisher) for one in claim.signatures if is_signed(message, one)]
    who = f"signed by {', '.join(signers[:3])}, whom you do not trust" if signers else "signed by nobody"
    trusting = (
        f"trust the publisher: kacas trust add NAME {signers[0]}" if signers else "let somebody you trust push it"
    )
    return UntrustedError(
        f"a part of {uri} cannot be checked against its SHA-1, and its recipe in the remote {remote} is "
        f"{who}. Fetch all of it, which is checked: kacas pull {uri}; or {trusting}; or, if everybody "
        f"who can write to that remote is to be believed: kacas remote add {remote} --trusted"
    )


def trust_file(environment: Mapping[str, str] | None = None) -> Path:
    return identity_file(environment).with_name("trust.toml")


def read_publishers(path: Path) -> dict[bytes, str]:
    """Names by keys; none if there is no file. Raises InvalidSettingError."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise ValueError("it is too large")
        table = tomllib.loads(data.decode("utf-8"))
        if table.get("format") != TRUST_FORMAT:
            raise ValueError(f"it has format {table.get('format')!r}, this kacas knows {TRUST_FORMAT}")
        return {parse_publisher(str(key)): str(name) for name, key in dict(table.get("publishers", {})).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise InvalidSettingError(f"{path} cannot be read: {exc}; correct it or move it away") from exc


def add_publisher(path: Path, name: str, publisher: bytes) -> None:
    """Trust a publisher under a name. Raises InvalidSettingError, also if the name is another publisher's."""
    if not _NAME.fullmatch(name):
        raise InvalidSettingError(
            f"{name[:80]!r} is no name for a publisher: letters, digits and . _ @ -, at most 64, none of the signs first"
        )

    def added() -> str:
        there = read_publishers(path)
        if name in (called for key, called in there.items() if key != publisher):
            raise InvalidSettingError(
                f"{name!r} is another publisher; remove that one first: kacas trust remove {name}"
            )
        return _render({**there, publisher: name})

    change_file(path, added)


def remove_publisher(path: Path, name_or_key: str) -> bytes:
    """Trust a publisher no more. Returns its key. Raises InvalidSettingError if there is none of that name or key."""
    removed: list[bytes] = []

    def without() -> str:
        there = read_publishers(path)
        for publisher, name in there.items():
            if name_or_key.strip() in (name, publisher_text(publisher)):
                removed.append(publisher)
                return _render({key: called for key, called in there.items() if key != publisher})
        raise InvalidSettingError(f"{name_or_key[:100]!r} is no publisher that you trust; see: kacas trust list")

    change_file(path, without)
    return removed[0]


def _render(publishers: Mapping[bytes, str]) -> str:
    lines = [f'"{name}" = "{publisher_text(key)}"' for key, name in _by_name(publishers.items())]
    return (
        "# Publishers whom you trust: what they sign is believed before all of it was read. See: kacas trust\n"
        f"format = {TRUST_FORMAT}\n\n[publishers]\n" + "".join(f"{line}\n" for line in lines)
    )


def _by_name(items: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    return sorted(items, key=lambda item: item[1])
