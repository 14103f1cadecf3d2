"""The PAN16 author profiling corpus: tweets by author, with the author's gender and age.

Rangel et al. 2016. A directory holds one XML file an author (``ID.xml``) and ``truth.txt`` (``ID:::GENDER:::AGE``). As in
Zaman et al. 2023, section 5, and Elazar and Goldberg 2018, the label is whether a tweet mentions someone, mentions are taken
out of the text, and authors of 18 to 34 years are young, older ones old.

Twitter's terms let the corpus be handed on without texts, as ids alone: these then come from a table of their own.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from fuseforget.data.attributes import AttributedExamples
from fuseforget.data.common import generator
from fuseforget.data.examples import Examples
from fuseforget.data.tables import read_table, require_column, text_column
from fuseforget.errors import InputError, require_seed

__all__ = ["Pan16", "plain_text", "read_pan16", "take_out_mentions"]

LABELS = ("no_mention", "mention")
GENDERS = ("female", "male")
AGES = {"18-24": "young", "25-34": "young", "35-49": "old", "50-64": "old", "65-xx": "old"}
TRUTH = "truth.txt"
LISTED = 10  # how many of what is damaged a message names

BREAKS = re.compile(r"<(?:br|p|div|li)\b[^<>]*>", re.IGNORECASE)
TAGS = re.compile(r"</?[A-Za-z][^<>]*>")
# As Twitter links them: not after a letter (an e-mail address), nor after another sign that makes it none; never @a@b.
MENTION = re.compile(r"(?<![\w!#$%&*@＠])[@＠][A-Za-z0-9_]+(?![\w@＠])")


@dataclass(frozen=True)
class Pan16:
    """The corpus, divided by authors.

    Attributes:
        splits: train, validation and test with the attributes gender (female, male) and age (old, young); the unit is the
            author.
        skipped: what was damaged and left out, authors or lines by reason; empty where nothing was.
        dropped: how many tweets were left out, by reason: without a text, or empty without their mentions.
    """

    splits: dict[str, AttributedExamples]
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Author:
    name: str
    gender: str
    age: str
    tweets: tuple[tuple[str, int], ...]  # text without mentions, and the label


def read_pan16(
    directory: str | Path,
    *,
    texts: str | Path | None = None,
    seed: int = 0,
    skip_damaged: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
) -> Pan16:
    """Read the corpus and divide its authors.

    Args:
        directory: where ``truth.txt`` and the authors' XML files are.
        texts: a table (.tsv, .csv, .jsonl, .parquet) with the columns id and text, for tweets whose text is not in the XML;
            where both have one, the table's is taken.
        seed: of the division.
        skip_damaged: go on without authors that are missing or damaged, and say which in the result.
        validation, test: the share of the authors of each gender and age that these splits get, at least one; 0 makes none.

    Raises:
        InputError: no such directory or no truth; authors without a file, files without an author, unparsable XML, unknown
            genders or ages (all of them in one message, counted); no tweet with a text; too few authors of a gender and age.
    """
    require_seed(seed)
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise InputError("shares of validation and test", expected="0 or more, below 1 together", found=f"{validation}, {test}")
    path = Path(directory).expanduser()
    truth, damaged = _read_truth(path)
    files = {file.stem: file for file in sorted(path.glob("*.xml"))}
    if not files:
        raise InputError(str(path), expected="an XML file for each author", found="none")
    damaged["in the truth without a file"] = sorted(set(truth) - set(files))
    named = {*truth, *damaged["unknown gender or age"], *damaged["in the truth twice"]}
    damaged["a file without a line in the truth"] = sorted(set(files) - named)
    side = {} if texts is None else _read_texts(texts)
    authors, dropped = [], Counter({"without a text": 0, "empty without mentions": 0})
    for name in sorted(set(truth) & set(files)):
        try:
            tweets = _read_author(files[name], side)
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for encodings that there are not
            damaged["unparsable XML"].append(f"{name} ({error})")
            continue
        labelled = [take_out_mentions(text) for text in tweets if text]
        kept = tuple(pair for pair in labelled if pair[0])
        dropped.update({"without a text": len(tweets) - len(labelled), "empty without mentions": len(labelled) - len(kept)})
        authors.append(_Author(name, *truth[name], kept))
    skipped = {reason: tuple(which) for reason, which in damaged.items() if which}
    if skipped and not skip_damaged:
        raise _damaged(path, skipped)
    silent = tuple(author.name for author in authors if not author.tweets)
    if len(silent) == len(authors):
        action = "" if texts is not None else "Where the XML has ids alone, give the texts in a table (texts)."
        raise InputError(str(path), expected="tweets with a text", found=f"none of {len(authors)} authors", action=action)
    splits = _divide([author for author in authors if author.tweets], {"validation": validation, "test": test}, seed)
    return Pan16(splits, {**skipped, **({"no tweet left": silent} if silent else {})}, dict(dropped))


def take_out_mentions(text: str) -> tuple[str, int]:
    """Return the text without its mentions (``@name``), and 1 where it had any, else 0.

    The sign in an e-mail address or inside a word is no mention, and stays.
    """
    rest, count = MENTION.subn(" ", text)
    return " ".join(rest.split()), int(count > 0)


def plain_text(markup: str) -> str:
    """The text of a tweet as it was shown: without tags, entities resolved, spaces single."""
    return " ".join(html.unescape(TAGS.sub("", BREAKS.sub(" ", markup))).split())


def _read_truth(path: Path) -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """Gender and age by author, and a list for each reason why something is damaged, filled as far as the truth shows it."""
    if not (path / TRUTH).is_file():
        found = "no such file" if path.is_dir() else "no such directory"
        raise InputError(str(path), expected=f"a directory with {TRUTH} and the authors' XML files", found=found)
    reasons = ("in the truth without a file", "a file without a line in the truth", "unparsable XML", "unknown gender or age")
    damaged: dict[str, list[str]] = {reason: [] for reason in (*reasons, "unreadable line", "in the truth twice")}
    truth: dict[str, tuple[str, str]] = {}
    unknown = damaged["unknown gender or age"]
    content = (path / TRUTH).read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(content.splitlines(), 1):
        fields = [part.strip() for part in line.split(":::")]
        if not line.strip():
            continue
        if len(fields) < 3 or not fields[0]:
            damaged["unreadable line"].append(f"{TRUTH} line {number}")
            continue
        name, gender, age = fields[0], fields[1].lower(), AGES.get(fields[2].lower(), "")
        if name in truth or name in unknown:
            damaged["in the truth twice"].append(name)
        elif gender not in GENDERS or not age:
            unknown.append(name)
        else:
            truth[name] = (gender, age)
    for name in damaged["in the truth twice"]:
        truth.pop(name, None)
    return truth, damaged


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type: its entities can make a small file fill the memory."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ElementTree.ParseError("a document type declaration, which is refused")


def _read_author(file: Path, side: Mapping[str, str]) -> list[str]:
    """The plain texts of an author's tweets, empty where a tweet has none."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    parser.feed(file.read_bytes())
    root = parser.close()
    if root.tag != "author":
        raise ElementTree.ParseError(f"a {root.tag!r} where an 'author' was expected")
    return [plain_text(side.get(_tweet_id(document), "") or "".join(document.itertext())) for document in root.iter("document")]


