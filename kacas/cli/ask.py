"""The commands that ask about content, and the one that drops a claim: info, find, forget, log, stats."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.model.description import Description

_EXAMPLE = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"
_NOT_FOUND = 3


@click.command(cls=ExampleCommand, examples=[f"kacas info {_EXAMPLE}", f"kacas info --json {_EXAMPLE}"])
@click.argument("uri")
@json_option()
@click.pass_obj
def info(session: Session, uri: str, as_json: bool) -> None:
    """Describe content: kind, size, chunks, and who keeps it."""
    with session.open_store() as store:
        found = store.describe(uri)
    if as_json:
        output.json_line(dataclasses.asdict(found) | {"ratio": found.ratio})
        return
    pairs = [("uri", found.uri), ("kind", found.kind), ("size", output.exact_size(found.size))]
    if found.files is not None:
        pairs.append(("holds", f"{output.count(found.files, 'file')}, {output.exact_size(found.total_size or 0)}"))
    if found.shape is not None:
        pairs += [
            ("shape", " × ".join(map(str, found.shape)) or "() (one value)"),
            ("dtype", str(found.dtype)),
            *([("tiles", " × ".join(map(str, found.tiles)))] if found.tiles else []),
        ]
    codecs = ", ".join(f"{codec} {count:,}" for codec, count in found.codecs.items())
    pairs += [
        ("chunks", f"{found.chunks:,}{f' ({codecs})' if codecs else ''}"),
        *_stored(found),
        ("root", found.root),
        ("in", found.store + (", fetched from an upstream" if found.fetched else "")),
        *(("linked to", path) for path in found.adopted),
    ]
    if not found.claims and found.stored_size is not None:
        nobody = "nobody: it goes when the store is collected"
        if found.fetched:
            nobody = "nobody here: it is a copy"
        alone = "nobody for itself, as a part of a stored directory" if found.member else nobody
        pairs.append(("kept by", alone))
    for number, claim in enumerate(found.claims):
        label = f" as {claim.label}" if claim.label else ""
        since = output.local_time(claim.time_s)
        pairs.append(("" if number else "kept by", f"{claim.owner} since {since}{label}"))
    output.fields(pairs)


def _stored(found: Description) -> list[tuple[str, str]]:
    """Nothing of what is only in a remote: its packs are not looked at."""
    if found.stored_size is None:
        return []
    return [("stored", output.exact_size(found.stored_size) + ("" if found.adopted else f", ratio {found.ratio:.2f}"))]


@click.command(
    cls=ExampleCommand,
    examples=[f"kacas find {_EXAMPLE}", "kacas find --json $(cat uris.txt)"],
)
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@json_option('Print {"uri", "found", ...} for each URI, one object per line.')
@click.pass_obj
def find(session: Session, uris: tuple[str, ...], as_json: bool) -> None:
    """Print those URIs whose content is here.

    Missing ones are named on stderr, and the exit code is 3 if there are any.
    """
    from kacas.private_uris import any_uris

    any_uris(uris)  # one that is wrong is refused before the first answer
    missing = 0
    with session.open_store() as store:
        for uri in uris:
            found = store.find(uri)
            if found is None:
                missing += 1
                output.note(f"not in the store: {uri}")
            if as_json:
                known = {} if found is None else dataclasses.asdict(found) | {"ratio": found.ratio}
                output.json_line(known | {"uri": uri, "found": found is not None})
            elif found is not None:
                output.line(uri)
    if missing:
        raise click.exceptions.Exit(_NOT_FOUND)


@click.command(cls=ExampleCommand, examples=[f"kacas forget {_EXAMPLE}"])
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@json_option('Print {"uri", "dropped", "kept_by", "member"} for each URI, one object per line.')
@click.pass_obj
def forget(session: Session, uris: tuple[str, ...], as_json: bool) -> None:
    """Drop my claims on content, and say who else keeps it.

    All or none: if one URI is not here, none is forgotten. The bytes stay readable until the store is
    collected; storing the content again claims it again.
    """
    from kacas.private_uris import any_uris

    any_uris(uris)  # one that is wrong is refused before the first answer
    with session.open_store() as store, store.batch():
        answers = [store.forget(uri) for uri in dict.fromkeys(uris)]
    for answer in answers:
        if as_json:
            output.json_line(dataclasses.asdict(answer))
            continue
        mine = (
            f"dropped {output.count(answer.dropped, 'claim')} on"
            if answer.dropped
            else "there was no claim of yours on"
        )
        kept = f"kept by {', '.join(answer.kept_by)}" if answer.kept_by else "nobody keeps it now"
        if answer.member:
            kept += "; a stored directory has it, too" if answer.kept_by else " for itself; a stored directory has it"
        output.line(f"{mine} {answer.uri}; {kept}")


@click.command(cls=ExampleCommand, examples=["kacas log", "kacas log -n 10", "kacas log --json | jq -r .uri"])
@click.option("-n", "count", type=click.IntRange(min=0), metavar="N", help="At most N lines.")
@json_option()
@click.pass_obj
def log(session: Session, count: int | None, as_json: bool) -> None:
    """List what I stored, newest first."""
    with session.open_store() as store:
        empty = True
        for item in islice(store.history(), count):
            if as_json:
                output.json_line(dataclasses.asdict(item))
            else:
                if empty:
                    output.line(f"{'time':25}  {'kind':9}  {'size':>10}  {'uri':50}  label")
                # The URI without its label is as good, and of one width; the label is readable beside it.
                uri = item.uri.partition("?")[0]
                label = output.plain(item.label) + (" (forgotten)" if item.forgotten else "")
                size = output.human_size(item.size)
                row = f"{output.local_time(item.time_s)}  {item.kind:9}  {size:>10}  {uri:50}  {label}"
                output.line(row.rstrip())
            empty = False
        if empty and count != 0 and not as_json:
            output.note(f"you stored nothing in {store.path} yet")


@click.command(cls=ExampleCommand, examples=["kacas stats", "kacas stats --json | jq .pack_size"])
@json_option()
@click.pass_obj
def stats(session: Session, as_json: bool) -> None:
    """Count what the store holds."""
    with session.open_store() as store:
        found = store.stats()
        held = store.segment_stats()
    if as_json:
        output.json_line(dataclasses.asdict(found) | {"ratio": found.ratio, "segments": dataclasses.asdict(held)})
        return
    output.fields(
        [
            ("store", found.path),
            ("id", found.store_id),
            ("format", str(found.format_version)),
            ("durability", found.durability),
            ("contents", f"{found.contents:,}"),
            ("entries", f"{found.entries:,}"),
            ("chunks", f"{found.chunks:,}"),
            ("data", output.exact_size(found.raw_size)),
            ("encoded", f"{output.exact_size(found.payload_size)}, ratio {found.ratio:.2f}"),
            ("packs", f"{found.packs:,}, {output.exact_size(found.pack_size)}"),
            ("segments", f"{held.segments:,}, {output.exact_size(held.size)}, of {output.count(held.packs, 'pack')}"),
            ("replaced", f"{output.exact_size(held.replaced_size)} of segments that these replaced"),
        ]
    )
