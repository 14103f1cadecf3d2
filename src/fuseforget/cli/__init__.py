"""The command line: results on stdout, progress on stderr, exit 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType

import typer

from fuseforget import stopping
from fuseforget.cli import data, dial, erase, fisher, forecast, fuse, inspect, measure, overlap, study, train
from fuseforget.errors import FuseForgetError, Stopped

__all__ = ["app", "main"]

# Commands that go on where they stopped; --out is what a run or a model is kept in.
GO_ON = {"path", "dial", "study", "demo", "train"}
GO_ON_IN = {"probe": ("-o", "--out")}
app = typer.Typer(
    name="fuseforget",
    help="Fuse fine-tuned language models of one base, and measure what was kept and what was forgotten.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("fuse")(fuse.command)
app.command("methods")(inspect.methods)
app.command("check")(inspect.check)
app.command("forecast")(forecast.command)
app.add_typer(data.app, name="data")
app.command("train")(train.command)
app.command("probe")(measure.probe)
app.command("path")(measure.path)
app.command("dial")(dial.command)
app.command("overlap")(overlap.command)
app.command("fisher")(fisher.command)
app.command("erase")(erase.command)
app.command("study")(study.study)
app.command("report")(study.report)
app.command("demo")(study.demo)


def main() -> None:
    """Run the command line; an error raised on purpose is printed as its message alone."""
    # A terminated command cleans up like an interrupted one: partial outputs go.
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        with _finishing(sys.argv[1:]):
            app()
    except Stopped as error:
        _say_how_to_go_on(error)
        sys.exit(error.exit_code)
    except FuseForgetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # what no room made a message of its own
        place = error.filename or error.filename2 or "the system"
        print(f"error: {place}: expected a file that can be read or written, found {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left, and a run resumes with the same command", file=sys.stderr)
        sys.exit(130)
    finally:
        # The interpreter looks for cycles once more before it ends: a quarter of a second, for all that torch or numba imported.
        gc.freeze()


def _finishing(arguments: Sequence[str]) -> AbstractContextManager[None]:
    """The first Ctrl-C lets a command that can go on later finish what it is at; others stop at once."""
    name = arguments[0] if arguments else ""
    kept = GO_ON_IN.get(name, ())
    goes_on = name in GO_ON or (bool(kept) and any(word.startswith(kept) for word in arguments))
    return stopping.finishing(lambda line: print(line, file=sys.stderr, flush=True)) if goes_on else nullcontext()


def _say_how_to_go_on(error: Stopped) -> None:
    from fuseforget.locks import command_line

    print(f"{error.thing}; what is finished is kept. The same command goes on:\n{command_line()}", file=sys.stderr)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
