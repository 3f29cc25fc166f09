"""A version of a group's record: its exact text, and who signed it. Pure.

Two lines of ASCII. The first is canonical JSON: keys in order, no blanks, all binary fields in lower-case hex. The second is
the Ed25519 signature of the domain and the first line, in hex. There is one text for what a version says, and no other is taken.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from blake3 import blake3

from kacas_remote.sealing.epoch_keys import GROUP_ID_SIZE, MAX_EPOCHS, SCHEME
from kacas_remote.sealing.wrapping import BOX_SIZE, is_identity, ring_size
from kacas_remote.signing import KEY_SIZE, SIGNATURE_SIZE, PrivateKey, Signature, is_signed, sign

RECORD_FORMAT = 1
MAX_VERSION_SIZE = 1 << 20  # bytes
MAX_MEMBERS = 2000
MAX_VERSIONS = 99_999_999
DIGEST_SIZE = 32
SALT_SIZE = 16
NO_DIGEST = bytes(DIGEST_SIZE)
_DOMAIN = b"kacas 2026-11 group record v1\0"  # fixed for ever
_ID_CONTEXT = "kacas 2026-11 access group id v1"  # fixed for ever
_HEX = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_ID = re.compile(r"ag_([0-9a-f]{32})", re.ASCII)
_FIELDS = (
    "commitment", "epoch", "format", "group", "members", "name", "previous", "ring", "salt", "scheme", "signer", "time",
    "version",
)  # fmt: skip
_MEMBER_FIELDS = ("admin", "box", "key", "name")


class RecordFormatError(ValueError):
    """A text that is no version of a group's record; the message says why. number: of the version, 0 if that is not known."""

    number = 0


class NewerRecordError(RecordFormatError):
    """Of a format or scheme that is not known here. needed: the format that must be understood."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Member:
    """key: Ed25519 public key. name: what the admins call them, unique in the group. box: the newest secret, for them alone."""

    key: bytes
    name: str
    admin: bool
    box: bytes


@dataclass(frozen=True)
class Version:
    """What one version says. members: by their keys, rising. ring: the secrets of all epochs before. commitment: of the
    epoch's keys. time: UTC, by the signer's clock, for people only. previous: digest of the version before, zeros for the first.
    signer: public key of the admin who made it. signature: 64 bytes.
    """

    group_id: bytes
    salt: bytes
    name: str
    number: int
    previous: bytes
    epoch: int
    members: tuple[Member, ...]
    ring: bytes
    commitment: bytes
    time: str
    signer: bytes
    signature: bytes = bytes(SIGNATURE_SIZE)

    def member(self, key: bytes) -> Member | None:
        return next((one for one in self.members if one.key == key), None)

    @property
    def admins(self) -> tuple[Member, ...]:
        return tuple(one for one in self.members if one.admin)

    def is_admin(self, key: bytes) -> bool:
        member = self.member(key)
        return member is not None and member.admin

    @cached_property
    def line(self) -> bytes:
        """The first line, without its end."""
        members = [
            {"admin": one.admin, "box": one.box.hex(), "key": one.key.hex(), "name": one.name} for one in self.members
        ]
        record = {
            "commitment": self.commitment.hex(),
            "epoch": self.epoch,
            "format": RECORD_FORMAT,
            "group": group_text(self.group_id),
            "members": members,
            "name": self.name,
            "previous": self.previous.hex(),
            "ring": self.ring.hex(),
            "salt": self.salt.hex(),
            "scheme": SCHEME,
            "signer": self.signer.hex(),
            "time": self.time,
            "version": self.number,
        }
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    @cached_property
    def text(self) -> bytes:
        """The version's bytes. `decode_version` is the inverse."""
        return self.line + b"\n" + self.signature.hex().encode("ascii") + b"\n"

    @cached_property
    def digest(self) -> bytes:
        """BLAKE3 of its bytes, signature and all: the next version names it."""
        return blake3(self.text).digest()


def group_text(group_id: bytes) -> str:
    return f"ag_{group_id.hex()}"


def parse_group(text: str) -> bytes | None:
    """The inverse of `group_text`; None for what is no id."""
    match = _ID.fullmatch(text)
    return bytes.fromhex(match[1]) if match else None


def is_name(text: str) -> bool:
    """Whether a group or a member can be called so: letters, digits and . _ @ -, at most 64, none of the signs first."""
    return _NAME.fullmatch(text) is not None


def group_id_of(founder: bytes, salt: bytes) -> bytes:
    """16 bytes, made of the key of whoever signs the first version: nobody else can make another one for this id."""
    return blake3(founder + salt, derive_key_context=_ID_CONTEXT).digest(GROUP_ID_SIZE)


