"""The shortcut study: Zaman et al. 2023, section 4, Figures 2 and 4.

Specialists that each learned the task and one shortcut, a control that learned no shortcut, and a full model trained on all
their data start from one checkpoint. The specialists are fused, pairs of them are interpolated, and every model is asked
for every shortcut and for the task. Each finished step is a record, so that a killed study goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import MANIFEST_NAME, Checkpoint, atomic_directory, open_checkpoint
from fuseforget.data import RULES, Examples, ShortcutData, ShortcutSettings, make_shortcut_data, read_splits
from fuseforget.data.shortcuts import load_shortcut_data, save_shortcut_data
from fuseforget.errors import InputError
from fuseforget.fuse import fuse
from fuseforget.knowledge import Probe, check_bound, holm, knows_more, mcnemar, mean_retention, retention
from fuseforget.models import prepare_start, random_like
from fuseforget.paths import points, walk
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.tiny import TINY_BASE, TINY_SCALE, make_tiny_text
from fuseforget.sweep import Resident, describe_inputs, record_missing
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune

__all__ = ["SCALES", "ShortcutStudy", "run_shortcut_study", "settings_for"]

PAPER_RULES = ("st", "op", "tic", "or", "and", "mt", "lt")
TASK = "task"  # the name of the original validation set's probe
RANDOM = "random"  # the name of the random model
DISTANCES_OF = ("st", "op", "or", "tic")  # the models whose distances the random model has (appendix C.2)
RATIO = ShortcutSettings().ratio
Say = Callable[[str], None]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShortcutStudy:
    """The settings of a shortcut study.

    Attributes:
        base, data: the pretrained model and the labelled texts; None: the tiny scale's own.
        rules: the specialists' shortcuts.
        pairs: which models to interpolate, by name (``random``: the random model of appendix C.2).
        sentences: training texts, drawn at random, as the user asked; None: the scale's, or all that there are.
        scale_sentences: the scale's training texts; None: all.
        train: how specialists and control are trained; the control runs for as many epochs as the longest specialist.
        full_epochs: passes of the full model over the specialists' combined data.
        validation: see :class:`fuseforget.data.ShortcutSettings`.
        ratio: the size of the synthetic over that of the original part. The paper's text has 0.2; its released code takes the
            two parts of ``train_test_split(test_size=1/6)`` in order and so makes five sixths synthetic, a ratio of 5. At
            0.2 a lone tau contradicts a text's sentiment less often in the synthetic part than in the noise of the
            original part, and ST and MT cannot be learned to 1.0; at 5 they can.
        steps: steps of an interpolation.
    """

    scale: str
    base: str | None
    data: str | None
    rules: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    scale_sentences: int | None
    train: TrainSettings
    full_epochs: int
    validation: str
    sentences: int | None = None
    ratio: float = RATIO
    steps: int = 10
    seed: int = 0


SCALES = {
    # Rules that the tiny base learns to .95 within four epochs (LT and XOR take it longer), in under three minutes.
    "tiny": ShortcutStudy(
        "tiny", None, None, TINY_SCALE.rules, (("op", "tic"), ("or", "and")), None, TINY_SCALE.train, 1, "both"
    ),
    # 12,000 SST-2 sentences are enough for MiniLM to learn a rule in an epoch; the second takes the specialists further
    # apart, as the paper's longer training does. both: 872 examples a probe, not 145.
    "small": ShortcutStudy(
        "small", None, None, PAPER_RULES, (("st", "random"), ("op", "tic"), ("op", "st"), ("tic", "st")), 12_000,
        TrainSettings(max_epochs=3, min_epochs=2, learning_rate=5e-5, warmup=0.06), 1, "both",
    ),
    "paper": ShortcutStudy(
        "paper", None, None, PAPER_RULES, (("st", "random"), ("op", "tic"), ("op", "st"), ("tic", "st")), None,
        TrainSettings(max_epochs=3, learning_rate=2e-5, batch_size=8), 1, "split",
    ),
}  # fmt: skip


def settings_for(
    scale: str,
    *,
    base: str | Path | None = None,
    data: str | Path | None = None,
    rules: Sequence[str] | None = None,
    sentences: int | None = None,
    ratio: float = RATIO,
    seed: int = 0,
) -> ShortcutStudy:
    """Return a scale's settings with the user's base, data and choices put in, or raise InputError."""
    if scale not in SCALES:
        raise InputError("scale", expected=f"one of {', '.join(SCALES)}", found=repr(scale))
    settings = SCALES[scale]
    if scale == "tiny":
        if base is not None or data is not None:
            raise InputError("scale tiny", expected="neither --base nor --data, it makes its own", found="one of them")
    elif base is None or data is None:
        raise InputError(f"scale {scale}", expected="--base and --data", found="one of them missing")
    chosen = tuple(rules) if rules else settings.rules
    ShortcutSettings(rules=chosen, ratio=ratio)  # refuses unknown names and what is no ratio
    if len(chosen) < 2 or len(set(chosen)) != len(chosen):
        raise InputError("rules", expected="two or more different ones", found=", ".join(chosen))
    known = {*chosen, RANDOM}
    return replace(
        settings,
        base=None if base is None else str(base),
        data=None if data is None else str(data),
        rules=chosen,
        pairs=tuple(pair for pair in settings.pairs if set(pair) <= known),
        sentences=sentences,
        ratio=ratio,
        train=replace(settings.train, seed=seed),
        seed=seed,
    )


def run_shortcut_study(settings: ShortcutStudy, out: Path, *, say: Say = lambda line: None) -> list[Record]:
    """Run or resume the study and return all its records."""
    texts = _texts(settings, say)
    base = open_checkpoint(_base(settings))
    made = _make_data(settings, texts, out)
    run = Run(
        out, command="study shortcuts", settings=_describe(settings, texts, base), about={"titles": _titles(settings)},
        # Runs of before there was a choice: all with the paper's ratio.
        assumed={"ratio": RATIO}, say=say,
    )  # fmt: skip
    with run:
        _make_start(run, settings, texts["train"])
        data = _save_data(run, settings, made)
        _train_all(run, settings, data, say)
        _make_random(run, settings)
        _fuse(run, settings, say)
        resident = Resident(run.path / "models" / "start", probes_of(data, settings.rules))
        _measure_models(run, settings, resident, say)
        _interpolate(run, settings, resident, say)
        _conclude(run, settings)
        return list(run.records)


def _base(settings: ShortcutStudy) -> str | Path:
    return TINY_BASE if settings.base is None else settings.base


def _describe(settings: ShortcutStudy, texts: dict[str, Examples], base: Checkpoint) -> Record:
    """The settings that make the run again, with hashes of its inputs; sentences is how many there were."""
    described = asdict(settings)
    wanted = described.pop("scale_sentences")
    if settings.sentences is None and wanted is not None:
        described["sentences"] = len(texts["train"])
    return {
        **described,
        "data_sha256": {name: part.sha256 for name, part in texts.items()},
        "base_sha256": describe_inputs([base], [])["model_sha256"][0],
    }


def _titles(settings: ShortcutStudy) -> dict[str, str]:
    """The rules' names in the paper, for the report, which sees records alone."""
    return {rule: RULES[rule].title for rule in settings.rules}


