"""The names that a shell completes: of remotes, groups and publishers, as the user's own files have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from kacas.errors import KacasError

Completion = Callable[[click.Context, click.Parameter, str], list[str]]


def _fitting(names: Callable[[], Iterable[str]]) -> Completion:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            return sorted(name for name in names() if name.startswith(incomplete))
        except KacasError:
            return []  # the command itself says what is wrong with the file

    return complete


def _remotes() -> Iterable[str]:
    from kacas_remote.configuration import read_remotes

    return (one.name for one in read_remotes())


def _groups() -> Iterable[str]:
    from kacas_remote.groups.joined import groups_path, read_groups

    return (one.name for one in read_groups(groups_path()))


def _publishers() -> Iterable[str]:
    from kacas_remote.trust import read_publishers, trust_file

    return read_publishers(trust_file()).values()


of_remotes = _fitting(_remotes)
of_groups = _fitting(_groups)
of_publishers = _fitting(_publishers)
