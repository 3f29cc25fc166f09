"""Running a command line: every failure becomes one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Sequence

import click

from kacas.cli import output
from kacas.cli.session import Session
from kacas.errors import KacasError

PROGRAM = "kacas"
COMPLETION_VARIABLE = "_KACAS_COMPLETE"

NO_MEMORY = 7
_NO_PACKAGE = 6
_OPTIONAL = ("nacl", "obstore", "httpx", "tenacity")  # of kacas[remote]
CLOSED_PIPE = 128 + 13  # as a program that SIGPIPE ended

EXIT_CODES = (
    ("0", "done"),
    ("1", "another error, such as one of the operating system"),
    ("2", "wrong usage: option, URI, label, key, range, setting or data"),
    ("3", "not in the store"),
    ("4", "the content is of another kind"),
    ("5", "damaged, a linked file gone or changed, or two contents with one SHA-1; verify: not clean"),
    ("6", "made by a newer kacas, or with a codec that is not installed"),
    ("7", "not enough memory"),
    ("8", "a file to be stored cannot be read, or changed meanwhile; import-kachery: something was left out"),
    ("9", "the store, or a remote, cannot be used: not there, not writable, disk full"),
    ("10", "doctor: a warning remains"),
    ("11", "doctor: a problem remains"),
    ("12", "a mutable is not what was expected: somebody changed it"),
    ("13", "a part of content whose remote nobody vouches for whom you trust"),
    ("14", "an upload failed; what was stored is safe here: kacas push --pending sends it"),
    ("15", "no member of the access group, or no admin of it"),
    ("130", "interrupted (143: terminated); the store is clean"),
    ("141", "nobody reads the output any more"),
)


def run(commands: click.Command, arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    session = Session()
    try:
        code = _invoke(commands, list(arguments), session)
        output.flush()
        return code
    except BrokenPipeError:
        return CLOSED_PIPE
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - a bug of ours is told in one line as well
        if session.debug and not isinstance(exc, click.UsageError):
            output.trace(traceback.format_exc())
        message, code = _explained(exc)
        if code > 128:
            output.interrupted(message)
        else:
            output.error(message)
        return code


def _invoke(commands: click.Command, arguments: list[str], session: Session) -> int:
    try:
        with commands.make_context(PROGRAM, arguments, obj=session) as ctx:
            commands.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    return 0


def _explained(exc: BaseException) -> tuple[str, int]:
    """What to say of a failure, and the exit code."""
    if isinstance(exc, KeyboardInterrupt | click.Abort):
        number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else signal.SIGINT
        return "interrupted; the store is clean", 128 + number
    if isinstance(exc, click.UsageError):
        place = exc.ctx.command_path if exc.ctx else PROGRAM
        message = exc.format_message()
        return f"{message}{'' if message.endswith(('.', '?')) else '.'} See: {place} --help", exc.exit_code
    if isinstance(exc, click.ClickException):
        return exc.format_message(), exc.exit_code
    if isinstance(exc, KacasError):
        return str(exc), exc.exit_code
    if isinstance(exc, ModuleNotFoundError) and (exc.name or "").partition(".")[0] in _OPTIONAL:
        return f"this needs a package that is not installed ({exc.name}): pip install 'kacas[remote]'", _NO_PACKAGE
    if isinstance(exc, MemoryError):
        return "there is not enough memory; end other programs, or raise the limit (ulimit -v)", NO_MEMORY
    if isinstance(exc, OSError):
        if isinstance(exc, FileNotFoundError) and exc.filename is None and not _has_working_directory():
            return "the working directory is not there any more: change to another one (cd), or give absolute paths", 1
        reason = exc.strerror or str(exc) or type(exc).__name__
        return (f"{exc.filename}: {reason}" if exc.filename is not None else reason), 1
    if isinstance(exc, RuntimeError) and "start new thread" in str(exc):
        return "no thread can be started; raise the limits of processes or memory (ulimit -u, -v)", NO_MEMORY
    return (
        f"this is a bug in kacas: {type(exc).__name__}: {exc}; please report it with the output of --debug",
        1,
    )


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
