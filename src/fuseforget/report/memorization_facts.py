"""The records of a study of memorization, found by what they are about."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from fuseforget.report.training import speeds
from fuseforget.report.unfinished import NOT_BEGUN, counted

__all__ = ["BASE", "CONTROL", "OTHERS", "OWN", "SHARED", "MemorizationFacts", "exact"]

Record = dict[str, Any]
BASE, OWN, OTHERS, SHARED, CONTROL = "base", "own", "others", "shared", "control"
FEW = 3


class MemorizationFacts:
    """The records of a study that is finished or not.

    Attributes:
        settings: the study's.
        names: the models, and the rows that each has of its own.
        parts: all that the run was asked for, at once or one after the other.
        alr: by model and set, ``own`` (all rows that it was trained on and not all were), ``others``, ``shared``, ``control``.
        perplexity: by model.
        attacks: by model, set (``unshared``, ``shared``) and attack.
        recall, extraction: by model and set; canaries: by model, place and repeats; secrets: what each might be, a number.
        retained: by the models' names together and role (full, fused); bounds, compared, harm, methods, alternatives,
            equal: records of these kinds.
        data, blind: the one record of its kind, or None.
    """

    def __init__(self, description: Record, records: list[Record]) -> None:
        self.settings: Record = description["settings"]
        self.names: tuple[str, ...] = tuple(ascii_uppercase[: self.settings["models"]])
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(record["kind"], []).append(record)
        asked = [part for record in kinds.get("asked", []) for part in record["parts"]]
        self.parts: list[str] = list(dict.fromkeys(asked))
        self.alr = {(r["model"], r["on"]): r for r in kinds.get("alr", [])}
        self.perplexity = {r["model"]: r for r in kinds.get("perplexity", [])}
        self.attacks = {(r["model"], r["on"], r["attack"]): r for r in kinds.get("attack", [])}
        self.recall = {(r["model"], r["on"]): r for r in kinds.get("mia_recall", [])}
        self.extraction = {(r["model"], r["on"]): r for r in kinds.get("extraction", [])}
        self.canaries = {(r["model"], r["where"], r["repeats"]): r for r in kinds.get("canaries", [])}
        # How many secrets a canary might have, where that is known.
        self.secrets = next((r["size"] for r in kinds.get("exposure", [])), 0)
        self.retained = {(r["models"], r["model"]): r for r in kinds.get("retained", [])}
        self.compared = {(r["models"], r["first"], r["second"], r["on"]): r for r in kinds.get("comparison", [])}
        self.harm = {r["on"]: r for r in kinds.get("harm", [])}
        self.bounds, self.methods = kinds.get("bound", []), kinds.get("method", [])
        self.left_out, self.trained = kinds.get("left_out", []), kinds.get("training", [])
        self.speed = speeds(kinds.get("timing", []))
        self.alternatives, self.equal = kinds.get("alternative", []), kinds.get("equal_perplexity", [])
        self.data, self.blind = (next(iter(kinds.get(kind, [])), None) for kind in ("data", "blind"))

    @property
    def masked(self) -> bool:
        return bool(self.settings["masked"])

    @property
    def recipe(self) -> bool:
        return self.settings["recipe"] is not None

    @property
    def few(self) -> tuple[str, ...]:
        """The models of the parts beside the main one."""
        return self.names[:FEW]

    @property
    def numbers(self) -> list[int]:
        """The numbers of models that are fused."""
        return [len(self.names)] if self.recipe else list(range(2, len(self.names) + 1))

    def full(self, number: int, epochs: int | None = None) -> str:
        """The model trained on the rows of the first so many models."""
        return self._named("full", number, epochs)

    def fused(self, number: int, epochs: int | None = None) -> str:
        return self._named("fused", number, epochs)

    @property
    def full_of_fixed(self) -> str:
        """The model trained on all rows of a fixed total: that of the first models where these have exactly such."""
        total, shared, rows = (self.settings[name] for name in ("total", "shared", "rows"))
        return self.full(len(self.few)) if total - shared == len(self.few) * (rows - shared) else "full-of-fixed"

    @property
    def audited(self) -> tuple[str, ...]:
        """The models that attacks are made on."""
        return (BASE, self.names[0], self.full(len(self.names)), self.fused(len(self.names)))

    @property
    def epochs(self) -> int:
        return int(self.settings["train"]["max_epochs"])

    def value(self, model: str, on: str) -> float | None:
        """An ALR, where it is known."""
        found = self.alr.get((model, on))
        return None if found is None else float(found["value"])

    def missing(self) -> list[str]:
        """What the run was asked for and does not have yet."""
        together = [model for n in self.numbers for model in (self.full(n), self.fused(n))]
        attacked = {model for model, _, _ in self.attacks}
        models = [
            *counted([name for name in self.names if name not in self.perplexity], len(self.names), "single models"),
            *counted([m for m in together if m not in self.perplexity], len(together), "full and fused models"),
            *counted([m for m in self.audited if m not in attacked], len(self.audited), "attacks"),
        ]
        lacking = {
            "comparisons": [] if self.compared else ["all"],
            "what fusing exposes": [] if self.harm else ["all"],
            "canaries": self._without_canaries(),
            **{f"part {part}": self._lacking(part) for part in self.parts},
        }
        begun = [] if self.data or self.parts or self.perplexity else [NOT_BEGUN]
        return [*models, *(f"{what}: {', '.join(some)}" for what, some in lacking.items() if some), *begun]

    def _without_canaries(self) -> list[str]:
        planted = self.data is not None and self.data["canaries"]
        asked = {model for model, _, _ in self.canaries}
        # Those of models alone are recorded together.
        wanted = ("single", *(model for model in self.audited if model not in self.names)) if planted else ()
        return [model for model in wanted if model not in asked]

    def _lacking(self, part: str) -> list[str]:
        if part == "epochs":
            found = {e: self.fused(len(self.few), e) in self.perplexity for e in self.settings["epochs"]}
            return [f"{epochs} epochs" for epochs, known in found.items() if not known]
        if part == "fixed":
            models = {f"{n} models": f"fused-of-{n}" for n in self.numbers} | {"one model": self.full_of_fixed}
            return [label for label, model in models.items() if model not in self.perplexity]
        if part == "methods":
            return [] if self.methods else ["all"]
        wanted = {"early stopping": 1, "weight decay": len(self.settings["decays"])}
        if not self.masked:
            wanted["DP-SGD"] = len(self.settings["epsilons"])
        done, compared = [r["family"] for r in self.alternatives], [r["model"] for r in self.equal]
        lacking = [family for family, count in wanted.items() if done.count(family) < count]
        return lacking or [f"{r['model']} at equal perplexity" for r in self.alternatives if r["model"] not in compared]

    def _named(self, role: str, number: int, epochs: int | None) -> str:
        name = f"{role}-{''.join(self.names[:number])}"
        return name if epochs in (None, self.epochs) else f"{name}@{epochs}"


def exact(record: Record | None, digits: int = 3) -> str:
    """A measurement with its interval; empty where there is none."""
    if record is None:
        return ""
    return f"{record['value']:.{digits}f} [{record['low']:.{digits}f}, {record['high']:.{digits}f}]"
