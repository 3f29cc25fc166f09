"""Plain objects: a content's bytes as they are, under its SHA-1, for browsers and kachery's clients; recipes point into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kacas.content import WINDOW_SIZE, Content
from kacas.errors import WrongIdentityError
from kacas.model.digest import new_sha1
from kacas.model.manifest import Child
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.layout import plain_key
from kacas_remote.push.plan import Target
from kacas_remote.recipe import ChunkPlace


def is_plain_there(blobs: BlobStore, target: Target) -> bool:
    """Whether an object of the right size has the name: what it is is proved by whoever reads it."""
    info = blobs.head(plain_key(target.sha1))
    return info is not None and info.size == target.size


def send_plain(blobs: BlobStore, target: Target, content: Content, step: Callable[[int], None]) -> None:
    """Put the object, in parts, in bounded memory. step: is called with the bytes that are done.

    Raises WrongIdentityError, and puts nothing, if the bytes do not have the SHA-1; what reading raises.
    """
    parts = _parts(target, content, step)
    if content.size <= WINDOW_SIZE:
        blobs.put(plain_key(target.sha1), b"".join(parts))
    else:
        blobs.put_parts(plain_key(target.sha1), parts, size=content.size)


def _parts(target: Target, content: Content, step: Callable[[int], None]) -> Iterator[bytes]:
    sha1, done = new_sha1(), 0
    for window in content.windows():
        sha1.update(window)
        done += len(window)
        if done == content.size and sha1.digest() != target.sha1:
            raise WrongIdentityError(
                f"what this store has under the SHA-1 {target.sha1.hex()} (root {content.root.hex()}) is other content; "
                "nothing was sent. Look with: kacas verify",
                found=sha1.hexdigest(),
            )
        yield bytes(window)  # others may be on their way still
        step(done)


def plain_places(children: Sequence[Child], at: int) -> list[ChunkPlace]:
    """Where the chunks of a sequence are in the plain object. at: where the first begins."""
    places = []
    for child in children:
        places.append(ChunkPlace(None, at, child.size))
        at += child.size
    return places
