"""A remote: a bucket, or a web server, that is known by a name, and the id that it has.

kacas-remote.json    {"format": 1, "id": "<32 hex>", "created": "<UTC>"}; created once, by the first push. That of a private
                     remote is sealed, as all else; see sealing/private_marker.py for the one that everybody sees there.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kacas.errors import NewerFormatError, SizeLimitError
from kacas.settings import Settings
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.configuration import RemoteConfiguration, read_remotes, remote_named
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError, InvalidRemoteError, NotSupportedError
from kacas_remote.groups import keys_of
from kacas_remote.layout import MARKER
from kacas_remote.opening import open_bucket, packages_for
from kacas_remote.sealing.private_marker import private_group
from kacas_remote.unmarked import has_packs, ids_in_packs

REMOTE_FORMAT = 1
_MOST = 16 << 10  # bytes of the marker


@dataclass
class _Known:
    """What was read of a remote last: it changes only where a bucket is emptied and made anew."""

    remote_id: bytes | None = None


class Remote:
    """A bucket by its name. Opening it asks nothing of the service; picklable and safe after fork as its blobs are."""

    def __init__(self, name: str, blobs: BlobStore, configuration: RemoteConfiguration | None = None) -> None:
        self.name = name
        self.blobs = blobs
        self.configuration = configuration or RemoteConfiguration(name, "memory://")
        self._by_configuration = False
        self._known = _Known()

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials are not pickled: each process, on its host, finds its own.
        return _unpickled, (self.name, self.configuration, None if self._by_configuration else self.blobs)

    def __repr__(self) -> str:
        return f"Remote({self.name!r}, {self.blobs.name!r})"

    @property
    def address(self) -> str:
        """URL and endpoint: under them this host keeps what it knows of the bucket. Not under the id, which costs a round trip,
        and which a copy of the bucket has, too, or a bucket that poses as this one."""
        return f"{self.blobs.name} {self.configuration.endpoint}".rstrip()

    @property
    def remote_id(self) -> bytes:
        """16 bytes: the store id in its packs. One round trip, once.

        A bucket without a marker, as kachery-cloud fills it, or a web server, has one made of its URL, until it has a marker.
        Raises NewerFormatError, DamagedRemoteError, or as `get`.
        """
        found = self._known.remote_id or self.look()
        return found or hashlib.sha256(b"kacas remote " + self.blobs.name.encode()).digest()[:16]

    @property
    def marked(self) -> bool:
        """Whether it has a marker: whether anything of kacas may be in it. One round trip, until there is one."""
        return self._known.remote_id is not None or self.look() is not None

    def check_open(self) -> None:
        """Raises InvalidRemoteError if all of it is sealed, and it was not added so. One round trip, until it has a marker."""
        if not self.configuration.private:
            self.marked  # noqa: B018

    def bucket(self) -> BlobStore:
        """Its blobs as they lie there, which are sealed if it is private. Raises then as `SealedBlobs.check`."""
        if not self.configuration.private:
            return self.blobs
        from kacas_remote.blobs.sealed import bucket_of

        return bucket_of(self.blobs)

    def check_writable(self, what: str) -> None:
        """what: would be done there, as in "pushed to it". Raises NotSupportedError if this user only reads there."""
        if not self.configuration.writable:
            raise NotSupportedError(
                f"remote {self.name} can only be read: nothing can be {what}; name another one", path=self.blobs.name
            )

    def check_plain(self) -> None:
        """Raises NotSupportedError if no plain objects can be there."""
        if self.configuration.private:
            raise NotSupportedError(
                f"remote {self.name} is private to the group {self.configuration.private}: it has no plain objects, which are for "
                "who has no key. Push without --plain, or what all may see to a remote that is not private",
                path=self.blobs.name,
            )

    def through(self, blobs: BlobStore) -> Remote:
        """The same remote, asked through other blobs, as such that count."""
        remote = Remote(self.name, blobs, self.configuration)
        remote._known = self._known
        return remote

    def mark(self) -> bytes:
        """Make it a remote of kacas, before the first push; of several who do so at once one makes the id. Returns the id.

        Raises DamagedRemoteError as `check_marked`.
        """
        if not self.marked:
            self.check_marked()
            self._put_marker(secrets.token_bytes(16))
        return self.remote_id

    def check_marked(self) -> None:
        """Raises DamagedRemoteError if packs are there and no marker: under a new id nobody would believe them.

        Nor is it put back by itself: somebody may be emptying the bucket just now, and delete what is counted on.
        """
        # The marker once more: who made it, and pushed, since it was looked for first?
        if not self.marked and has_packs(self.blobs) and self.look() is None:
            raise DamagedRemoteError(
                f"{self.blobs.name}: packs are there, but the marker {MARKER}, by whose id they are believed, is gone. If somebody "
                f"is emptying the bucket, try again when that is done; else `kacas remote mark {self.name}` puts it back"
            )

    def mark_again(self, chosen: bytes | None = None) -> bytes:
        """Put back a marker that is gone, with the id that the packs name; if they name several, the one that is chosen.

        Returns the id. Raises DamagedRemoteError if packs name none, or several.
        """
        if self.marked:
            return self.remote_id
        named = ids_in_packs(self.blobs)
        ids = [chosen] if chosen is not None and chosen in named else list(named)
        if len(ids) == 1:
            self._put_marker(ids[0])
            return self.remote_id
        if not ids:
            raise DamagedRemoteError(
                f"{self.blobs.name}: no pack names an id. Those that are there are damaged: delete them; a push makes a marker then"
            )
        listed = ", ".join(f"{one.hex()} ({count})" for one, count in named.most_common())
        raise DamagedRemoteError(
            f"{self.blobs.name}: its packs are those of several remotes: {listed}. Choose with --id whose count from now on; "
            "`kacas remote verify` names the others then"
        )

    def _put_marker(self, remote_id: bytes) -> None:
        created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        marker = {"format": REMOTE_FORMAT, "id": remote_id.hex(), "created": created}
        data = (json.dumps(marker) + "\n").encode("ascii")
        if self.blobs.put_if_absent(MARKER, data):
            self._known.remote_id = remote_id

    def look(self) -> bytes | None:
        """Read the marker again: the id in it, which counts from now on; None if there is none. One round trip.

        A Remote may live for days, and the bucket be emptied, or made private, meanwhile. Raises as `remote_id`, and
        InvalidRemoteError if all of it is sealed, and it was not added so.
        """
        where = f"{self.blobs.name}: {MARKER}"
        try:
            data = self.blobs.get(MARKER, _MOST)
        except BlobNotFoundError:
            self._known.remote_id = None
            return None
        except SizeLimitError as exc:
            raise DamagedRemoteError(f"{where} is too large for a marker of kacas; is the URL right?") from exc
        self._known.remote_id = parse_marker(data, where)
        return self._known.remote_id

    def close(self) -> None:
        """Release connections. It may be used again."""
        self.blobs.close()


def parse_marker(data: bytes, where: str) -> bytes:
    """The id in a marker. Raises NewerFormatError, DamagedRemoteError, InvalidRemoteError if it says that all is sealed."""
    if (private := private_group(data)) is not None:
        raise InvalidRemoteError(
            f"{where} says that this remote is private to the access group {private[0]}: what is there is sealed. Its members add "
            "it so: kacas remote add NAME URL --private GROUP (after kacas remote remove NAME, if it was added without)"
        )
    try:
        marker = json.loads(data.decode("utf-8"))
        version, remote_id = marker["format"], marker.get("id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DamagedRemoteError(
            f"{where} is not what kacas writes; if the URL is that of a bucket of kacas, restore it from a mirror"
        ) from exc
    if isinstance(version, int) and version > REMOTE_FORMAT:
        raise NewerFormatError(
            f"{where} has format {version}, this kacas reads up to {REMOTE_FORMAT}; upgrade kacas", needed=version
        )
    if version != REMOTE_FORMAT or not isinstance(remote_id, str) or not re.fullmatch(r"[0-9a-f]{32}", remote_id):
        raise DamagedRemoteError(f"{where} holds no id of a remote; restore it from a mirror")
    return bytes.fromhex(remote_id)


def open_remote(name: str, settings: Settings | None = None) -> Remote:
    """The remote of that name in remotes.toml. Asks nothing of the service.

    Raises RemoteNotFoundError, InvalidSettingError, MissingPackageError.
    """
    return open_configured(remote_named(name, read_remotes(settings)))


def open_configured(configuration: RemoteConfiguration) -> Remote:
    """Raises InvalidSettingError if its credentials cannot be read, MissingPackageError, GroupNotFoundError."""
    blobs = open_bucket(configuration)
    if configuration.private:
        with packages_for(configuration.name):
            from kacas_remote.blobs.sealed import SealedBlobs

            blobs = SealedBlobs(blobs, keys_of(configuration.private))
    remote = Remote(configuration.name, blobs, configuration)
    remote._by_configuration = True
    return remote


def _unpickled(name: str, configuration: RemoteConfiguration, blobs: BlobStore | None) -> Remote:
    return open_configured(configuration) if blobs is None else Remote(name, blobs, configuration)


def new_remote(name: str, blobs: BlobStore, configuration: RemoteConfiguration | None = None) -> Remote:
    """A remote on these blobs, with a marker."""
    remote = Remote(name, blobs, configuration)
    remote.mark()
    return remote
