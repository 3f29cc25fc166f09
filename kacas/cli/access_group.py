"""The commands for access groups: who may open what is encrypted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import names, output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kacas_remote.groups.chain import Chain, Change, Person
    from kacas_remote.groups.edits import NewMember
    from kacas_remote.groups.group import Group
    from kacas_remote.groups.record import Member

_PERSON = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
_ID = "ag_0123456789abcdef0123456789abcdef"
_AT = click.option(
    "--at",
    metavar="PLACE",
    help="Where the record is: a remote, `store`, store:/PATH or a file. By default: the default remote, else the store.",
)


@click.group(
    cls=CommandGroup,
    examples=["kacas group create lab", f"kacas group add-member lab {_PERSON} --name ana", "kacas group show lab"],
)
def group() -> None:
    """Make access groups, and say who is in them.

    What is encrypted for a group, URIs and whole remotes, only its members open. The group's record is signed by its
    admins, and holds its secret for each member's key alone: whoever keeps the record learns nothing but who is a member.
    """


@click.command(cls=ExampleCommand, examples=["kacas group create lab", "kacas group create lab --at ./lab.group"])
@click.argument("name")
@_AT
@click.option("--my-name", metavar="NAME", help="What you are called in the group, instead of your user name.")
@click.option("--admin", "admins", multiple=True, metavar="WHO", help="Another admin: a key, or a name that you trust.")
@json_option('Print {"name", "id", "place"}.')
@click.pass_obj
def create(
    session: Session, name: str, at: str | None, my_name: str | None, admins: tuple[str, ...], as_json: bool
) -> None:
    """Make a group, whose first admin you are.

    You need an identity: kacas identity create. Let somebody else be an admin, too: a group whose only admin lost the key
    can be read for ever, and changed never.
    """
    from kacas_remote.groups.verbs import create_group

    others = [_new_member(who, None, admin=True) for who in admins]
    made = create_group(name, at=_place(session, at), my_name=my_name, others=others)
    output.note(f"made the group {name}; its record is at {made.place().name}")
    if as_json:
        output.json_line({"name": made.joined.name, "id": _id_of(made), "place": made.joined.place})
    else:
        output.line(_id_of(made))


@click.command(cls=ExampleCommand, examples=[f"kacas group join lab {_ID} --at lab-bucket"])
@click.argument("name")
@click.argument("id_", metavar="ID")
@click.option(
    "--at", required=True, metavar="PLACE", help="Where the record is: a remote, `store`, store:/PATH or a file."
)
@click.pass_obj
def join(session: Session, name: str, id_: str, at: str) -> None:
    """Know the group ID by NAME from now on.

    An admin tells ID and PLACE: `kacas group show` prints them. Take ID from a person, not from the bucket.
    """
    from kacas_remote.groups.verbs import join_group

    joined, is_member = join_group(name, id_, at=_place(session, at) or "")
    output.note(f"joined the group {name}; its record is at {joined.place().name}")
    if not is_member:
        output.warn("you are no member yet: send an admin your key, as `kacas identity show` prints it")


@click.command("list", cls=ExampleCommand, examples=["kacas group list", "kacas group list --json"])
@json_option('Print {"name", "id", "place"} for each, one object per line.')
@click.pass_obj
def list_(session: Session, as_json: bool) -> None:
    """List the groups that you made or joined, without looking at their records."""
    from kacas_remote.groups.joined import groups_path, read_groups
    from kacas_remote.groups.record import group_text

    found = read_groups(groups_path())
    if as_json:
        for one in found:
            output.json_line({"name": one.name, "id": group_text(one.group_id), "place": one.place})
    elif found:
        output.table(("group", "id", "place"), [(one.name, group_text(one.group_id), one.place) for one in found])
    else:
        output.note("you have no access groups; make one by: kacas group create NAME")


@click.command(cls=ExampleCommand, examples=["kacas group show lab", "kacas group show lab --json"])
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """Show a group, and what to send to a new member.

    Who compares version and digest with another member knows that both see the same record.
    """
    from kacas_remote.groups.verbs import open_group

    found = open_group(name)
    chain, is_now = found.look()
    values = {
        "name": found.joined.name,
        "id": _id_of(found),
        "place": found.joined.place,
        "version": chain.number,
        "digest": chain.newest.digest.hex(),
        "changed": chain.newest.time,
        "changed_by": chain.changes[-1].by.name,
        "epoch": chain.newest.epoch,
        "members": len(chain.newest.members),
        "you_are": _own_part(chain),
        "is_now": is_now,
        "add_remote": _add_remote(session, found, chain.name),
        "join": f"kacas group join {chain.name} {_id_of(found)} --at {shlex.quote(_as_named(found.joined.place))}",
    }
    if as_json:
        output.json_line(values)
        return
    shown = {key: value for key, value in values.items() if key not in ("add_remote", "join", "is_now")}
    output.fields((key.replace("_", " "), str(value)) for key, value in shown.items())
    output.line()
    output.line("A new member runs:")
    for command in filter(None, (values["add_remote"], values["join"])):
        output.line(f"  {command}")


@click.command(cls=ExampleCommand, examples=["kacas group members lab", "kacas group members lab --json"])
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@json_option('Print {"name", "key", "admin"} for each, one object per line.')
@click.pass_obj
def members(session: Session, name: str, as_json: bool) -> None:
    """List who is in a group."""
    from kacas_remote.groups.verbs import open_group
    from kacas_remote.signing import publisher_text

    chain, _ = open_group(name).look()
    for one in sorted(chain.newest.members, key=lambda member: member.name):
        if as_json:
            output.json_line({"name": one.name, "key": publisher_text(one.key), "admin": one.admin})
        else:
            output.line(f"{publisher_text(one.key)}  {one.name}{'  (admin)' if one.admin else ''}")


@click.command(
    "add-member",
    cls=ExampleCommand,
    examples=[f"kacas group add-member lab {_PERSON} --name ana", "kacas group add-member lab ben --admin"],
)
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@click.argument("who", nargs=-1, required=True)
@click.option("--name", "called", metavar="NAME", help="What the new member is called in the group.")
@click.option("--admin", is_flag=True, help="May change the group, too; also for who is a member already.")
@click.pass_obj
def add_member(session: Session, name: str, who: tuple[str, ...], called: str | None, admin: bool) -> None:
    """Let somebody in; for admins.

    WHO is a key, which its owner prints with `kacas identity show`, or the name of somebody in `kacas trust list`, or, with
    --admin, in the group. A new member can open all that was encrypted for the group since it began.
    """
    from kacas_remote.groups.verbs import add_members, open_group

    if called is not None and len(who) > 1:
        raise click.UsageError("--name goes with one new member")
    found = open_group(name)
    people = found.look_there().newest.members
    chain = add_members(found, [_new_member(one, called, admin=admin, people=people) for one in who])
    output.note(f"the group {name} has {output.count(len(chain.newest.members), 'member')}; version {chain.number}")


@click.command(
    "remove-member",
    cls=ExampleCommand,
    examples=["kacas group remove-member lab ana", f"kacas group remove-member lab {_PERSON}"],
)
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@click.argument("who", nargs=-1, required=True)
@click.pass_obj
def remove_member(session: Session, name: str, who: tuple[str, ...]) -> None:
    """Keep somebody out from now on; for admins.

    WHO is a name in the group, or a key. A new epoch begins: what is encrypted from now on they cannot open. What they
    could open before, and may have kept, they still can. Take their credentials for the bucket away, too.
    """
    from kacas_remote.groups.verbs import open_group, remove_members

    chain = remove_members(open_group(name), who)
    output.note(
        f"the group {name} has {output.count(len(chain.newest.members), 'member')}; version {chain.number}, epoch "
        f"{chain.newest.epoch}. Who was removed cannot open what is encrypted from now on. They may have kept the older secrets, "
        "and what those open: take their credentials for the bucket away, too"
    )


@click.command(cls=ExampleCommand, examples=["kacas group log lab", "kacas group log lab --json"])
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@json_option("Print one JSON object per version.")
@click.pass_obj
def log(session: Session, name: str, as_json: bool) -> None:
    """List who changed what in a group, the oldest change first.

    Times are those of the admins' clocks.
    """
    from kacas_remote.groups.verbs import open_group

    chain, _ = open_group(name).look()
    for one in chain.changes:
        if as_json:
            output.json_line(_change_object(one))
        else:
            output.line(f"{one.number}  {one.time}  {one.by.name}  {_change_words(one)}")


@click.command(cls=ExampleCommand, examples=["kacas group move lab --at new-bucket"])
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@click.option("--at", required=True, metavar="PLACE", help="A remote, `store`, store:/PATH or a file.")
@click.pass_obj
def move(session: Session, name: str, at: str) -> None:
    """Put the record at another place, and look there from now on.

    All versions that this machine has seen are put there, whoever you are: they are signed. So a record that was lost, or
    exchanged for an older one, is restored at the same place, too. The others join again, with the new place.
    """
    from kacas_remote.groups.verbs import move_group

    moved = move_group(name, at=_place(session, at) or "")
    output.note(f"the record of the group {name} is at {moved.place().name}")


@click.command(cls=ExampleCommand, examples=["kacas group forget lab"])
@click.argument("name", metavar="GROUP", shell_complete=names.of_groups)
@click.pass_obj
def forget(session: Session, name: str) -> None:
    """Forget a group on this machine.

    Its record, and that you are a member, stay as they are.
    """
    from kacas_remote.groups.verbs import forget_group

    forget_group(name)


def _place(session: Session, at: str | None) -> str | None:
    """With --store, that one is meant."""
    if session.store_path is not None and at in (None, "store"):
        return f"store:{session.directory(session.settings())}"
    return at


def _add_remote(session: Session, found: Group, name: str) -> str | None:
    """How a new member, who calls the group so, adds the remote that the record is in. None if it is in none that all can add."""
    from kacas_remote.configuration import read_remotes

    place = found.joined.place
    remote = next((one for one in read_remotes(session.settings()) if place == f"remote:{one.name}"), None)
    if remote is None or remote.private not in ("", found.joined.name, _id_of(found)):
        return None
    options = [
        ("--endpoint", remote.endpoint),
        ("--region", remote.region),
        ("--private", name if remote.private else ""),
    ]
    words = [word for option in options if option[1] for word in option] + ["--anonymous"] * remote.anonymous
    return shlex.join(["kacas", "remote", "add", remote.name, remote.url, *words])


def _as_named(place: str) -> str:
    """As --at takes it."""
    return place.removeprefix("remote:").removeprefix("file:")


def _new_member(who: str, called: str | None, *, admin: bool, people: Sequence[Member] = ()) -> NewMember:
    """people: who is in the group already, and may be meant by name."""
    from kacas_remote.groups.edits import NewMember
    from kacas_remote.signing import parse_publisher, publisher_text
    from kacas_remote.trust import read_publishers, trust_file

    trusted = read_publishers(trust_file())
    keys = {key for key, name in trusted.items() if name == who} | {one.key for one in people if one.name == who}
    if len(keys) > 1:
        said = " or ".join(sorted(map(publisher_text, keys)))
        raise click.UsageError(
            f"{who} is one in the group, and another one in `kacas trust list`; name the key: {said}"
        )
    if not keys:
        try:
            keys = {parse_publisher(who)}
        except ValueError as exc:
            raise click.UsageError(
                f"{who[:100]!r} is neither the key of a person, ed25519: and 64 lower-case hex digits, as "
                "`kacas identity show` prints it to them, nor the name of somebody in the group or in `kacas trust list`"
            ) from exc
    (key,) = keys
    return NewMember(key, called or trusted.get(key) or key.hex()[:8], admin)


def _id_of(group: Group) -> str:
    from kacas_remote.groups.record import group_text

    return group_text(group.joined.group_id)


def _own_part(chain: Chain) -> str:
    from kacas_remote import identity

    public = identity.own_public()
    member = chain.newest.member(public) if public else None
    if member is None:
        return "no member"
    return f"{member.name}, an admin" if member.admin else f"{member.name}, a member"


def _change_words(change: Change) -> str:
    parts = [
        ("added", change.added),
        ("removed", change.removed),
        ("made admin", change.made_admin),
        ("no admin any more", change.admin_no_more),
    ]
    said = [f"{what} {', '.join(one.name for one in people)}" for what, people in parts if people]
    if change.began_epoch:
        said.append(f"epoch {change.epoch} began")
    return "; ".join(said) or "nothing"


def _change_object(change: Change) -> dict[str, Any]:
    from kacas_remote.signing import publisher_text

    def people(persons: tuple[Person, ...]) -> list[dict[str, str]]:
        return [{"name": one.name, "key": publisher_text(one.key)} for one in persons]

    return {
        "version": change.number,
        "time": change.time,
        "by": people((change.by,))[0],
        "added": people(change.added),
        "removed": people(change.removed),
        "made_admin": people(change.made_admin),
        "admin_no_more": people(change.admin_no_more),
        "epoch": change.epoch,
        "began_epoch": change.began_epoch,
    }


group.add_section("Commands", create, join, list_, show, members, add_member, remove_member, log, move, forget)
