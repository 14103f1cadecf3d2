"""What an attacker gets out of the study's models: membership, verbatim rows, canaries' secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

from fuseforget import stopping
from fuseforget.data import Canary, Rows, candidates
from fuseforget.data.canaries import NOWHERE
from fuseforget.knowledge import Evidence, attacks_for
from fuseforget.knowledge.blind import blind_baseline
from fuseforget.knowledge.exposure import canary_exposure
from fuseforget.leakage.attacked import attack_scores, extraction_scores
from fuseforget.leakage.scoring import energies_of
from fuseforget.models import LanguageModel, TokenScores, candidate_log_probs, encode, token_scores
from fuseforget.studies.memorization.data import CONTROL, REST, SHARED, VALIDATION
from fuseforget.studies.memorization.models import REFERENCE, full_name, fused_name
from fuseforget.studies.memorization.workshop import Workshop

__all__ = ["EXTRACTION", "audit_models", "audited"]

EXTRACTION = (50, 50)  # tokens of a row that are given, and that are to follow (Carlini et al. 2023)


def audited(names: Sequence[str]) -> tuple[str, ...]:
    """The models that attacks are made on: the base, one model alone, the one trained on all, and the average of all."""
    return (REFERENCE, names[0], full_name(names), fused_name(names))


def audit_models(shop: Workshop) -> None:
    """Attack the models, and record scores of rows and ranks of canaries; what the run has is not done again."""
    bench = _Bench(shop)
    for name in audited(shop.settings.names):
        stopping.check("an audited model")
        bench.attack(name)
    if shop.corpus.made.canaries:
        for name in (*shop.settings.names, *audited(shop.settings.names)):
            bench.rank_canaries(name)
    if shop.run.find("blind") is None:
        _ask_blind(shop)


class _Bench:
    """The reference's token scores, computed once for all models that are attacked, and the canaries' candidates.

    All in float32: which token is the likeliest, and ranks, are decided by less than bfloat16 tells apart.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop, self.run = shop, shop.run
        self._reference: dict[str, TokenScores] = {}
        self._texts: dict[str, list[str]] = {}
        self._encoded: dict[tuple[str, ...], list[list[int]]] = {}

    def sets_of(self, name: str) -> list[str]:
        """The rows that a model is attacked on: its own, the shared ones, and the control's."""
        names = self.shop.settings.names
        own = [name] if name in names else list(names)
        return [*own, *(s for s in (SHARED, CONTROL) if s in self.shop.corpus.sets)]

    def attack(self, name: str) -> None:
        """Record each attack's scores on a model's rows, and which of them it continues word for word."""
        lacking = [s for s in self.sets_of(name) if self.run.find("attacked", model=name, set=s) is None]
        if not lacking:
            return
        lm = self._base if name == REFERENCE else self.shop.model(name)
        for set_name in lacking:
            rows = self.shop.corpus.sets[set_name]
            tokens = None if lm.masked else token_scores(lm, rows.ids, exact=True)
            evidence = self._evidence(name, set_name, rows, tokens)
            # The reference is not compared with itself.
            usable = [a for a in attacks_for(evidence) if name != REFERENCE or a not in ("reference", "windows")]
            extracted = {} if tokens is None else extraction_scores(tokens, rows.ids, EXTRACTION)
            self.run.add("attacked", model=name, set=set_name, scores=attack_scores(usable, evidence), **extracted)
        self.shop.say(f"{name}: attacked on {', '.join(lacking)}")

    def rank_canaries(self, name: str) -> None:
        """Record the exact rank of each canary's secret among all that it might be, for the canaries that concern a model."""
        lacking = [
            (number, canary)
            for number, canary in enumerate(self.shop.corpus.made.canaries)
            if self._concerns(name, canary) and self.run.find("exposure", model=name, canary=number) is None
        ]
        if not lacking:
            return
        lm = self.shop.model(name)
        for number, canary in lacking:
            fills, true = candidates(canary)
            (prefix,) = encode(lm, [canary.prefix])
            found = canary_exposure(candidate_log_probs(lm, prefix, self._tokens(lm, fills), exact=True), true)
            self.run.add("exposure", model=name, canary=number, **asdict(found))
        self.shop.say(f"{name}: exposure of {len(lacking)} canaries")

    def _tokens(self, lm: LanguageModel, fills: tuple[str, ...]) -> list[list[int]]:
        """The candidates' tokens; canaries of one format have the same, and all models one tokenizer."""
        if fills not in self._encoded:
            self._encoded[fills] = encode(lm, fills)
        return self._encoded[fills]

    def _concerns(self, name: str, canary: Canary) -> bool:
        """A model alone is asked about what it has read, and the first one about what none has read too."""
        names, corpus = self.shop.settings.names, self.shop.corpus
        if name not in names or (name == names[0] and canary.part in (SHARED, NOWHERE)):
            return True
        return canary.part in corpus.own(name)

    def _evidence(self, name: str, set_name: str, rows: Rows, tokens: TokenScores | None) -> Evidence:
        of_reference = None if tokens is None or name == REFERENCE else self._reference_tokens(set_name, rows)
        if name == REFERENCE and tokens is not None:
            self._reference[set_name] = tokens
        if set_name not in self._texts:
            self._texts[set_name] = self.shop.corpus.reader.decode(rows.ids)
        return Evidence(
            energies_of(self.run, set_name, model=name), energies_of(self.run, set_name, model=REFERENCE),
            tokens, of_reference, self._texts[set_name],
        )  # fmt: skip

    def _reference_tokens(self, set_name: str, rows: Rows) -> TokenScores:
        if set_name not in self._reference:
            self._reference[set_name] = token_scores(self._base, rows.ids, exact=True)
        return self._reference[set_name]

    @cached_property
    def _base(self) -> LanguageModel:
        return self.shop.model(REFERENCE)


def _ask_blind(shop: Workshop) -> None:
    """Record whether members differ from the control's rows to one who never saw a model."""
    sets = shop.corpus.sets
    if CONTROL not in sets:
        return
    members = [(ids, own) for name, part in sets.items() if name not in (CONTROL, VALIDATION, REST)
               for ids, own in zip(part.ids, part.documents, strict=True)]  # fmt: skip
    control = sets[CONTROL]
    found = blind_baseline(
        [ids for ids, _ in members], control.ids, documents=([own for _, own in members], control.documents),
        seed=shop.settings.seed,
    )  # fmt: skip
    shop.run.add("blind", auc=asdict(found.auc), p=found.p, folds=found.folds, words=found.words, leaks=found.leaks)