def _tweet_id(document: ElementTree.Element) -> str:
    """Its id, or, where it has none, the end of its address."""
    return (document.get("id") or document.get("url", "").rstrip("/").rpartition("/")[2]).strip()


def _read_texts(source: str | Path) -> dict[str, str]:
    table = read_table(Path(source), "train")
    where = str(source)
    ids, column = table[require_column(where, table, None, ("id",))], text_column(where, table, None)
    return {str(key).strip(): str(value) for key, value in zip(ids, table[column], strict=True) if value is not None}


def _damaged(path: Path, skipped: Mapping[str, tuple[str, ...]]) -> InputError:
    parts = []
    for reason, which in skipped.items():
        more = f" and {len(which) - LISTED} more" if len(which) > LISTED else ""
        parts.append(f"{reason}: {len(which)} ({', '.join(which[:LISTED])}{more})")
    return InputError(
        str(path),
        expected="a file that can be read for each author of the truth, and a gender and age that are known",
        found="; ".join(parts),
        action="To use the rest, ask for it: skip_damaged (--skip-damaged).",
    )


def _divide(authors: list[_Author], shares: Mapping[str, float], seed: int) -> dict[str, AttributedExamples]:
    """Splits that share no author, with the same share of the authors of each gender and age."""
    wanted = {name: share for name, share in shares.items() if share}
    members: dict[str, list[_Author]] = {name: [] for name in ("train", *wanted)}
    for stratum in sorted({(author.gender, author.age) for author in authors}):
        own = [author for author in authors if (author.gender, author.age) == stratum]
        sizes = {name: max(1, round(share * len(own))) for name, share in wanted.items()}
        if sum(sizes.values()) >= len(own):
            expected = f"more authors than the {sum(sizes.values())} of {' and '.join(sizes)}"
            raise InputError(f"authors who are {', '.join(stratum)}", expected=expected, found=str(len(own)))
        order = iter(generator(seed, "pan16", *stratum).permutation(len(own)).tolist())
        for name, size in sizes.items():
            members[name] += [own[next(order)] for _ in range(size)]
        members["train"] += [own[i] for i in order]
    return {name: _table_of(part) for name, part in members.items()}


def _table_of(authors: list[_Author]) -> AttributedExamples:
    rows = [(author, text, label) for author in sorted(authors, key=lambda a: a.name) for text, label in author.tweets]
    return AttributedExamples(
        Examples(tuple(text for _, text, _ in rows), tuple(label for *_, label in rows), LABELS),
        {"gender": tuple(a.gender for a, *_ in rows), "age": tuple(a.age for a, *_ in rows)},
        tuple(a.name for a, *_ in rows),
        {"gender": GENDERS, "age": ("old", "young")},
    )