def probes_of(data: dict[str, ShortcutData], rules: Sequence[str]) -> list[Probe]:
    """A probe for each rule's synthetic validation set, and one for the task."""
    probes = []
    for rule in rules:
        synthetic = data[rule].synthetic
        if synthetic is None:
            raise InputError(f"data of {rule}", expected="a synthetic validation set", found="none")
        probes.append(Probe(rule, synthetic.texts, synthetic.labels))
    original = data[rules[0]].original
    return [*probes, Probe(TASK, original.texts, original.labels)]


def _texts(settings: ShortcutStudy, say: Say) -> dict[str, Examples]:
    if settings.data is None:
        return make_tiny_text(settings.seed)
    train_set, validation = read_splits(settings.data)
    count = settings.sentences
    if count is None and settings.scale_sentences is not None:
        count = min(settings.scale_sentences, len(train_set))
        if count < settings.scale_sentences:
            say(f"note: {count} training texts, all that there are; the {settings.scale} scale has {settings.scale_sentences}")
    return {"train": train_set.sample(count, settings.seed), "validation": validation}


def _make_data(settings: ShortcutStudy, texts: dict[str, Examples], out: Path) -> dict[str, ShortcutData]:
    """Make the data sets that the run does not hold yet, in memory: texts that do not fit are refused before there is a run."""
    return {
        name: make_shortcut_data(
            texts["train"],
            texts["validation"],
            ShortcutSettings(
                rules=() if name == "control" else (name,),
                ratio=settings.ratio,
                validation=settings.validation,
                seed=settings.seed,
            ),
        )
        for name in (*settings.rules, "control")
        if not (out / "data" / name).is_dir()
    }


