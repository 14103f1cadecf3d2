"""The commands that the README and the docs show are run, and print what they show.

Integers and words must be the same. Decimals may differ by ``TOLERANCE``: processors round bfloat16 products differently.
``python tests/test_docs.py --write`` puts the true output in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)
TOLERANCE = 0.12
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+\.\d+")


def commands(page: str) -> list[tuple[str, str]]:
    """The (command, output) pairs of a page's console blocks."""
    pairs = []
    for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        for chunk in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = chunk.partition("\n")
            pairs.append((command, output.strip()))
    return pairs


def run(command: str, directory: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 2), f"$ {command}\n{done.stderr}"
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def settled(text: str) -> str:
    """An output without what may differ between processors: tests' p-values and differences, and verdicts."""
    text = re.sub(r"^(fused - \w+) .*$", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"\b(?:not )?seen\b|\bin part\b|\btask (?:kept|lost)\b|\d+ of \d+|worse than \d+", "?", text)


def words(text: str) -> list[str]:
    """The words of an output without its decimals, and without the rules under a table's header."""
    return [word for word in NUMBER.sub(" # ", settled(text)).split() if set(word) != {"-"}]


def decimals(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(settled(text))]


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_is_what_its_commands_print(page, tmp_path):
    pairs = [(command, output) for command, output in commands(page) if not command.startswith("make ")]
    assert pairs
    for command, shown in pairs:
        printed = run(command, tmp_path)
        assert words(printed) == words(shown), f"$ {command}\n{printed}"
        for found, expected in zip(decimals(printed), decimals(shown), strict=True):
            assert abs(found - expected) <= TOLERANCE * max(1, abs(expected)), f"$ {command}\n{printed}"


@pytest.mark.docs
def test_the_readme_opens_with_the_two_targets():
    shown = [command for command, _ in commands("README.md")]
    assert shown[:2] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text()


@pytest.mark.docs
def test_every_documented_command_is_known():
    known = set(
        re.findall(
            r'app\.(?:command|add_typer)\((?:data\.app, name=)?"?(\w+)', (ROOT / "src/fuseforget/cli/__init__.py").read_text()
        )
    )
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"^\$? ?fuseforget (\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert name in known, f"{page}: fuseforget {name}"


def write_pages() -> None:
    """Run every command of the pages and put what it prints into them."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            for command, shown in commands(page):
                if not command.startswith("make "):
                    text = text.replace(f"$ {command}\n{shown}".rstrip(), f"$ {command}\n{run(command, Path(scratch))}".rstrip())
        (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write_pages()
