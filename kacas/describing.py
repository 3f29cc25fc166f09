"""What a store knows of one content that it has."""

from __future__ import annotations

from kacas.content import Content
from kacas.disk.lookup import Lookup
from kacas.fetch import Fetch
from kacas.model.description import Claim, Description
from kacas.model.entry import Action, Entry, Origin, live
from kacas.model.uri import Uri, label_bytes


def described(lookup: Lookup, fetch: Fetch, uri: Uri, entry: Entry, content: Content) -> Description:
    """entry: that names the layout which is open as `content`."""
    lookup.refresh()  # claims that others made meanwhile
    known = [known for known, _ in lookup.entries(uri.sha1)] or [entry]
    sizes = fetch.sizes({content.root} | {child.digest for child, _ in content.walk()})
    claims = tuple(
        Claim(e.owner_text, e.time_ns / 1e9, e.label_text, e.kind_name, e.entry_id.hex()) for e in live(known)
    )
    chunks = {child.digest for child in content.chunks()}
    return Description(
        uri=entry._replace(label=label_bytes(uri.label or entry.label_text)).uri,
        sha1=uri.sha1.hex(),
        root=content.root.hex(),
        kind=entry.kind_name,
        size=content.size,
        chunks=len(chunks),
        codecs=fetch.codecs(chunks),
        stored_size=sum(sizes.values()),
        claims=claims,
        member=any(e.is_member for e in known),
        adopted=tuple(dict.fromkeys(e.label_text for e in live(known, Action.ADOPTED))),
        store=str(lookup.store_path),
        fetched=any(e.origin == Origin.FETCHED for e in known),
    )
