"""Commands read as the command line reads them, without running anything."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

import typer

from fuseforget.cli import app

# Of click, or of typer's own copy of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def parameters_of(command: str) -> dict[str, Any]:
    """The parameters of a ``fuseforget ...`` command by name; what the command line would refuse is a ``UsageError``.

    What the shell does with its output, or after it, does not belong to the command.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&>")
    lexer.whitespace_split = True
    words = list(itertools.takewhile(lambda word: not set(word) <= set("|&>"), lexer))
    if words[-1] == "2" and command.split("2>", 1)[0] != command:  # the number of a redirected stream
        words.pop()
    assert words[0] == "fuseforget", command
    found, name, rest = typer.main.get_command(app), words[0], words[1:]
    while hasattr(found, "commands"):  # a group: fuseforget itself, `data`
        name, found, rest = found.resolve_command(found.context_class(found, info_name=name), rest)
    return dict(found.make_context(name, rest).params)
