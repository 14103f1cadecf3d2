"""The settings of a study of forgetting."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fuseforget.errors import InputError, require_seed
from fuseforget.studies.forgetting.choice import ALLOWANCE
from fuseforget.studies.forgetting.contenders import CONTENDERS, DIAL, OF_TEXT, Contender

__all__ = ["FEWEST", "RULE_TEXTS", "TEXTS", "ForgettingStudy"]

# What is left of a rule differs between settings by tens of points, the task by the half of one that is allowed: 500 texts, on
# which models differ by chance by nearly a point, chose a setting four times as gentle as was needed.
TEXTS, RULE_TEXTS = 2000, 200
FEWEST = 50  # texts on which a setting is chosen: with fewer the half point of task accuracy is not seen at all


@dataclass(frozen=True)
class ForgettingStudy:
    """The settings of a study of forgetting.

    Attributes:
        sources: directories of finished studies, whose models are fused. Parameters are chosen on texts of all
            shortcut studies among them, which differ in their seed.
        parts: names in :data:`fuseforget.studies.forgetting.PARTS`; none: all that the sources allow.
        seed: of the draw of validation texts, of random methods and of subsets.
        texts: validation texts on which the task is asked where parameters are chosen, which no model of the source was
            trained on; at least :data:`FEWEST`. Rules are asked on :data:`RULE_TEXTS` of them.
        allowance: how far below the plain average's the task accuracy of a chosen setting may be.
        contenders: the methods and their settings. They and the parts do not make a run another: a finished run can be asked
            for more of both, though not for other settings of a method that it has.
        dial: one knob, asked from end to end; None: no such method.
        threads: that a training computes with.
    """

    sources: tuple[str, ...]
    parts: tuple[str, ...] = ()
    seed: int = 0
    texts: int = TEXTS
    allowance: float = ALLOWANCE
    contenders: tuple[Contender, ...] = (*CONTENDERS, *OF_TEXT)
    dial: Contender | None = DIAL
    threads: int = 1

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if not self.sources:
            raise InputError("study forgetting", expected="finished studies to take models from (--from RUN)", found="none")
        if self.texts < FEWEST:
            raise InputError(
                "validation texts", expected=f"{FEWEST} or more", found=str(self.texts),
                action="Choose settings on more of them (--validation).",
            )  # fmt: skip
        if not 0 <= self.allowance <= 1:
            raise InputError("allowance", expected="a share of right answers", found=str(self.allowance))
        rows = [one.row for one in self.contenders]
        if "average" not in rows or len(set(rows)) != len(rows):
            raise InputError(
                "contenders", expected="different rows, average among them: the others are held to its task accuracy",
                found=", ".join(rows) or "none",
            )  # fmt: skip

    def of_part(self, part: str) -> ForgettingStudy:
        """The same with the contenders that a part asks."""
        return replace(self, contenders=tuple(one for one in self.contenders if one.only in (None, part)))