def time_text(seconds: float) -> str:
    """seconds: since 1970."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def signed(version: Version, key: PrivateKey) -> Version:
    """The same, signed by its signer. Raises RecordFormatError for what could not be read back."""
    return decode_version(replace(version, signature=sign(key, _DOMAIN + version.line).signature).text)


def decode_version(text: bytes) -> Version:
    """A version whose signature is that of its signer; whether the signer may, the chain says.

    Raises RecordFormatError, NewerRecordError.
    """
    if len(text) > MAX_VERSION_SIZE:
        raise RecordFormatError(f"it has more than {MAX_VERSION_SIZE} bytes")
    lines = text.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise RecordFormatError("it is not two lines")
    record = _parsed(lines[0])
    try:
        found = _version(record, _hex(lines[1].decode("ascii"), SIGNATURE_SIZE, "signature"))
    except (KeyError, TypeError, UnicodeDecodeError) as exc:
        raise RecordFormatError(f"a field is of another kind ({exc})") from exc
    if found.text != text:
        raise RecordFormatError("it is not written as kacas writes it")
    if not is_signed(_DOMAIN + lines[0], Signature(found.signer, found.signature)):
        raise RecordFormatError("its signature is not that of its signer")
    return found


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as exc:
        raise RecordFormatError("its first line is no JSON") from exc
    if not isinstance(record, dict):
        raise RecordFormatError("its first line is no record")
    version, scheme = record.get("format"), record.get("scheme")
    if type(version) is int and version > RECORD_FORMAT:
        raise NewerRecordError(f"it has format {version}, this kacas reads up to {RECORD_FORMAT}", version)
    if version == RECORD_FORMAT and isinstance(scheme, str) and scheme != SCHEME:
        raise NewerRecordError(f"it has the scheme {scheme[:80]!r}, this kacas knows {SCHEME}", RECORD_FORMAT + 1)
    if tuple(sorted(record)) != _FIELDS:
        raise RecordFormatError("it has other fields than a record has")
    return record


def _version(record: dict[str, Any], signature: bytes) -> Version:
    group_id = parse_group(_text(record["group"], "group"))
    if group_id is None:
        raise RecordFormatError("its group is no id of a group")
    epoch = _number(record["epoch"], MAX_EPOCHS, "epoch")
    return Version(
        group_id=group_id,
        salt=_hex(record["salt"], SALT_SIZE, "salt"),
        name=_named(record["name"], "name"),
        number=_number(record["version"], MAX_VERSIONS, "version"),
        previous=_hex(record["previous"], DIGEST_SIZE, "previous"),
        epoch=epoch,
        members=_members(record["members"]),
        ring=_hex(record["ring"], ring_size(epoch), "ring"),
        commitment=_hex(record["commitment"], DIGEST_SIZE, "commitment"),
        time=_time(record["time"]),
        signer=_hex(record["signer"], KEY_SIZE, "signer"),
        signature=signature,
    )


def _members(rows: Any) -> tuple[Member, ...]:
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_MEMBERS:
        raise RecordFormatError(f"it has no members, or more than {MAX_MEMBERS}")
    members = tuple(map(_member, rows))
    if any(before.key >= after.key for before, after in itertools.pairwise(members)):
        raise RecordFormatError("its members are not in order, or one is there twice")
    if len({one.name for one in members}) < len(members):
        raise RecordFormatError("two of its members have one name")
    if not any(one.admin for one in members):
        raise RecordFormatError("it has no admin")
    return members


def _member(row: Any) -> Member:
    if not isinstance(row, dict) or tuple(sorted(row)) != _MEMBER_FIELDS or type(row["admin"]) is not bool:
        raise RecordFormatError("a member has other fields than members have")
    key = _hex(row["key"], KEY_SIZE, "key of a member")
    if not is_identity(key):
        raise RecordFormatError("the key of a member is none that secrets can be wrapped for")
    return Member(key, _named(row["name"], "name of a member"), row["admin"], _hex(row["box"], BOX_SIZE, "box"))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RecordFormatError(f"its {what} is no text")
    return value


def _named(value: Any, what: str) -> str:
    if not is_name(_text(value, what)):
        raise RecordFormatError(f"its {what} is none that can be had")
    return str(value)


def _hex(value: Any, size: int, what: str) -> bytes:
    if len(_text(value, what)) != 2 * size or not _HEX.fullmatch(value):
        raise RecordFormatError(f"its {what} is not {size} bytes in lower-case hex")
    return bytes.fromhex(value)


def _number(value: Any, most: int, what: str) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise RecordFormatError(f"its {what} is no number from 1 to {most}")
    return value


def _time(value: Any) -> str:
    try:
        if _TIME.fullmatch(_text(value, "time")):
            datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")
            return str(value)
    except ValueError:
        pass  # the 30th of February
    raise RecordFormatError("its time is no time in UTC")


def in_order(members: Sequence[Member]) -> tuple[Member, ...]:
    """As they are written."""
    return tuple(sorted(members, key=lambda one: one.key))
