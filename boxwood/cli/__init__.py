"""The command line: one small file a command, which parses, calls one function of the library and prints. A command is imported
only when it is used.

Exit status: 0 done, 1 failed, 2 wrong input (one line on stderr for each mistake), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click

from boxwood import __version__
from boxwood.errors import UserError
from boxwood.printable import PrintableStream, printable

__all__ = ["LazyGroup", "cli", "main"]

COMMANDS = ("demo", "train", "eval", "predict", "distill", "data", "config", "weights", "zoo", "bench")


class LazyGroup(click.Group):
    """A group whose command ``name`` is the object ``name`` of the module ``package.name``, imported when it is used."""

    def __init__(self, *args: Any, package: str, names: Sequence[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.package, self.names = package, names

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.names:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.names and not args[0].startswith("-"):
            from boxwood.config import did_you_mean

            raise click.UsageError(f"unknown command {args[0]!r}{did_you_mean(args[0], self.names)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    package=__name__,
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="boxwood")
def cli() -> None:
    """Object detection research: train, evaluate and use detectors such as Faster and Mask R-CNN.

    \b
    Start here:
      boxwood demo                  a detector trained, scored and drawn on generated pictures, in minutes
      boxwood config list           the recipes that are there
      boxwood train RECIPE data=FOLDER   a folder of labelled images
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status; ``args`` are those of the process by default."""
    try:
        with _log_to_stderr(), contextlib.redirect_stdout(PrintableStream(sys.stdout)):
            status = cli.main(args, prog_name="boxwood", standalone_mode=False)
            sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except UserError as error:
        _print_errors([" ".join(problem.split()) for problem in getattr(error, "problems", (str(error),))])
        sys.exit(2)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        help_command = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _print_error(" ".join(error.format_message().split()).rstrip(".") + help_command)
        sys.exit(2)
    except click.ClickException as error:
        _print_error(error.format_message())
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _print_error("interrupted")
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if (text := _in_one_line(error)) is None:
            raise
        _print_error(text)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe. What Python flushes at exit goes to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _in_one_line(error: MemoryError | RuntimeError) -> str | None:
    """The message for errors that say nothing by their traceback: memory that ran out, another process that ended; else None."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        advice = "lower train.batch_size, data.workers or the size of the images, or raise train.accumulate"
        return f"memory ran out{f' ({text[:200]})' if text else ''}; {advice}"
    return text if type(error).__name__ == "ProcessLost" else None  # torch is imported where a process can be lost


def _print_error(text: str) -> None:
    print(f"boxwood: {printable(text)}", file=sys.stderr)


def _print_errors(problems: Sequence[str]) -> None:
    """Under torchrun, an error of all processes is printed by rank 0; one of another rank alone, by that one with its rank."""
    rank = ""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from boxwood.distributed import rank_zero_reports

        if rank_zero_reports("\n".join(problems)):
            return
        rank = "" if os.environ.get("RANK", "0") == "0" else f"rank {os.environ['RANK']}: "
    for problem in problems:
        _print_error(rank + problem)


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Log to stderr as plain lines: Boxwood's messages from level info on, those of other packages from warning on."""
    root, ours = logging.getLogger(), logging.getLogger("boxwood")
    before = ours.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = printable(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
