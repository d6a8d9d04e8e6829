"""The command line: every file of this folder without a leading underscore is a command.

The command of ``extract_lora.py`` is ``extract-lora``.

The docstring of a command's file is the command's line of ``--help``. A command is imported when it
is called, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import sys
import traceback
from typing import NoReturn

import click

from .._version import __version__
from ..discovery import in_reading_order, public_modules
from ..errors import TalliesError, kept_in
from ._signals import Stopped, ignore_signals, stoppable

_READING_ORDER = (
    *("merge", "plan", "sweep", "mergekit-yaml", "moe"),
    *("pack", "unpack", "add", "remove", "choose", "consensus"),
    *("patch", "apply"),
    *("extract-lora",),
    *("inspect", "diff", "verify"),
    *("methods", "info", "demo"),
)
"""The order of ``--help``. Commands that are not named here follow, by name."""

_INTERRUPTED = 130


def _commands() -> list[str]:
    """Return the names of the commands, in reading order."""
    names = [name.replace("_", "-") for name in public_modules(__path__)]
    return in_reading_order(names, _READING_ORDER)


def _module(name: str) -> str:
    """Return the name of a command's file."""
    return name.replace("-", "_")


def _summary(name: str) -> str:
    """Return the docstring of a command's file, its first line, without importing the file."""
    source = pkgutil.get_data(__name__, f"{_module(name)}.py") or b""
    return source.partition(b"\n")[0].decode().strip('"')


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return _commands()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _commands():
            return None
        # Modules are no garbage: to look for it among them takes a twentieth of a small merge.
        gc.disable()
        try:
            module = importlib.import_module(f"{__name__}.{_module(cmd_name)}")
        finally:
            gc.freeze()
            gc.enable()
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in _commands()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _commands():
            from ..messages import unknown

            raise click.UsageError(f"command {unknown(args[0], _commands())}", ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="tallies")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Merge fine-tuned checkpoints in weight space, in bounded memory.

    Exit status: 0 done; 1 models differ (diff); 2 the request or an input is wrong, nothing was
    written; 3 reading or writing failed; 130 interrupted (by SIGTERM: 143).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line; one line on standard error when it fails.

    With TALLIES_DEBUG=1 the traceback comes before that line.
    """
    # To search for plugins takes the metadata of all installed packages, and none is for this.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        # Not group.main(), which ends with 1 when the reader of our output leaves.
        with stoppable(), group.make_context("tallies", sys.argv[1:]) as ctx:
            group.invoke(ctx)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except TalliesError as error:
        _fail(str(error) + _way_on(error), error.exit_status)
    except click.UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        if isinstance(error, click.NoSuchOption):
            hint = _as_parameter(error.option_name) or hint
        _fail(error.format_message() + hint, error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except Stopped as stopped:
        _end_interrupted(stopped.exit_status, _way_on(stopped))
    except (KeyboardInterrupt, click.Abort) as error:
        _end_interrupted(_INTERRUPTED, _way_on(error))
    except BrokenPipeError:
        # The reader of our output left; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 3)
    except Exception as error:
        kind = type(error).__name__
        _fail(f"internal error: {kind}: {error}; TALLIES_DEBUG=1 shows where", 3)
    sys.exit(0)


def _way_on(error: BaseException) -> str:
    """Return how to go on from what a run that ended kept, or nothing."""
    place = kept_in(error)
    return f"; what is finished is kept in {place}: go on with --resume" if place else ""


def _end_interrupted(status: int, way_on: str) -> NoReturn:
    """Say so and end at once: a thread that is busy in a library cannot be stopped otherwise."""
    ignore_signals()
    try:
        _fail(f"interrupted{way_on}", status)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _as_parameter(option: str) -> str:
    """Return how to give a parameter of a method that was taken for an option, or nothing."""
    from .. import methods

    name = option.lstrip("-").replace("-", "_")
    for method in map(methods.get, methods.names()):
        for semantics in method.semantics:
            for proper, parameter in method.parameters(semantics).items():
                if name in (proper, *parameter.aliases):
                    return f" It is a parameter of methods: --param {name}=VALUE"
    return ""


def _fail(message: str, status: int) -> NoReturn:
    if os.environ.get("TALLIES_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    print(f"tallies: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(status)
