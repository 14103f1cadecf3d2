"""The command line: results on stdout, progress on stderr, exit 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

import typer

from fuseforget.cli import data, erase, forecast, fuse, inspect, measure, overlap, study, train
from fuseforget.errors import FuseForgetError

__all__ = ["app", "main"]

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
app.command("overlap")(overlap.command)
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
        app()
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


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
