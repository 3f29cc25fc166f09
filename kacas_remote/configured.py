"""The remotes of this user as upstreams, in the order in which they are asked."""

from __future__ import annotations

import warnings

from kacas.errors import KacasError
from kacas.settings import Settings
from kacas_remote.configuration import read_remotes, remote_named
from kacas_remote.remote import open_configured
from kacas_remote.upstream import RemoteUpstream


def configured_upstreams(settings: Settings, name: str | None = None) -> tuple[RemoteUpstream, ...]:
    """Those of remotes.toml, or the one of this name; nothing is asked of any service.

    One that cannot be opened, as its credentials cannot be read, is warned of and left out; raised if it was named. Raises
    InvalidSettingError, RemoteNotFoundError, NewerFormatError.
    """
    remotes = read_remotes(settings)
    if name is not None:
        return (RemoteUpstream(open_configured(remote_named(name, remotes)), settings),)
    found = []
    for configuration in remotes:
        try:
            found.append(RemoteUpstream(open_configured(configuration), settings))
        except KacasError as exc:
            text = f"remote {configuration.name} is left out: {exc}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
    return tuple(found)
