"""From an entry of a probes file to what its models are asked: rows of members and of non-members, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.data import Rows, is_memorization_data, join_rows, load_memorization, one_each, pack, read_documents
from fuseforget.data.pool import refuse_overlap
from fuseforget.errors import InputError
from fuseforget.knowledge import MemorizationSpec
from fuseforget.knowledge.leak_metrics import LeakMetric, default_metrics, leak_metric
from fuseforget.knowledge.probes_file import require_evidence
from fuseforget.models import TextReader, read_text_reader
from fuseforget.records import Record

__all__ = ["MEMBERS", "NON_MEMBERS", "LeakProbe", "describe_data", "describe_leaks", "load_leak_probes"]

MEMBERS, NON_MEMBERS = "members", "non_members"
Say = Callable[[str], None]


@dataclass(frozen=True)
class LeakProbe:
    """What models are asked about what they may have memorised.

    Attributes:
        rows: members and, where there are any, non-members; none of these has tokens of a text of those.
        carriers: rows left out because they carry canaries, by set.
        reference: the pretrained model, called as it is among the models where it is one of them.
        metrics: what to measure.
        extract: how many tokens of a row are given, and how many are to follow.
        seed: of masks, intervals and the blind baseline.
        reader: how all of the models read texts.
    """

    name: str
    rows: dict[str, Rows]
    carriers: dict[str, int]
    reference: str | None
    metrics: tuple[LeakMetric, ...]
    extract: tuple[int, int]
    seed: int
    reader: TextReader

    def set_name(self, on: str) -> str:
        """What a run's records call a set of rows."""
        return f"{self.name}.{on}"

    @property
    def sets(self) -> dict[str, Rows]:
        return {self.set_name(on): rows for on, rows in self.rows.items()}

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that are asked for."""
        return tuple(dict.fromkeys(metric.attack for metric in self.metrics if metric.attack))

    @property
    def extracts(self) -> bool:
        return any(metric.measure == "extraction" for metric in self.metrics)


def load_leak_probes(specs: Sequence[MemorizationSpec], models: Sequence[str], *, say: Say) -> list[LeakProbe]:
    """Read the rows of entries; of the models their tokenizers and configurations alone.

    Raises:
        InputError: a model or a reference that is no language model, that reads texts in another way than the others or
            predicts among another vocabulary; data that cannot be read or is too small; non-members that are members too;
            metrics that these models have not.
    """
    readers: dict[str, TextReader] = {}
    return [_load(spec, models, readers, say) for spec in specs]


def describe_leaks(probes: Sequence[LeakProbe]) -> Record:
    """What makes the entries the same when a run is resumed."""
    return {
        probe.name: {
            "rows": {on: {"n": len(rows), "sha256": rows.sha256} for on, rows in probe.rows.items()},
            "reference": probe.reference,
            "reference_sha256": _weights_sha256(probe.reference),
            "tokenizer": probe.reader.sha256,
            "masked": probe.reader.masked,
            "metrics": [metric.name for metric in probe.metrics],
            "extract": list(probe.extract),
            "seed": probe.seed,
        }
        for probe in probes
    }  # fmt: skip


def _weights_sha256(source: str | None) -> list[str]:
    return [] if source is None else [file_sha256(file) for file in open_checkpoint(source).files]


def describe_data(spec: MemorizationSpec) -> Record:
    """Where an entry's rows come from, to find them again: places, and digests of those that are single files."""
    places = {"data": spec.data, "non_members": spec.non_members}
    files = {key: file_sha256(Path(place)) for key, place in places.items() if place is not None and Path(place).is_file()}
    return {**spec.model_dump(exclude_none=True, mode="json"), "file_sha256": files}


def _load(spec: MemorizationSpec, models: Sequence[str], readers: dict[str, TextReader], say: Say) -> LeakProbe:
    require_evidence(spec.name, spec)  # an entry that came from no file was not checked yet
    reference = None if spec.reference is None else _as_a_model(spec.reference, models)
    asked = list(dict.fromkeys([*([] if reference is None else [reference]), *models]))
    for source in asked:
        if source not in readers:
            readers[source] = _read(spec.name, source)
    _require_alike(spec.name, asked, [readers[source] for source in asked])
    reader = readers[asked[0]]
    windows = [window for source in asked if (window := readers[source].window) is not None]
    rows, carriers = _rows(spec, reader, min(windows, default=None))
    metrics = _metrics(spec, reader, rows[MEMBERS], models[0], say)
    return LeakProbe(spec.name, rows, carriers, reference, metrics, spec.extract, spec.seed, reader)


