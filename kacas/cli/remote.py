"""The commands for remotes: which there are, in which order they are asked, what they can do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import names, output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kacas_remote.configuration import Probed, RemoteConfiguration

_ADD = "kacas remote add lab s3://lab-bucket/kacas"


@click.group(
    cls=CommandGroup,
    examples=[_ADD, "kacas remote default lab --push", "kacas remote list"],
)
def remote() -> None:
    """Name the buckets and web servers that URIs resolve from.

    What is not in the store is looked for in all of them, in the order of `kacas remote list`. Secrets are not given here:
    they come from the environment, ~/.aws, or ~/.config/kacas/credentials.toml.
    """


def _group(ctx: click.Context, param: click.Parameter, name: str | None) -> str:
    """An empty one would make the remote a plain one, and what is pushed lie open."""
    if name == "":
        raise click.BadParameter("the name of the group is empty; is a variable not set?", ctx=ctx, param=param)
    return name or ""


@click.command(
    cls=ExampleCommand,
    examples=[
        f"{_ADD} --private lab",
        "kacas remote add wasabi s3://lab-bucket --endpoint https://s3.eu-central-1.wasabisys.com --region eu-central-1",
        "kacas remote add published https://data.example.org/kacas",
    ],
)
@click.argument("name")
@click.argument("url")
@click.option("--endpoint", default="", metavar="URL", help="Where the service is, if it is not Amazon's.")
@click.option("--region", default="", help="The region of the bucket.")
@click.option("--profile", default="", help="The profile of ~/.aws to use.")
@click.option("--plain", is_flag=True, help="Push whole objects, for browsers and kachery clients.")
@click.option(
    "--private",
    metavar="GROUP",
    callback=_group,
    shell_complete=names.of_groups,
    help="Seal all that is pushed there for this access group.",
)
@click.option("--trusted", is_flag=True, help="Believe whoever can write there, as in the lab's own bucket.")
@click.option("--read-only", is_flag=True, help="Change nothing there: no push, no rm, no gc.")
@click.option("--anonymous", is_flag=True, help="Ask without credentials, as of public buckets.")
@click.option("--no-probe", is_flag=True, help="Do not try now what the service can do.")
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def add(session: Session, /, name: str, url: str, no_probe: bool, as_json: bool, **options: Any) -> None:
    """Add a remote, and try what it can do.

    URL is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory or https://server/path.
    The first one that can be written becomes the default. Trying moves 17 MiB and leaves nothing behind.
    """
    from kacas_remote.configuration import RemoteConfiguration, change_remotes, read_remotes_file, remotes_path
    from kacas_remote.errors import InvalidRemoteError

    new = RemoteConfiguration(name, url, **options)
    new.check_prefix()

    def edit(remotes: Sequence[RemoteConfiguration]) -> Sequence[RemoteConfiguration]:
        if any(one.name == name for one in remotes):
            raise InvalidRemoteError(f"there is a remote {name} already; remove it first: kacas remote remove {name}")
        first = _can_write(new) and not any(one.default for one in remotes)
        return [*remotes, dataclasses.replace(new, default=first)]

    edit(read_remotes_file(remotes_path()))  # before it is probed
    if not no_probe:
        new = _probed(new)
    new = change_remotes(edit)[-1]
    if not as_json:
        output.note(f"added remote {name}{', the default' if new.default else ''}: {url}")
    _show_probed(new, as_json)
    if not no_probe:
        _warn_of_sealed(new)


@click.command("list", cls=ExampleCommand, examples=["kacas remote list", "kacas remote list --json"])
@json_option()
@click.pass_obj
def list_(session: Session, as_json: bool) -> None:
    """List the remotes, in the order in which they are asked."""
    from kacas_remote.configuration import read_remotes

    found = read_remotes(session.settings())
    if as_json:
        for one in found:
            output.json_line(dataclasses.asdict(one))
    elif found:
        output.table(("remote", "url", "is"), [(one.name, one.url, ", ".join(_marks(one))) for one in found])
    else:
        output.note("there are no remotes; add one by: kacas remote add NAME URL")


@click.command(cls=ExampleCommand, examples=["kacas remote show lab", "kacas remote show --json lab"])
@click.argument("name", shell_complete=names.of_remotes)
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """Show what is known of a remote, without asking it."""
    from kacas_remote.configuration import read_remotes, remote_named

    found = remote_named(name, read_remotes(session.settings()))
    if not as_json:
        values = dataclasses.asdict(found) | {"probed": found.probed.at if found.probed else "never"}
        output.fields((key.replace("_", " "), _word(value)) for key, value in values.items() if value != "")
        output.line()
    _show_probed(found, as_json)


@click.command(
    cls=ExampleCommand,
    examples=["kacas remote default lab", "kacas remote default lab --push", "kacas remote default --none"],
)
@click.argument("name", required=False, shell_complete=names.of_remotes)
@click.option("--push/--no-push", default=None, help="Whether stores push to it without being asked.")
@click.option("--none", "no_default", is_flag=True, help="No remote is the default.")
@json_option('Without NAME, print {"name", "push"}; "name" is null if none is the default.')
@click.pass_obj
def default(session: Session, name: str | None, push: bool | None, no_default: bool, as_json: bool) -> None:
    """Choose the remote that is meant where none is named; without NAME, print it.

    With --push, all that is stored from now on is uploaded there, too. $KACAS_REMOTE goes before: a name is as
    NAME --push, empty is as --none.
    """
    from kacas_remote.configuration import change_remotes, default_remote, read_remotes, remote_named

    if no_default and (name is not None or push is not None):
        raise click.UsageError("--none goes with neither NAME nor --push")
    if name is None and not no_default and push is None:
        _print_default(default_remote(read_remotes(session.settings())), as_json)
        return
    if as_json:
        raise click.UsageError("--json prints the default remote; it does not go with a choice of it")

    def edit(found: Sequence[RemoteConfiguration]) -> Sequence[RemoteConfiguration]:
        before = default_remote(found)
        if no_default:
            chosen = ""
        elif name is not None:
            chosen = remote_named(name, found).name
        elif before is not None:
            chosen = before.name
        else:
            raise click.UsageError("there is no default remote; name one: kacas remote default NAME --push")
        for one in found:
            if one.name == chosen and push and not _can_write(one):
                raise click.UsageError(f"remote {chosen} can only be read: nothing can be pushed to it")
        return [
            dataclasses.replace(
                one,
                default=one.name == chosen,
                push=one.name == chosen and (one.push if push is None else push),
            )
            for one in found
        ]

    change_remotes(edit)
    if session.settings().remote is not None:
        output.warn("KACAS_REMOTE is set, and goes before this choice")


@click.command(cls=ExampleCommand, examples=["kacas remote remove lab"])
@click.argument("name", shell_complete=names.of_remotes)
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a remote. The bucket and all that is in it stay as they are."""
    from kacas_remote.configuration import change_remotes, remote_named

    def edit(found: Sequence[RemoteConfiguration]) -> Sequence[RemoteConfiguration]:
        gone = remote_named(name, found)
        return [one for one in found if one is not gone]

    change_remotes(edit)
    output.note(f"removed remote {name} from your list; what is in it stays there")