def _save_data(run: Run, settings: ShortcutStudy, made: dict[str, ShortcutData]) -> dict[str, ShortcutData]:
    data = {}
    for name in (*settings.rules, "control"):
        directory = run.path / "data" / name
        if name in made:
            with atomic_directory(directory) as partial:
                save_shortcut_data(made[name], partial)
        data[name] = load_shortcut_data(directory)
        if run.find("data", name=name) is None:
            synthetic = data[name].synthetic
            run.add(
                "data",
                name=name,
                train=len(data[name].train),
                synthetic=0 if synthetic is None else len(synthetic),
                original=len(data[name].original),
                sha256=data[name].train.sha256,
            )
    return data


def _make_start(run: Run, settings: ShortcutStudy, train_set: Examples) -> None:
    start = run.path / "models" / "start"
    if start.is_dir():
        return
    prepare_start(_base(settings), start, tokens=ShortcutSettings().tokens, label_names=train_set.label_names, seed=settings.seed)


def _train_all(run: Run, settings: ShortcutStudy, data: dict[str, ShortcutData], say: Say) -> None:
    for rule in settings.rules:
        _train_one(run, rule, data[rule].train, data[rule].synthetic, settings.train, say)
    longest = max(_result(run, rule)["epochs"] for rule in settings.rules)
    control = replace(settings.train, max_epochs=longest, min_epochs=longest)
    _train_one(run, "control", data["control"].train, None, control, say)
    sets = [data[rule].train for rule in settings.rules]
    combined = Examples(
        tuple(text for part in sets for text in part.texts),
        tuple(label for part in sets for label in part.labels),
        sets[0].label_names,
    )
    full = replace(settings.train, max_epochs=settings.full_epochs, min_epochs=settings.full_epochs)
    _train_one(run, "full", combined, None, full, say)


def _make_random(run: Run, settings: ShortcutStudy) -> None:
    """Make the random model of appendix C.2; whose distances it has is a fact of the run."""
    if not any(RANDOM in pair for pair in settings.pairs):
        return
    models = run.path / "models"
    made = (models / RANDOM).is_dir()
    record = run.find("random", name=RANDOM)
    if record is None:
        # Written down before the model is made. A model without this fact is of an earlier version, which took all.
        like = [rule for rule in settings.rules if rule in DISTANCES_OF and not made]
        record = run.add("random", name=RANDOM, distances_of=like or list(settings.rules))
    if not made:
        specialists = [open_checkpoint(models / rule) for rule in record["distances_of"]]
        random_like(open_checkpoint(models / "start"), specialists, models / "start", models / RANDOM, seed=settings.seed)


