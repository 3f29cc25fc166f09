"""The default store: `$KACAS_DIR`, else `~/.kacas`."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence

from kacas.disk.file_systems import is_network
from kacas.settings import Fingerprint, Settings
from kacas.store import Store
from kacas.upstream import Upstream

_lock = threading.Lock()
_default: tuple[Fingerprint, Store] | None = None


def default_store() -> Store:
    """The store that these functions use; made on first use. Changing the environment changes it.

    >>> default_store().durability
    'full'
    """
    global _default
    fingerprint = Settings.fingerprint()
    with _lock:
        if _default is None or _default[0] != fingerprint or _default[1].closed:
            _default = (fingerprint, _open_default())
        return _default[1]


def _open_default() -> Store:
    settings = Settings.from_environment()
    if settings.sources.get("directory") == "default" and is_network(settings.directory.parent):
        warnings.warn(
            f"{settings.directory} is on a network file system, as your home is; set KACAS_DIR to a local disk "
            "or to a store that your lab shares",
            RuntimeWarning,
            stacklevel=4,
        )
    return Store.open(
        settings.directory, settings=settings, upstream=settings.upstream, store_in=settings.store_in,
        behind=remotes_of(settings),
    )  # fmt: skip


def remotes_of(settings: Settings) -> Sequence[Upstream]:
    """The user's remotes; who has none does not import what speaks with them. Raises InvalidSettingError."""
    if settings.remotes_file is None:
        return ()
    from kacas_remote.configured import configured_upstreams

    return configured_upstreams(settings)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)