def _as_a_model(reference: str, models: Sequence[str]) -> str:
    """What the reference is called where it is one of the models, however it is spelled; else its own name."""
    for model in models:
        if Path(reference).exists() and Path(model).exists() and Path(reference).samefile(model):
            return model
    return reference


def _read(name: str, source: str) -> TextReader:
    try:
        return read_text_reader(open_checkpoint(source).path, source)
    except InputError as error:
        where = f"{name} (kind: memorization), {error.thing if source in error.thing else f'{source}: {error.thing}'}"
        raise InputError(where, expected=error.expected, found=error.found, action=error.action) from None


def _require_alike(name: str, sources: Sequence[str], readers: Sequence[TextReader]) -> None:
    """Raise InputError unless all models read a text as the same tokens and predict among as many."""
    first = readers[0]
    for source, reader in zip(sources[1:], readers[1:], strict=True):
        differ = {
            f"a {'masked language model' if first.masked else 'decoder'}": reader.masked == first.masked,
            f"a vocabulary of {first.vocabulary}": reader.vocabulary == first.vocabulary,
            "its tokenizer": reader.sha256 == first.sha256,
        }
        wrong = [what for what, same in differ.items() if not same]
        if wrong:
            found = {"its tokenizer": "another", f"a vocabulary of {first.vocabulary}": str(reader.vocabulary)}
            raise InputError(
                f"{name}: {source}",
                expected=f"{' and '.join(wrong)}, as {sources[0]} has it",
                found=", ".join(found.get(what, "another kind") for what in wrong),
                action="Likelihoods of other tokens cannot be compared: take a reference and models of one pretrained base.",
            )


def _rows(spec: MemorizationSpec, reader: TextReader, window: int | None) -> tuple[dict[str, Rows], dict[str, int]]:
    """The rows of both sets, and how many of each were left out for carrying canaries."""
    if spec.block is not None and (reader.masked or spec.block > (window or spec.block)):
        expected = "none for a masked language model" if reader.masked else f"at most {window} tokens, which the models read"
        raise InputError(f"{spec.name}, block", expected=expected, found=str(spec.block))
    sources = {MEMBERS: (spec.data, spec.split, spec.parts)}
    if spec.non_members is not None:
        sources[NON_MEMBERS] = (spec.non_members, spec.non_members_split, spec.non_members_parts)
    texts = {on: read_documents(data, split=split, text=_column(spec, data)) for on, (data, split, _) in sources.items()
             if not is_memorization_data(data)}  # fmt: skip
    if len(texts) == 2:
        members, others = texts[MEMBERS], texts[NON_MEMBERS]
        refuse_overlap(members, others, range(len(members) + len(others)), thing=f"{spec.name}: non_members")
    elif len(sources) == 2 and texts:
        raise InputError(spec.name, expected="data and non_members both texts, or both of a corpus", found="one of each")
    rows, carriers = {}, {}
    for on, (data, _, parts) in sources.items():
        made = _of_texts(spec, texts[on], reader, window) if on in texts else _of_corpus(spec, data, parts, reader)
        carrying = np.array([bool(own) and min(own) < 0 for own in made.documents], dtype=bool)
        # What tells members from non-members must not be canaries, which are in few rows and in no non-member.
        rows[on] = _without(made, carrying) if carrying.any() else made
        carriers[on] = int(carrying.sum())
        _require_some(spec, on, rows[on], len(texts.get(on, ())))
    if len(rows) == 2:
        rows[NON_MEMBERS] = _separate(spec, rows, on_texts=bool(texts))
    return rows, carriers


def _column(spec: MemorizationSpec, data: str) -> str | None:
    return None if data.endswith(".txt") else spec.text


def _of_texts(spec: MemorizationSpec, texts: Sequence[str], reader: TextReader, window: int | None) -> Rows:
    if spec.parts is not None:
        raise InputError(f"{spec.name}, parts", expected="a corpus made by `fuseforget data memorization`", found=spec.data)
    tokens = reader.encode(texts)
    if spec.block is None:
        return one_each(tokens, window, special=reader.special)
    if reader.separator is None:
        raise InputError(f"{spec.name}, block", expected="a tokenizer with a token that ends texts", found="none")
    return pack(tokens, spec.block, reader.separator)