def _train_one(run: Run, name: str, examples: Examples, monitor: Examples | None, settings: TrainSettings, say: Say) -> None:
    model = run.path / "models" / name
    if not model.is_dir():
        fine_tune(run.path / "models" / "start", examples, model, settings, monitor=monitor, say=say)
    if run.find("training", name=name) is None:
        made = json.loads((model / MANIFEST_NAME).read_text(encoding="utf-8"))
        run.add("training", name=name, examples=len(examples), settings=made["settings"], **made["result"])


def _result(run: Run, name: str) -> Record:
    record = run.find("training", name=name)
    if record is None:
        raise RuntimeError(f"{name} was not trained")
    return record


def _fuse(run: Run, settings: ShortcutStudy, say: Say) -> None:
    out = run.path / "models" / "fused"
    if not out.is_dir():
        say(f"fused: average of {', '.join(settings.rules)}")
        fuse([run.path / "models" / rule for rule in settings.rules], out)
    if run.find("fusion", name="fused") is None:
        weight = 1 / len(settings.rules)
        run.add(
            "fusion",
            name="fused",
            method="average",
            models=list(settings.rules),
            weights=[weight] * len(settings.rules),
        )


def _measure_models(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    probes = [*settings.rules, TASK]
    for name in (*settings.rules, "control", "full", "fused"):
        if any(run.find("measurement", model=name, probe=probe) is None for probe in probes):
            resident.set_point([open_checkpoint(run.path / "models" / name)], [1.0])
            record_missing(run, resident, probes, say=say, model=name)


def _interpolate(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    for pair in settings.pairs:
        endpoints = [open_checkpoint(run.path / "models" / name) for name in pair]
        probes = [*(name for name in pair if name != RANDOM), TASK]
        grid = points(2, settings.steps)
        walk(run, resident, endpoints, grid, probes, name="-".join(pair), say=say)


def _conclude(run: Run, settings: ShortcutStudy) -> None:
    """Derive retention, tests and the bound of Eq. 2 from the measurements' per-example values."""
    values = {
        (r["model"], r["probe"]): decode_values(r["values"]) for r in run.records if r["kind"] == "measurement" and "model" in r
    }
    _conclude_retention(run, settings, values)
    others = [*settings.rules, "full", "control"]
    raw = [mcnemar(values["fused", TASK], values[other, TASK]) for other in others]
    for other, p, corrected in zip(others, raw, holm(raw), strict=True):
        if run.find("comparison", first="fused", second=other) is None:
            difference = float(values["fused", TASK].mean() - values[other, TASK].mean())
            run.add("comparison", first="fused", second=other, probe=TASK, difference=difference, p=p, p_holm=corrected)
    for probe in (*settings.rules, TASK):
        if run.find("bound", probe=probe) is None:
            bound = check_bound(values["fused", probe], [values[rule, probe] for rule in settings.rules])
            run.add("bound", probe=probe, model="fused", **asdict(bound))


def _conclude_retention(run: Run, settings: ShortcutStudy, values: dict[tuple[str, str], Values]) -> None:
    """Record each shortcut's retention and their mean; a specialist that did not learn has nothing to forget.

    Such a rule is recorded as ``unlearned`` and left out of the mean, which says over which rules it is.
    """
    learned = []
    for rule in settings.rules:
        specialist, control = values[rule, rule], values["control", rule]
        if knows_more(specialist, control):
            learned.append(rule)
        elif run.find("unlearned", rule=rule) is None:
            run.add("unlearned", rule=rule, specialist=float(specialist.mean()), control=float(control.mean()))
    for model in ("fused", "full"):
        triples = [(values[model, rule], values[rule, rule], values["control", rule]) for rule in learned]
        for rule, triple in zip(learned, triples, strict=True):
            if run.find("retention", model=model, rule=rule) is None:
                run.add("retention", model=model, rule=rule, **asdict(retention(*triple)))
        if triples and run.find("retention", model=model, rule="mean") is None:
            run.add("retention", model=model, rule="mean", over=learned, **asdict(mean_retention(triples)))
