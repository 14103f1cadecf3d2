"""Ask language models what they say of an entry's rows; what they say is recorded once, the reference's for all models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from fuseforget import stopping
from fuseforget.data import Rows
from fuseforget.errors import InputError
from fuseforget.knowledge import ATTACKS, Evidence, blind_baseline
from fuseforget.leakage.attacked import attack_scores, extraction_scores
from fuseforget.leakage.probe import MEMBERS, NON_MEMBERS, LeakProbe
from fuseforget.leakage.scoring import Scorer, energies_of
from fuseforget.models import LanguageModel, TokenScores, load_language_model, token_scores
from fuseforget.records import Run, decode_values, encode_values

__all__ = ["ask_blind", "ask_models", "record_rows"]

MOST_BLIND = 2000  # rows a side that the blind baseline is fitted on: enough to find a leak, and seconds
Say = Callable[[str], None]


@dataclass(frozen=True)
class _LogProbs:
    """What attacks take of a reference's token scores, as a run keeps them."""

    log_probs: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]


def record_rows(run: Run, probe: LeakProbe) -> None:
    """Record how many rows there are of each set, and what was left out."""
    for on, rows in probe.rows.items():
        if run.find("rows", probe=probe.name, set=on) is None:
            documents = len({number for own in rows.documents for number in own})
            run.add(
                "rows", probe=probe.name, set=on, rows=len(rows), tokens=rows.tokens, documents=documents, short=rows.short,
                cut=rows.cut, rest=rows.rest, carriers=probe.carriers[on],
            )  # fmt: skip


def ask_models(run: Run, probes: Sequence[LeakProbe], models: Sequence[str], *, exact: bool, say: Say) -> None:
    """Record energies and attacks of all models on all entries' rows; a model is loaded once, and only if something lacks.

    References are asked first: attacks compare with what they said.
    """
    references = [probe.reference for probe in probes if probe.reference is not None]
    benches = [_Bench(run, probe, exact=exact, say=say) for probe in probes]
    for source in dict.fromkeys([*references, *models]):
        lacking = [(bench, on) for bench in benches for on in bench.lacks(source, attacked=source in models)]
        if not lacking:
            continue
        stopping.check("a model")
        lm = load_language_model(source)
        for bench, on in lacking:
            bench.ask(lm, source, on, attacked=source in models)
        del lm  # before the next one is loaded


class _Bench:
    """An entry's rows, and what the run has of models' answers on them."""

    def __init__(self, run: Run, probe: LeakProbe, *, exact: bool, say: Say) -> None:
        self.run, self.probe, self._exact, self._say = run, probe, exact, say
        self._scorer = Scorer(
            run, probe.sets, special=probe.reader.special, masked=probe.reader.masked, seed=probe.seed, say=say, exact=exact
        )

    def lacks(self, source: str, *, attacked: bool) -> list[str]:
        """The sets that a model has still to be asked about."""
        if not attacked and source != self.probe.reference:
            return []
        kinds = ["energies", *(["attacked"] if attacked and (self.probe.attacks or self.probe.extracts) else [])]
        kinds += ["reference_tokens"] if self._keeps_tokens(source) else []
        names = {on: self.probe.set_name(on) for on in self.probe.rows}
        return [on for on, name in names.items() if any(self.run.find(k, set=name, model=source) is None for k in kinds)]

    def ask(self, lm: LanguageModel, source: str, on: str, *, attacked: bool) -> None:
        """Record what a model says of a set: in one pass, whatever is asked for."""
        name, rows = self.probe.set_name(on), self.probe.rows[on]
        of_tokens = attacked and any(metric.of_tokens for metric in self.probe.metrics)
        tokens = token_scores(lm, rows.ids, exact=self._exact) if of_tokens or self._keeps_tokens(source) else None
        if tokens is None:
            self._scorer.score(lambda: lm, [name], model=source)
        else:
            self._scorer.keep(name, tokens.energies, model=source)
            self._say(f"{source}: token scores on {name}")
        if self._keeps_tokens(source) and tokens is not None and self.run.find("reference_tokens", set=name) is None:
            self.run.add("reference_tokens", set=name, model=source, log_probs=encode_values(tokens.log_probs.astype(np.float64)))
        wanted = attacked and (self.probe.attacks or self.probe.extracts)
        if wanted and self.run.find("attacked", set=name, model=source) is None:
            evidence = self._evidence(source, name, rows, tokens)
            extracted = extraction_scores(tokens, rows.ids, self.probe.extract) if self.probe.extracts and tokens else {}
            scores = attack_scores(self.probe.attacks, evidence)
            self.run.add("attacked", set=name, model=source, scores=scores, **extracted)

    def _keeps_tokens(self, source: str) -> bool:
        """Whether what a model says of each token is kept: of the reference, where an attack compares with it."""
        return source == self.probe.reference and any(metric.of_reference_tokens for metric in self.probe.metrics)

    def _evidence(self, source: str, name: str, rows: Rows, tokens: TokenScores | None) -> Evidence:
        reference, kept = self.probe.reference, self.run.find("reference_tokens", set=name)
        of_reference = None if reference is None else energies_of(self.run, name, model=reference)
        said = None
        if kept is not None and tokens is not None:
            said = _LogProbs(decode_values(kept["log_probs"]), tokens.offsets)
        needs_texts = any("texts" in ATTACKS[one].needs for one in self.probe.attacks)
        texts = self.probe.reader.decode(rows.ids) if needs_texts else None
        return Evidence(energies_of(self.run, name, model=source), of_reference, tokens, said, texts)


def ask_blind(run: Run, probe: LeakProbe, *, say: Say) -> None:
    """Record whether members differ from non-members to one who never saw a model; or why that cannot be judged."""
    if len(probe.rows) < 2 or run.find("blind", probe=probe.name) is not None:
        return
    rng = np.random.default_rng([probe.seed, *probe.name.encode()])
    sides = [
        rows.take(np.sort(rng.permutation(len(rows))[:MOST_BLIND])) for rows in (probe.rows[MEMBERS], probe.rows[NON_MEMBERS])
    ]
    members, others = sides
    try:
        documents = (members.documents, others.documents)
        found = blind_baseline(members.ids, others.ids, documents=documents, seed=probe.seed)
    except InputError as error:
        run.add("blind", probe=probe.name, unjudged=str(error))
        say(f"{probe.name}: whether the split itself leaks is not known: {error}")
        return
    run.add("blind", probe=probe.name, auc=asdict(found.auc), p=found.p, folds=found.folds, words=found.words, leaks=found.leaks)
    if found.leaks:
        say(f"warning: {probe.name}: the split itself leaks: a bag of words alone has AUC {found.auc.value:.3f}, p {found.p:.2g}")