def _of_corpus(spec: MemorizationSpec, data: str, parts: Sequence[str] | None, reader: TextReader) -> Rows:
    corpus = load_memorization(data)
    unknown = [part for part in parts or [""] if part not in corpus.parts]
    if unknown:
        raise InputError(
            f"{spec.name}: parts of {data}", expected=f"some of {', '.join(corpus.parts)}", found=", ".join(unknown) or "none"
        )
    if corpus.settings["tokenizer"] != reader.sha256:
        raise InputError(f"{spec.name}: {data}", expected="a corpus read by the models' tokenizer", found="one of another")
    if spec.block is not None:
        raise InputError(f"{spec.name}, block", expected=f"none, since {data} has rows", found=str(spec.block))
    return join_rows([corpus.parts[part] for part in parts or ()])


def _without(rows: Rows, left_out: np.ndarray) -> Rows:
    """The other rows; what was counted in making them stays counted."""
    kept = rows.take(np.flatnonzero(~left_out))
    return Rows(kept.ids, kept.documents, short=rows.short, cut=rows.cut, rest=rows.rest)


def _separate(spec: MemorizationSpec, rows: dict[str, Rows], *, on_texts: bool) -> Rows:
    """The non-members with document numbers apart from the members'; those of a corpus are so, or are refused."""
    others = rows[NON_MEMBERS]
    known = {number for own in rows[MEMBERS].documents for number in own}
    if on_texts:
        ahead = max(known) + 1
        moved = tuple(tuple(number + ahead for number in own) for own in others.documents)
        return Rows(others.ids, moved, short=others.short, cut=others.cut, rest=others.rest)
    read = set(rows[MEMBERS].ids)
    same = [row for row, (ids, own) in enumerate(zip(others.ids, others.documents, strict=True), 1)
            if known & set(own) or ids in read]  # fmt: skip
    if same:
        shown = ", ".join(f"row {row}" for row in same[:3])
        raise InputError(
            f"{spec.name}: non_members", expected="rows of documents that no member row has",
            found=f"{len(same)} of {len(others)} ({shown})", action="Take other parts.",
        )  # fmt: skip
    return others


def _require_some(spec: MemorizationSpec, on: str, rows: Rows, texts: int) -> None:
    """Raise InputError for no members, or non-members that have no two halves: one is for a threshold, one to judge it on."""
    needed = 1 if on == MEMBERS else 2
    if len(rows) >= needed:
        return
    short = f"{rows.short} of {texts} texts have fewer than 5 tokens"
    of_block = f", and {rows.rest} tokens fill no block of {spec.block}" if spec.block is not None else ""
    raise InputError(
        f"{spec.name}: {on}",
        expected=f"{needed} {'row' if needed == 1 else 'rows'} or more",
        found=f"{len(rows)} ({short}{of_block})",
        action="Take more texts, or a smaller block." if of_block else "",
    )


def _metrics(spec: MemorizationSpec, reader: TextReader, members: Rows, model: str, say: Say) -> tuple[LeakMetric, ...]:
    """What is asked for, or all that can be."""
    longest, needed = max(map(len, members.ids)), sum(spec.extract)
    if spec.metrics is None:
        if not reader.masked and longest < needed:
            say(f"{spec.name}: no extraction: rows have at most {longest} tokens, extract: {list(spec.extract)} takes {needed}")
        given = {"reference": spec.reference is not None, "non_members": spec.non_members is not None}
        names = default_metrics(**given, decoder=not reader.masked, extraction=longest >= needed)
        return tuple(leak_metric(spec.name, name) for name in names)
    asked = tuple(leak_metric(spec.name, name) for name in spec.metrics)
    of_tokens = [metric.name for metric in asked if metric.of_tokens]
    if reader.masked and of_tokens:
        found = f"the masked language model {model}"
        raise InputError(f"{spec.name}: {', '.join(of_tokens)}", expected="a decoder", found=found)
    if longest < needed and any(metric.measure == "extraction" for metric in asked):
        raise InputError(
            f"{spec.name}, extraction", expected=f"rows of {needed} tokens", found=f"at most {longest}",
            action=f"Take fewer: extract: [{longest // 2}, {longest - longest // 2}].",
        )  # fmt: skip
    return asked
