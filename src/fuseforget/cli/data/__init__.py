"""``fuseforget data``."""

from __future__ import annotations

import typer

from fuseforget.cli.data import bias, memorization, shortcuts

__all__ = ["app"]

app = typer.Typer(help="Make data sets.", no_args_is_help=True, rich_markup_mode=None)
app.command("shortcuts")(shortcuts.command)
app.command("bias")(bias.command)
app.command("memorization")(memorization.command)
