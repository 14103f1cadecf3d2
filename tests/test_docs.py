"""The commands that the README and the docs show are run, and print what they show; those that cannot be run are parsed.

Integers and words must be the same. Processors round products differently, or compute in bfloat16 or float32, and training goes
on from there: decimals may differ by ``TOLERANCE``, perplexities, which are exponentials of losses, by ``IN_PERPLEXITY``, and
where two processors differ by more (:func:`settled`) they are not compared. What the demo must show on any processor
is asserted from its records. ``python tests/test_docs.py --write`` puts the true output in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from parsing import UsageError, parameters_of

ROOT = Path(__file__).parent.parent
# In the order in which they are run: commands of one page go on from those before it. The last page goes on from the demo alone:
# test_docs_memorization.py has it, so that another process can run it.
TOGETHER = ("README.md", "docs/scale.md", "docs/fusing.md", "docs/forgetting.md", "docs/bias.md",
            "docs/methods/spectral-consensus.md")  # fmt: skip
PAGES = (*TOGETHER, "docs/memorization.md")
DEMO = "fuseforget demo -o runs/demo"
TOLERANCE = 0.05
IN_PERPLEXITY = 0.1  # of it: one of bfloat16 (AMX) and one of float32 differed by .052 to .061
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLAIN_BLOCK = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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
    if not (directory / "examples").exists():
        (directory / "examples").symlink_to(ROOT / "examples")
    # A cache of its own: what a study pretrained before is not what it would pretrain now.
    own = {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(directory / ".cache")}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **own}
    done = subprocess.run(command, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=2400)
    assert done.returncode in (0, 2), f"$ {command}\n{done.stderr}"
    # The status of a pipe is that of its end, which does not say that nothing came in.
    assert done.stdout.strip() or "|" not in command, f"$ {command}\n{done.stderr}"
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def settled(text: str) -> str:
    """An output without what may differ between processors.

    That is tests' p-values and differences, and verdicts; how far a shortcut is known to a model that was not trained for
    it, or after one epoch among others (the full model); accuracies on the steep middle of a path or a dial, and of averages of
    few models; and Fishers, which a few unsure texts decide.
    """
    text = re.sub(r"^(fused - \w+) .*$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^(examples exposed|canaries repeated) .*$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"left midway: [^;]*;", "left midway: ?;", text)
    text = re.sub(r"^(0\.\d+, 0\.\d+ +\w+ +accuracy) .*$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^(0(?:\.\d+)?|runs/\S+)  +\d\.\d+ \[.*$", r"\1", text, flags=re.MULTILINE)  # a dial
    text = re.sub(r"^(\d +\d of \d) .*$", r"\1", text, flags=re.MULTILINE)  # averages of so many models
    text = re.sub(r"mean retention .*? of 2, .*$", "?", text, flags=re.MULTILINE)
    text = re.sub(r"^overlap .*$", "overlap ?", text, flags=re.MULTILINE)
    text = re.sub(r"^(\S+(?: \d+)?) .*%$", r"\1", text, flags=re.MULTILINE)  # overlap by layer and kind
    text = re.sub(r" \S+ \[\S+ \S+\] against .*$", " ?", text, flags=re.MULTILINE)  # Table 4
    # Paired differences with their tests, in an audit.
    text = re.sub(r"[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\] +\S+ +\S+$", "?", text, flags=re.MULTILINE)
    text = re.sub(r"\b(?:not )?seen\b|\bin part\b|\d+ of \d+|worse than \d+", "?", text)
    lines, header = [], []
    for line in text.splitlines():
        cells = re.split(r"  +", line)
        titles = [cell.split(" (n=")[0] for cell in cells]
        if titles[0] == "shortcut" or (titles[0] == "model" and "task" in titles):
            header = titles
        elif not line:
            header = []
        elif len(cells) == len(header):
            cells = [cell if _settles(header[0], cells[0], title) else "?" for title, cell in zip(header, cells, strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _settles(table: str, row: str, column: str) -> bool:
    """Whether processors agree on a cell of the table of retentions (``shortcut``) or of accuracies (``model``)."""
    if table == "shortcut":
        return column != "full"
    return row in ("control", "fused") or column in (table, row, "task")


def words(text: str) -> list[str]:
    """The words of an output without its decimals, and without the rules under a table's header."""
    return [word for word in NUMBER.sub(" # ", settled(text)).split() if set(word) != {"-"}]


def decimals(text: str) -> list[tuple[float, bool]]:
    """The decimals of an output, and whether each is a perplexity: in a line of these, or below a title that says so."""
    found, titles = [], []
    for line in settled(text).splitlines():
        cells = re.split(r"  +", line)
        if not line or (not NUMBER.search(line) and set(line) - set("- ")):
            titles = cells
        under = titles if len(titles) == len(cells) else [""] * len(cells)
        for cell, title in zip(cells, under, strict=True):
            perplexity = "perplexity" in f"{line} {title}".lower()
            found += [(float(number), perplexity) for number in NUMBER.findall(cell)]
    return found


