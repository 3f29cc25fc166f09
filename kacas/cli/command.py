"""What all commands share: examples in every help, sections in the main one, global options in any place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from kacas.cli import output
from kacas.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def filled(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Callback of path parameters: an empty path is a variable that is not set, not the current directory."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter("the path is empty; is a variable not set?", ctx=ctx, param=param)
    return value


def json_option(what: str = "Print JSON, one object per line, for programs.") -> Callable[[F], F]:
    """The option --json, as a decorator."""
    return click.option("--json", "as_json", is_flag=True, help=what)


def _take_store(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if filled(ctx, param, value) is not None:
        ctx.ensure_object(Session).store_path = value


def _take_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).debug = True


def global_options(*, hidden: bool = False) -> list[click.Parameter]:
    """--store and --debug. They stand in the main help, and are understood behind a command too."""
    return [
        click.Option(
            ["--store"],
            type=click.Path(file_okay=False, readable=False),
            metavar="PATH",
            help="The store to use, instead of $KACAS_DIR or ~/.kacas.",
            expose_value=False,
            callback=_take_store,
            hidden=hidden,
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            help="Show the traceback of an error.",
            expose_value=False,
            callback=_take_debug,
            hidden=hidden,
        ),
    ]


class ExampleCommand(click.Command):
    """A command whose help ends with examples. examples: command lines that work as they stand."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params += global_options(hidden=True)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_lines(formatter, "Examples", self.examples)


class CommandGroup(click.Group):
    """A group whose commands are listed in sections, in the order in which they were added."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.exit_codes: Sequence[tuple[str, str]] = ()
        self._sections: dict[str, list[click.Command]] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command the help is shown: click makes an error of it, all in one line."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            output.text_block(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands under a title of the help."""
        self._sections.setdefault(title, []).extend(commands)
        for command in commands:
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name or "" for commands in self._sections.values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.list_commands(ctx))
        for title, commands in self._sections.items():
            with formatter.section(title):
                rows = [(command.name or "", command.get_short_help_str(100)) for command in commands]
                # The names are padded so that the purposes stand under one another in all sections.
                formatter.write_dl([(name.ljust(width), purpose) for name, purpose in rows])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_lines(formatter, "Examples", self.examples)
        if self.exit_codes:
            with formatter.section("Exit codes"):
                formatter.write_dl(list(self.exit_codes))


def _write_lines(formatter: click.HelpFormatter, title: str, lines: Sequence[str]) -> None:
    """Lines as they are: a command line that was wrapped could not be copied."""
    with formatter.section(title):
        for line in lines:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
