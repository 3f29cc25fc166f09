"""The command `kacas`: puts the command groups together and runs them."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

import click

from kacas.cli import (
    about,
    access_group,
    ask,
    bench,
    directory,
    doctor,
    feed,
    identity,
    link,
    load,
    moving,
    mutable,
    output,
    private_uris,
    pull,
    remote,
    remote_upkeep,
    store,
    transfer,
    trust,
    upkeep,
)
from kacas.cli.command import CommandGroup, global_options
from kacas.cli.running import COMPLETION_VARIABLE, EXIT_CODES, PROGRAM, run

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.group(
    cls=CommandGroup,
    params=global_options(),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    examples=[
        "kacas store recording.dat",
        "kacas load sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230",
        "kacas --store /data/lab/store verify",
    ],
)
@click.option("--version", "show_version", is_flag=True, help="Show the version.")
@click.pass_context
def commands(ctx: click.Context, show_version: bool) -> None:
    """Keep files by the identity of their content.

    Store one, get a short permanent URI, load exactly those bytes back.

    Results go to stdout, all else to stderr. Errors are one line, with an exit code that tells their kind.
    """
    if show_version:
        ctx.invoke(about.version, as_json=False)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        output.text_block(ctx.get_help())
        ctx.exit(2)


commands.exit_codes = EXIT_CODES
commands.add_section("Store and load", store.init, store.store, link.link, load.load, load.cat)
commands.add_section("Ask and forget", ask.info, ask.find, ask.log, ask.stats, ask.forget)
commands.add_section("Look into directories", directory.ls, directory.diff)
commands.add_section("Share what changes", mutable.mutable, feed.feed)
remote.remote.add_section("Look after a remote", *remote_upkeep.COMMANDS)
commands.add_section("Share with the world", remote.remote, transfer.push, pull.pull, transfer.sync, trust.trust)
commands.add_section(
    "Keep private", identity.identity, access_group.group, private_uris.encrypt_uri, private_uris.decrypt_uri
)
commands.add_section("Move in", moving.import_kachery)
commands.add_section("Look after the store", upkeep.verify, doctor.doctor, upkeep.index, bench.bench)
commands.add_section("kacas itself", about.config, about.version, about.completion)


def main() -> None:
    """The program: runs the command line of this process and ends it."""
    _open_closed_streams()
    _end_on_signals()
    _leave_no_core()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale that lacks a letter must not hide a result.
            stream.reconfigure(errors="backslashreplace")
    # The shells' protocol of completion, not a setting.
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(commands, {}, PROGRAM, COMPLETION_VARIABLE, instruction))
    code = run(commands, sys.argv[1:])
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # the work is done: nothing is left to interrupt
    _leave_nothing_to_flush()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Under `>&-` a file of the store would get the descriptor 1, and the next line of output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken: this one, as those below are open by now.
            os.open(os.devnull, os.O_RDWR)
    # Closed standard input stays None: it is an error to read it, not an empty file.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _leave_no_core() -> None:
    """A crash of native code must not write private keys, or what they opened, to a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP end the work in order, once: temporaries go. Ignored ones stay so."""
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    for other in _ENDING:
        signal.signal(other, _too_late)
    raise KeyboardInterrupt(number)


def _too_late(number: int, frame: FrameType | None) -> None:
    """The impatient second Ctrl-C must not cut the tidying short."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    output.warn(str(message))


def _leave_nothing_to_flush() -> None:
    """After a broken pipe or a full disk, what is still buffered would fail again as the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
