"""One run of the command: which store it works on, how it is opened, what the user wants to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kacas.cli import output
from kacas.cli.progress import Bar

if TYPE_CHECKING:
    from kacas.disk.volume import Sharing
    from kacas.settings import Settings
    from kacas.store import Progress, Store


@dataclass
class Session:
    """store_path: of --store, or None. debug: show tracebacks. bar: progress of the work at hand."""

    store_path: str | None = None
    debug: bool = False
    bar: Bar = field(default_factory=Bar)

    def settings(self) -> Settings:
        """The user's settings, read anew. Raises InvalidSettingError."""
        from kacas.settings import Settings

        return Settings.from_environment()

    def directory(self, settings: Settings) -> Path:
        """Where the store is, or would be. Raises InvalidSettingError."""
        from kacas.settings import expanded_path

        return settings.directory if self.store_path is None else expanded_path(self.store_path, "--store")

    @contextmanager
    def open_store(
        self, remote: str | None = None, limit_bytes_s: int | None = None, progress: Progress | None = None
    ) -> Iterator[Store]:
        """The store, which must exist; the bar runs until the block ends. remote: is asked before all others, even by a store that
        is named by --store. limit_bytes_s: from remotes. progress: is told in place of
        the bar. Raises StoreNotFoundError."""
        from kacas.default import remotes_of
        from kacas.store import Store

        settings = self.settings()
        by_default = self.store_path is None  # a store that is named has no upstream
        behind = remotes_of(settings) if by_default else ()
        if remote is not None or (limit_bytes_s is not None and behind):
            from kacas_remote.configured import configured_upstreams

            behind = configured_upstreams(settings, remote, limit_bytes_s)
        with (
            self.bar,
            Store.open(
                self.directory(settings),
                create=False,
                settings=settings,
                progress=progress or (self.bar if self.bar.visible else None),
                upstream=settings.upstream if by_default and remote is None else None,
                behind=behind,
                store_in=settings.store_in if by_default and remote is None else "here",
            ) as store,
        ):
            yield store

    def make_store(self, durability: str | None = None, sharing: Sharing | None = None) -> bool:
        """Make the store if it is not there; True if it was made. Raises StoreError, InvalidSettingError."""
        from kacas.disk.volume import open_volume
        from kacas.errors import StoreNotFoundError

        settings = self.settings()
        directory = self.directory(settings)
        try:
            open_volume(directory, create=False, durability=durability, sharing=sharing)
            return False
        except StoreNotFoundError:
            pass
        volume = open_volume(directory, create=True, durability=durability, sharing=sharing)
        by_default = self.store_path is None and settings.sources.get("directory") == "default"
        if by_default and volume.network:
            output.warn(
                f"{directory} is on a network file system, as your home is; set KACAS_DIR to a local "
                "disk, or to a store that your lab shares"
            )
        return True
