"""The PAN16 reader, on archives in its documented format."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fuseforget.data import load_bias_data, read_pan16
from fuseforget.data.pan16 import plain_text, take_out_mentions
from fuseforget.errors import InputError
from test_cli import run

AGES = {"young": ("18-24", "25-34"), "old": ("35-49", "50-64", "65-xx")}


def author_xml(documents: list[tuple[str, str]], language: str = "en") -> str:
    inside = "".join(
        f'\n\t<document id="{key}" url="https://twitter.com/u/status/{key}">{f"<![CDATA[{text}]]>" if text else ""}</document>'
        for key, text in documents
    )
    return f'<author type="twitter" lang="{language}">\n<documents count="{len(documents)}">{inside}\n</documents>\n</author>\n'


def archive(path, each: int = 10, tweets: int = 4, texts: bool = True):
    """An archive with so many authors of each gender and age; every other tweet mentions someone."""
    path.mkdir()
    truth, number = [], 0
    for gender in ("MALE", "FEMALE"):
        for age in AGES:
            for i in range(each):
                number += 1
                name = f"a{number:03d}"
                documents = [
                    (f"{number}{t}", f"{name} says {t}{' to @friend_1' if t % 2 else ''}" if texts else "") for t in range(tweets)
                ]
                (path / f"{name}.xml").write_text(author_xml(documents))
                truth.append(f"{name}:::{gender}:::{AGES[age][i % len(AGES[age])]}\n")
    (path / "truth.txt").write_text("".join(truth))
    return path


@pytest.mark.parametrize(("text", "without", "label"), [
    ("hi @bob!", "hi !", 1),
    ("@bob", "", 1),
    (".@bob_2 yes , ＠ann", ". yes ,", 1),
    ("RT @x: well said", "RT : well said", 1),
    ("@bob's film", "'s film", 1),
    ("see joe.b+c@mail.org", "see joe.b+c@mail.org", 0),
    ("mail joe@mail.org or @joe", "mail joe@mail.org or", 1),
    ("an@d ü@x", "an@d ü@x", 0),
    ("at @ noon, 5 @2", "at @ noon, 5", 1),
    ("@a@b", "@a@b", 0),
    ("  no   one ", "no one", 0),
])  # fmt: skip
def test_mentions_are_taken_out_and_make_the_label(text, without, label):
    assert take_out_mentions(text) == (without, label)


@pytest.mark.parametrize(("markup", "text"), [
    ('<a href="/x" class="u"><s>@</s><b>bob</b></a> said', "@bob said"),
    ("one<br/>two<p class='x'>three</p>", "one two three"),
    ("I &lt;3 you &amp; &#233;t&eacute;", "I <3 you & été"),
    ("1 < 2 <3 a", "1 < 2 <3 a"),
    ("&amp;lt;", "&lt;"),
    (" \n tabs\tand  lines\n", "tabs and lines"),
])  # fmt: skip
def test_tags_and_entities_are_resolved(markup, text):
    assert plain_text(markup) == text


@pytest.mark.parametrize("seed", range(3))
def test_authors_are_divided_by_gender_and_age(tmp_path, seed):
    splits = read_pan16(archive(tmp_path / "pan"), seed=seed).splits
    authors = {name: set(part.units) for name, part in splits.items()}
    assert {name: len(found) for name, found in authors.items()} == {"train": 28, "validation": 4, "test": 8}
    assert len(set.union(*authors.values())) == 40
    for part in splits.values():
        groups = Counter(zip(part.attributes["gender"], part.attributes["age"], strict=True))
        assert set(groups) == {(g, a) for g in ("female", "male") for a in ("old", "young")}
        assert len(set(groups.values())) == 1
        assert part.examples.label_names == ("no_mention", "mention")
        for text, label, unit in zip(part.examples.texts, part.examples.labels, part.units, strict=True):
            assert text.split()[0] == unit
            assert label == text.endswith(" to") == int(text.split()[2]) % 2
            assert "@" not in text


def test_every_author_has_the_gender_and_age_of_the_truth(tmp_path):
    path = archive(tmp_path / "pan")
    lines = (path / "truth.txt").read_text().splitlines()
    assert sum(line.endswith("xx") for line in lines) > 0
    (path / "truth.txt").write_text("\ufeff" + "\r\n".join([*lines[:20], *(s.lower() for s in lines[20:]), ""]), newline="")
    truth = {fields[0]: fields[1:] for fields in (line.lower().split(":::") for line in lines)}
    for part in read_pan16(path).splits.values():
        for unit, gender, age in zip(part.units, part.attributes["gender"], part.attributes["age"], strict=True):
            assert gender == truth[unit][0]
            assert (age == "young") == (truth[unit][1] in ("18-24", "25-34"))


def test_a_seed_repeats_and_another_divides_otherwise(tmp_path):
    path = archive(tmp_path / "pan")
    made = [read_pan16(path, seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1]
    assert set(made[0].splits["test"].units) != set(made[2].splits["test"].units)
    assert set(read_pan16(path, validation=0).splits) == {"train", "test"}


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_texts_come_from_a_table_by_id_and_those_that_are_gone_are_counted(tmp_path, kind):
    path = archive(tmp_path / "pan", tweets=3, texts=False)
    rows = [(f"{number}{t}", "@only" if t == 1 else f"text of {number}") for number in range(1, 41) for t in range(2)]
    mark = {"tsv": "\t", "csv": ","}.get(kind, "")
    content = [mark.join(row) for row in [("id", "text"), *rows]]
    if kind == "jsonl":
        content = [json.dumps({"id": int(key), "text": text}) for key, text in rows]
    (tmp_path / f"texts.{kind}").write_text("\n".join(content) + "\n")
    found = read_pan16(path, texts=tmp_path / f"texts.{kind}")
    assert found.dropped == {"without a text": 40, "empty without mentions": 40}
    assert found.skipped == {}
    for part in found.splits.values():
        assert list(part.examples.texts) == [f"text of {int(unit[1:])}" for unit in part.units]
    with pytest.raises(InputError, match=r"tweets with a text, found none of 40 authors. .* give the texts in a table"):
        read_pan16(path)


def test_an_address_serves_where_a_tweet_has_no_id_and_silent_authors_are_named(tmp_path):
    path = archive(tmp_path / "pan")
    (path / "a001.xml").write_text('<author><documents><document url="https://t.com/u/status/77"/></documents></author>')
    (path / "a002.xml").write_text(author_xml([("5", "@all")]))
    (tmp_path / "texts.tsv").write_text("id\ttext\n77\tfound\n")
    found = read_pan16(path, texts=tmp_path / "texts.tsv")
    assert "found" in {text for part in found.splits.values() for text in part.examples.texts}
    assert found.skipped == {"no tweet left": ("a002",)}
    assert found.dropped == {"without a text": 0, "empty without mentions": 1}


BOMB = '<?xml version="1.0"?>\n<!DOCTYPE author [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<author><documents/></author>'
EXTERNAL = '<!DOCTYPE author SYSTEM "file:///etc/passwd"><author><documents/></author>'


def damage(path):
    """An archive with each kind of damage; what the message has to say of it."""
    (path / "a001.xml").unlink()
    (path / "a002.xml").unlink()
    (path / "stranger.xml").write_text(author_xml([("1", "who")]))
    (path / "a011.xml").write_text("<author><documents>")
    (path / "a012.xml").write_text(BOMB)
    (path / "a013.xml").write_text(EXTERNAL)
    (path / "a014.xml").write_text("<html/>")
    (path / "a015.xml").write_text('<?xml version="1.0" encoding="no-such"?><author/>')
    (path / "a016.xml").write_bytes(b"<author><documents>\xff</documents></author>")
    content = (path / "truth.txt").read_text()
    lines = content.splitlines()
    lines[20] = "a021:::MALE:::xx-xx"
    lines[21] = "a022:::XX:::18-24"
    (path / "truth.txt").write_text("\n".join([*lines, lines[39], "a line of nothing", ""]))
    return {
        "in the truth without a file": 2, "a file without a line in the truth": 1, "unparsable XML": 6,
        "unknown gender or age": 2, "unreadable line": 1, "in the truth twice": 1,
    }  # fmt: skip


def test_all_damage_is_said_in_one_message(tmp_path):
    path = archive(tmp_path / "pan", each=20)
    wanted = damage(path)
    with pytest.raises(InputError) as caught:
        read_pan16(path)
    message = str(caught.value)
    for reason, count in wanted.items():
        assert f"{reason}: {count} (" in message
    for name in ("a001, a002", "stranger", "a021, a022", "a040", "truth.txt line 82", "a011 (no element found"):
        assert name in message
    assert message.count("a document type declaration, which is refused") == 2
    assert "skip_damaged" in message


def test_the_rest_is_used_on_request_and_what_was_left_out_is_in_the_result(tmp_path):
    path = archive(tmp_path / "pan", each=20)
    wanted = damage(path)
    found = read_pan16(path, skip_damaged=True)
    assert {reason: len(which) for reason, which in found.skipped.items()} == wanted
    used = set.union(*(set(part.units) for part in found.splits.values()))
    damaged = {"a001", "a002", "stranger", *(f"a0{i}" for i in (11, 12, 13, 14, 15, 16, 21, 22, 40))}
    assert used == {f"a{i:03d}" for i in range(1, 81)} - damaged


def test_many_damaged_authors_are_counted_and_not_all_listed(tmp_path):
    path = archive(tmp_path / "pan")
    for i in range(1, 31):
        (path / f"a{i:03d}.xml").unlink()
    with pytest.raises(InputError, match=r"without a file: 30 \(a001, .*, a010 and 20 more\)"):
        read_pan16(path)


def test_entities_are_not_expanded(tmp_path):
    path = archive(tmp_path / "pan")
    lol = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "lol">{lol}]><author><documents><document id="1">&l9;</document></documents></author>'
    (path / "a001.xml").write_text(bomb)
    with pytest.raises(InputError, match=r"unparsable XML: 1 \(a001 \(a document type declaration"):
        read_pan16(path)


@pytest.mark.parametrize(("options", "message"), [
    ({"validation": 0.5, "test": 0.5}, "0 or more, below 1 together, found 0.5, 0.5"),
    ({"test": -0.1}, "found 0.1, -0.1"),
    ({"seed": -1}, "seed"),
    ({"texts": "gone.tsv"}, "nothing at that path"),
])  # fmt: skip
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        read_pan16(archive(tmp_path / "pan"), **options)


def test_what_is_no_archive_is_said(tmp_path):
    with pytest.raises(InputError, match="found no such directory"):
        read_pan16(tmp_path / "gone")
    with pytest.raises(InputError, match=r"a directory with truth.txt .* found no such file"):
        read_pan16(tmp_path)
    (tmp_path / "truth.txt").write_text("a:::MALE:::18-24\n")
    with pytest.raises(InputError, match="an XML file for each author, found none"):
        read_pan16(tmp_path)
    with pytest.raises(InputError, match="female, old: expected more authors than the 2 of validation and test, found 2"):
        read_pan16(archive(tmp_path / "few", each=2))


def test_a_side_table_needs_its_columns(tmp_path):
    (tmp_path / "texts.tsv").write_text("tweet\ttext\n1\ta\n")
    with pytest.raises(InputError, match="a column 'id', found columns tweet, text"):
        read_pan16(archive(tmp_path / "pan"), texts=tmp_path / "texts.tsv")


def test_the_command_reads_the_archive(tmp_path):
    path = archive(tmp_path / "pan", each=20)
    done = run("data", "bias", path, "-o", tmp_path / "d", "--pan16", "--biased", "age")
    assert done.returncode == 0, done.stderr
    made = load_bias_data(tmp_path / "d")
    assert (made.subset.attribute, made.subset.balanced) == ("age", ("gender",))
    assert set(made.test.units) & set(made.subset.data.units) == set()
    assert "tweets without a text: 0" in done.stdout
    wanted = damage(path)
    done = run("data", "bias", path, "-o", tmp_path / "e", "--pan16", "--biased", "age")
    assert done.returncode == 2
    assert "--skip-damaged" in done.stderr
    done = run("data", "bias", path, "-o", tmp_path / "e", "--pan16", "--biased", "age", "--skip-damaged", "--size", 40)
    assert done.returncode == 0, done.stderr
    assert all(f"left out, {reason}: {count} (" in done.stdout for reason, count in wanted.items())
    assert set(load_bias_data(tmp_path / "e").settings["skipped"]) == set(wanted)
