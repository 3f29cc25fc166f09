"""The remotes of this user as upstreams, in the order in which they are asked."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from kacas.errors import KacasError
from kacas.settings import Settings
from kacas_remote.configuration import RemoteConfiguration, read_remotes, remote_named
from kacas_remote.opening import packages_for
from kacas_remote.remote import Remote, open_configured

if TYPE_CHECKING:
    from kacas_remote.upstream import RemoteUpstream


def configured_upstreams(
    settings: Settings, name: str | None = None, limit_bytes_s: float | None = None
) -> tuple[RemoteUpstream, ...]:
    """Those of remotes.toml, or the one of this name; nothing is asked of any service.

    limit_bytes_s: of each. One that cannot be opened, as its credentials cannot be read or a package is not installed, is
    warned of and left out; raised if it was named. Raises InvalidSettingError, RemoteNotFoundError, NewerFormatError.
    """
    remotes = read_remotes(settings)
    if name is not None:
        return (_opened(remote_named(name, remotes), settings, limit_bytes_s),)
    found = []
    for configuration in remotes:
        try:
            found.append(_opened(configuration, settings, limit_bytes_s))
        except KacasError as exc:
            text = f"remote {configuration.name} is left out: {exc}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
    return tuple(found)


def _opened(configuration: RemoteConfiguration, settings: Settings, limit_bytes_s: float | None) -> RemoteUpstream:
    with packages_for(configuration.name):
        from kacas_remote.blobs.throttled import Throttled
        from kacas_remote.upstream import RemoteUpstream

        remote = open_configured(configuration)
        if limit_bytes_s is not None:
            remote = Remote(remote.name, Throttled(remote.blobs, limit_bytes_s), configuration)
        return RemoteUpstream(remote, settings)
