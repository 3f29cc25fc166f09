"""The commands about kacas itself: config, version, completion."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.running import COMPLETION_VARIABLE, PROGRAM
from kacas.cli.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from kacas.settings import Settings

_LIBRARIES = ("blake3", "zstandard", "lmdb", "pyfastcdc", "numpy", "numcodecs", "simplejson", "click", "rich")


@click.command(cls=ExampleCommand, examples=["kacas config", "kacas --store /data/lab/store config --json"])
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def config(session: Session, as_json: bool) -> None:
    """Show every setting, its value and where it comes from.

    Settings come from the environment (KACAS_DIR, KACAS_CACHE_DIR, KACAS_OWNER, KACAS_THREADS,
    KACAS_CACHE_SIZE, KACAS_MEMORY, KACAS_UPSTREAM, KACAS_STORE_IN, KACAS_REMOTE), else from ~/.config/kacas/kacas.toml (directory,
    cache_directory, ...), else they are defaults. A store has settings of its own, chosen by init. Who you are (KACAS_CLIENT_ID and
    KACAS_PRIVATE_KEY) is shown by: kacas identity show.
    """
    from kacas.errors import StoreNotFoundError

    settings = session.settings()
    directory = session.directory(settings)
    rows = _rows(settings, directory, given=session.store_path is not None)
    if not as_json:
        output.table(("setting", "value", "source"), [(name, shown, source) for name, _, shown, source in rows])
        output.line()
    store: dict[str, Any] | None
    try:
        store = _store_settings(directory)
    except StoreNotFoundError:
        store = None
    if as_json:
        known = {name: {"value": value, "source": source} for name, value, _, source in rows}
        output.json_line({"settings": known, "store": store})
    elif store is None:
        output.line(f"there is no store at {directory} yet; it is made by: kacas init, or the first kacas store")
    else:
        words = {True: "yes", False: "no"}
        output.fields(
            (name.replace("_", " "), words[value] if isinstance(value, bool) else str(value))
            for name, value in store.items()
        )


def _rows(settings: Settings, directory: Path, *, given: bool) -> list[tuple[str, Any, str, str]]:
    """(name, value, value for people, source) of each setting."""
    rows: list[tuple[str, Any, str, str]] = []
    for name, source in settings.sources.items():
        value = getattr(settings, name)
        if name == "directory" and given:
            value, source = directory, "--store"
        shown = output.exact_size(value) if name in ("cache_size", "memory") else str(value)
        if name == "remote":
            value, source = _default_remote(settings, source)
            shown = value
        rows.append((name, value if isinstance(value, int) else str(value), shown, source))
    return rows


def _default_remote(settings: Settings, source: str) -> tuple[str, str]:
    """(its name, where it is chosen). Raises InvalidSettingError."""
    if settings.remotes_file is None:
        return "None", source
    from kacas_remote.configuration import default_remote, read_remotes

    chosen = default_remote(read_remotes(settings))
    return (chosen.name if chosen else "None"), (source if settings.remote is not None or not chosen else "file")


def _store_settings(directory: Path) -> dict[str, Any]:
    """What is in the store's kacas.toml. Raises StoreNotFoundError, InvalidSettingError."""
    from kacas.disk.volume import open_volume

    volume = open_volume(directory, create=False)
    known = dataclasses.asdict(volume.settings)
    return {"store": str(volume.path)} | known | {"network": volume.network}


@click.command(cls=ExampleCommand, examples=["kacas version", "kacas version --json"])
@json_option("Print one JSON object, with the versions of the libraries too.")
def version(as_json: bool) -> None:
    """Show the version of kacas."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from kacas.settings import STORE_FORMAT

    here = f"{platform.system()} {platform.machine()}"
    if not as_json:
        output.line(
            f"kacas {installed('kacas')} (store format {STORE_FORMAT}, Python {platform.python_version()}, {here})"
        )
        return
    libraries: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = installed(name)
        except PackageNotFoundError:
            libraries[name] = None
    output.json_line(
        {
            "kacas": installed("kacas"),
            "store_format": STORE_FORMAT,
            "python": platform.python_version(),
            "platform": here,
            "libraries": libraries,
        }
    )


@click.command(
    cls=ExampleCommand,
    examples=[
        """echo 'eval "$(kacas completion bash)"' >> ~/.bashrc""",
        """echo 'eval "$(kacas completion zsh)"' >> ~/.zshrc""",
        "kacas completion fish > ~/.config/fish/completions/kacas.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes kacas' commands in a shell."""
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    output.text_block(complete(ctx.find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source())