def agree(printed: str, shown: str) -> bool:
    """Whether the decimals of two outputs of the same words are as near as processors make them."""
    pairs = zip(decimals(printed), decimals(shown), strict=True)
    return all(
        abs(found - expected) <= (IN_PERPLEXITY if perplexity else TOLERANCE) * max(1, abs(expected))
        for (found, _), (expected, perplexity) in pairs
    )


def check_page(page: str, home: Path) -> None:
    """Run a page's commands in a directory and compare what they print with what it shows."""
    pairs = [(command, output) for command, output in commands(page) if not command.startswith("make ")]
    assert pairs
    for command, shown in pairs:
        printed = run(command, home)
        assert words(printed) == words(shown), f"$ {command}\n{printed}"
        assert agree(printed, shown), f"$ {command}\n{printed}"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the pages' commands are run, one after the other."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.docs
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", TOGETHER)
def test_what_the_page_shows_is_what_its_commands_print(page, home):
    check_page(page, home)


@pytest.mark.docs
@pytest.mark.timeout(3600)
def test_the_demo_shows_what_it_is_for(home):
    """Every specialist knows its shortcut, the fused model has forgotten them, and the task is as good as theirs."""
    facts = json.loads(run(f"{DEMO} --json", home))["records"]
    at = {(r["model"], r["probe"]): r["value"] for r in facts if r["kind"] == "measurement" and "model" in r}
    (rules,) = [r["models"] for r in facts if r["kind"] == "fusion"]
    assert len(rules) >= 4
    assert {rule: at[rule, rule] for rule in rules if at[rule, rule] < 0.95} == {}
    (mean,) = [r for r in facts if r["kind"] == "retention" and (r["model"], r["rule"]) == ("fused", "mean")]
    assert mean["over"] == rules
    assert mean["value"] <= 0.25
    assert at["fused", "task"] >= sum(at[rule, "task"] for rule in rules) / len(rules) - 0.01


@pytest.mark.docs
def test_the_readme_opens_with_the_two_targets():
    shown = [command for command, _ in commands("README.md")]
    assert shown[:2] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text()


def documented() -> list[tuple[str, str]]:
    """The (page, command) pairs of all pages, run or not."""
    found = []
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]):
        name = str(page.relative_to(ROOT))
        plain = [line for block in PLAIN_BLOCK.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()]
        shown = [command for command, _ in commands(name)]
        found += [(name, command) for command in (*shown, *plain) if command.startswith("fuseforget ")]
    return found


def test_all_pages_have_commands():
    pages = {page for page, _ in documented()}
    assert {"README.md", "docs/results/shortcuts.md"} <= pages
    assert {command.split()[1] for _, command in documented()} >= {"data", "train", "study", "report", "demo", "fuse", "path"}


@pytest.mark.parametrize(("page", "command"), documented())
def test_every_documented_command_has_the_options_that_it_uses(page, command):
    assert parameters_of(command)


@pytest.mark.parametrize(
    "command", ["fuseforget study shortcuts -o RUN --size small", "fuseforget unheard -o RUN", "fuseforget demo x"]
)
def test_commands_that_do_not_exist_are_noticed(command):
    with pytest.raises(UsageError):
        parameters_of(command)


@pytest.mark.parametrize(("first", "second", "same"), [
    ("0.5, 0.5  op  accuracy  0.554  [0.524, 0.584]  1000", "0.5, 0.5  op  accuracy  0.454  [0.424, 0.484]  1000", True),
    ("1, 0      op  accuracy  0.994  [0.989, 0.998]  1000", "1, 0      op  accuracy  0.554  [0.524, 0.584]  1000", False),
    ("model  OP (n=9)  task (n=9)\nOP     0.990     0.980", "model  OP (n=9)  task (n=9)\nOP     0.890     0.980", False),
    ("model  OP (n=9)  task (n=9)\nOR     0.600     0.980", "model  OP (n=9)  task (n=9)\nOR     0.700     0.980", True),
    ("model  OP (n=9)  task (n=9)\nfused  0.500     0.980", "model  OP (n=9)  task (n=9)\nfused  0.600     0.980", False),
    ("Perplexity: the base 9.1, alone 13.0.", "Perplexity: the base 9.1, alone 13.9.", True),
    ("Perplexity: the base 9.1, alone 13.0.", "Perplexity: the base 9.1, alone 15.0.", False),
    ("m  ALR    perplexity\n-  -----\nA  1.000  9.10", "m  ALR    perplexity\n-  -----\nA  1.000  9.80", True),
    ("m  ALR    perplexity\n-  -----\nA  1.000  9.10", "m  ALR    perplexity\n-  -----\nA  1.080  9.10", False),
])  # fmt: skip
def test_the_comparison_lets_through_only_what_processors_do_not_agree_on(first, second, same):
    assert (words(first) == words(second) and agree(first, second)) is same


def write_pages() -> None:
    """Run every command of the pages and put what it prints into them."""
    with tempfile.TemporaryDirectory() as scratch:
        for page in PAGES:
            text = (ROOT / page).read_text(encoding="utf-8")
            for command, shown in commands(page):
                if not command.startswith("make "):
                    text = text.replace(f"$ {command}\n{shown}".rstrip(), f"$ {command}\n{run(command, Path(scratch))}".rstrip())
            (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write_pages()