@click.command(cls=ExampleCommand, examples=["kacas remote probe lab", "kacas remote probe --json lab"])
@click.argument("name", shell_complete=names.of_remotes)
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def probe(session: Session, name: str, as_json: bool) -> None:
    """Try what a remote can do, and keep that in mind.

    17 MiB are moved if it can be written, and nothing is left behind.
    """
    from kacas_remote.configuration import change_remotes, read_remotes, remote_named

    seen = _probed(remote_named(name, read_remotes(session.settings())))
    remotes = change_remotes(
        lambda found: [dataclasses.replace(one, probed=seen.probed) if one.name == name else one for one in found]
    )
    _show_probed(remote_named(name, remotes), as_json)
    _warn_of_sealed(seen)


remote.add_section("Commands", add, list_, show, default, remove, probe)


def _print_default(chosen: RemoteConfiguration | None, as_json: bool) -> None:
    if as_json:
        output.json_line({"name": chosen and chosen.name, "push": chosen is not None and chosen.push})
    else:
        output.line("none" if chosen is None else f"{chosen.name}{' (push)' if chosen.push else ''}")


def _can_write(one: RemoteConfiguration) -> bool:
    return one.writable and (one.probed is None or one.probed.writable is not False)


def _probed(configuration: RemoteConfiguration) -> RemoteConfiguration:
    from kacas_remote.blobs.claim import claimed_by
    from kacas_remote.errors import GroupNotFoundError
    from kacas_remote.opening import open_bucket
    from kacas_remote.probe import probe
    from kacas_remote.remote import Remote, open_configured

    try:
        opened = open_configured(configuration)
    except GroupNotFoundError:  # its record may come to be in this very bucket
        opened = Remote(configuration.name, open_bucket(configuration), configuration)
        _note_of_group(configuration, claimed_by(opened.blobs, configuration.private))
    try:
        return dataclasses.replace(configuration, probed=probe(opened))
    finally:
        opened.close()


