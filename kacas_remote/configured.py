"""The remotes of this user as upstreams, in the order in which they are asked."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from kacas.errors import KacasError
from kacas.settings import Settings
from kacas_remote.configuration import RemoteConfiguration, read_remotes, remote_named
from kacas_remote.remote import open_configured, packages_for

if TYPE_CHECKING:
    from kacas_remote.upstream import RemoteUpstream


def configured_upstreams(settings: Settings, name: str | None = None) -> tuple[RemoteUpstream, ...]:
    """Those of remotes.toml, or the one of this name; nothing is asked of any service.

    One that cannot be opened, as its credentials cannot be read or a package is not installed, is warned of and left out; raised
    if it was named. Raises InvalidSettingError, RemoteNotFoundError, NewerFormatError.
    """
    remotes = read_remotes(settings)
    if name is not None:
        return (_opened(remote_named(name, remotes), settings),)
    found = []
    for configuration in remotes:
        try:
            found.append(_opened(configuration, settings))
        except KacasError as exc:
            text = f"remote {configuration.name} is left out: {exc}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
    return tuple(found)


def _opened(configuration: RemoteConfiguration, settings: Settings) -> RemoteUpstream:
    with packages_for(configuration.name):
        from kacas_remote.upstream import RemoteUpstream

        return RemoteUpstream(open_configured(configuration), settings)
