"""The command that makes a run again."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

__all__ = ["NOTHING_GROWN", "Grown", "repeat_command"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Grown:
    """What a finished run can be asked for more of, and its settings so do not say: a study's parts, seeds and sources."""

    parts: tuple[str, ...] = ()
    seeds: int | None = None
    sources: tuple[str, ...] = ()


NOTHING_GROWN = Grown()


def repeat_command(description: Record, grown: Grown = NOTHING_GROWN) -> str:
    """The command that makes the run again; PROBES.yaml stands for probes not read from a file."""
    settings = description["settings"]
    words = ["fuseforget", *description["command"].split()]
    if description["command"] == "study fisher":
        words += ["--from", settings["source"], "--seed", str(settings["seed"])]
    elif description["command"] == "study forgetting":
        words += [word for flag, of in (("--from", grown.sources), ("--part", grown.parts)) for one in of for word in (flag, one)]
        words += ["--seed", str(settings["seed"]), "--validation", str(settings["texts"])]
    elif description["command"].startswith("study"):
        words += _of_study(settings, grown)
    else:
        words += _of_probes(description)
    return shlex.join([*words, "-o", "RUN"])


def _of_study(settings: Record, grown: Grown) -> list[str]:
    words = ["--scale", settings["scale"], "--seed", str(settings["seed"])]
    # Runs of earlier versions have no ratio of their own: all had the default.
    flags = {"base": "base", "data": "data", "names": "names", "unit": "unit", "sentences": "sentences", "rows": "sentences",
             "ratio": "ratio", "text": "text"}  # fmt: skip
    if "recipe" in settings:
        # The tiny scale has articles of its own, and no split of them.
        flags |= {"rows": "rows"} | ({"split": "split"} if settings["data"] is not None else {})
    for option, flag in flags.items():
        if settings.get(option) is not None:
            words += [f"--{flag}", str(settings[option])]
    if "recipe" in settings:
        words += _of_memorization(settings)
    for flag, values in (
        ("rule", settings.get("rules", ())),
        ("attribute", settings.get("attributes", ())),
        ("part", grown.parts),
    ):
        for value in values:
            words += [f"--{flag}", value]
    if grown.seeds is not None:
        words += ["--seeds", str(grown.seeds)]
    return [*words, *(["--as-published"] if settings.get("as_published") else [])]


def _of_memorization(settings: Record) -> list[str]:
    """What a study of memorization has of its own."""
    words = [word for file in settings["pretrain"] for word in ("--pretrain", file)]
    words += ["--control", str(settings["control"]), "--validation", str(settings["validation"])]
    words += ["--epochs", str(settings["train"]["max_epochs"]), "--learning-rate", str(settings["train"]["learning_rate"])]
    words += ["--masked"] if settings["masked"] and settings["base"] is None else []
    if settings["recipe"] is not None:
        return [*words, "--recipe", settings["recipe"], "--shards", str(settings["models"])]
    return [*words, "--models", str(settings["models"]), "--shared", str(settings["shared"])]


def _of_probes(description: Record) -> list[str]:
    """Of ``probe``, ``path`` and ``dial``."""
    settings = description["settings"]
    file = description.get("about", {}).get("probes_file", {}).get("path", "PROBES.yaml")
    words = [*settings["models"], "--probes", file]
    for option in ("steps", "method", "seed"):
        if option in settings:
            words += [f"--{option}", str(settings[option])]
    if "base" in settings:
        words += ["--base", settings["base"]["models"][0]]
    for name, value in settings.get("parameters", {}).items():
        words += ["--param", f"{name}={json.dumps(value)}"]
    for weight in settings.get("weights", ()):
        words += ["--weight", str(weight)]
    return [*words, *(["--exact"] if settings.get("exact") else [])]