def _note_of_group(configuration: RemoteConfiguration, claimed: tuple[str, str] | None) -> None:
    """How the group comes to be here. claimed: whose the bucket says that it is, which only a person can confirm."""
    name, group = configuration.name, configuration.private
    if claimed is None:
        output.note(
            f"there is no group {group} here yet: kacas group create {group} --at {name}, or "
            f"kacas group join {group} ID --at {name}"
        )
    else:
        output.note(
            f"there is no group {group} here yet, and the bucket says that it is private to {claimed[0]}. If that is the id which "
            f"an admin told you: kacas group join {group} {claimed[0]} --at {name}"
        )


def _warn_of_sealed(one: RemoteConfiguration) -> None:
    """If this user cannot open what is there, or not yet: a remote may be added before somebody lets them in."""
    from kacas.errors import KacasError
    from kacas_remote.errors import GroupNotFoundError
    from kacas_remote.groups import keys_of

    if one.private:
        try:
            keys_of(one.private).epochs()
        except GroupNotFoundError:
            pass  # that was said before
        except KacasError as exc:
            output.warn(str(exc))


def _marks(one: RemoteConfiguration) -> list[str]:
    marks = [
        name.replace("_", "-") for name in ("default", "push", "plain", "trusted", "anonymous") if getattr(one, name)
    ]
    marks += [f"private to {one.private}"] if one.private else []
    return marks if _can_write(one) else [*marks, "read-only"]


def _show_probed(one: RemoteConfiguration, as_json: bool) -> None:
    """What was seen, in yes and no, and in words what that means."""
    from kacas_remote.probe import shortcomings

    missing = [] if one.probed is None else list(shortcomings(one.probed, one))
    if as_json:
        output.json_line(dataclasses.asdict(one) | {"missing": missing})
        return
    if one.probed is not None:
        output.fields(_seen(one.probed))
    for words in missing:
        output.warn(words)


def _seen(probed: Probed) -> list[tuple[str, str]]:
    known = {key: value for key, value in dataclasses.asdict(probed).items() if key not in ("at", "clock_s")}
    rows = [(key.replace("_", " "), _word(value)) for key, value in known.items()]
    if probed.clock_s is not None:
        rows.append(("clock", f"{abs(probed.clock_s)} s {'behind' if probed.clock_s < 0 else 'ahead of'} ours"))
    return rows


def _word(value: object) -> str:
    return (
        {True: "yes", False: "no", None: "unknown"}[value] if value is None or isinstance(value, bool) else str(value)
    )
