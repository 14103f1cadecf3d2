"""LoRA adapters as checkpoints: a base, and what is added to its matrices.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds ``s B A`` to a matrix, ``s = alpha / r``; rsLoRA (Kalajdzievski 2023, arXiv
2312.03732) has ``s = alpha / sqrt(r)``; DoRA (Liu et al. 2024, arXiv 2402.09353) then gives every output unit the length that
it has learned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.checkpoint.header import TensorInfo, read_header
from fuseforget.checkpoint.reader import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint, open_checkpoint, read_json, resolve
from fuseforget.errors import InputError

__all__ = ["Adapter", "LowRank", "is_adapter", "open_adapter", "open_model"]

PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<embedding>[AB])"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
# The class that a task's adapter belongs to: the end of the name in `architectures`.
TASK_CLASSES = {
    "SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification", "QUESTION_ANS": "ForQuestionAnswering",
}  # fmt: skip


# Initialisations that change the base too: their factors say nothing without the base that they left.
CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Settings under which what is added depends on the input, or on more than the two factors.
NOT_MERGEABLE = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config", "use_bdlora",
    "use_qalora",
)  # fmt: skip


@dataclass(frozen=True)
class LowRank:
    """The adapter of one matrix.

    Attributes:
        a, b: the factors as stored: ``A`` of shape rank x inputs, ``B`` of outputs x rank.
        scale: what their product is multiplied by.
        transposed: whether the matrix is stored inputs x outputs (Conv1D, embeddings).
        magnitude: DoRA's lengths of the output units, or None.
        embedding: whether the adapted module is an embedding, which names its factors in another way.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool
    magnitude: TensorInfo | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class Adapter(Checkpoint):
    """An adapter with its base, seen as the full checkpoint that merging it would give.

    Attributes:
        base: the checkpoint that it adapts.
        low_rank: the adapters, by the name of the base's tensor.
        whole: tensors that the adapter has whole (``modules_to_save``).
        settings: ``adapter_config.json``.
        directory: where the adapter is; ``path`` is that, or the base's where the adapter has no tokenizer of its own.
    """

    def __init__(
        self, directory: Path, source: str, base: Checkpoint, settings: dict[str, Any],
        low_rank: Mapping[str, LowRank], whole: Mapping[str, TensorInfo], prefix: str,
    ) -> None:  # fmt: skip
        infos = {f"{prefix}{name}": info for name, info in base.infos.items()}
        if _new_head(settings, whole):
            # The class of the task has no other head: what the base had for its own (a language model's) goes.
            bodies = tuple({f"{name.partition('.')[0]}." for name in low_rank})
            infos = {name: info for name, info in infos.items() if name.startswith(bodies)}
        grown = {base.infos[n].shape[0]: i.shape[0] for name, i in whole.items() if (n := name[len(prefix) :]) in base.infos}
        config = _with_rows(_config(base.config, settings, whole), grown)
        path = directory if any((directory / name).is_file() for name in TOKENIZERS) else base.path
        super().__init__(path, source, config, {**infos, **whole})
        self.directory, self.base, self.settings = directory, base, settings
        self.low_rank, self.whole = low_rank, whole

    @property
    def files(self) -> list[Path]:
        """The weight files, the adapter's first."""
        return [self.directory / ADAPTER_WEIGHTS, *self.base.files]

    @property
    def described_by(self) -> list[Path]:
        """The configurations."""
        return [self.directory / ADAPTER_CONFIG, *self.base.described_by]

    @property
    def companions(self) -> list[Path]:
        """The base's files beside the weights, and the adapter's own tokenizer in their place."""
        own = {} if self.path == self.base.path else {file.name: file for file in super().companions}
        own.pop(ADAPTER_CONFIG, None)
        return sorted({**{file.name: file for file in self.base.companions}, **own}.values())

    @property
    def places(self) -> list[Path]:
        """The directories that it is read from."""
        return [self.directory, *self.base.places]


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter and no full checkpoint."""
    return (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file()


def open_model(source: str | Path, base: str | Path | None = None) -> Checkpoint:
    """Open a checkpoint, or an adapter over its base.

    Args:
        base: what adapters are put on; default: what their configuration names.
    """
    path = resolve(source)
    return open_adapter(path, str(source), base) if is_adapter(path) else open_checkpoint(source)


def open_adapter(path: Path, source: str, base: str | Path | None = None) -> Adapter:
    """Open a LoRA adapter's directory and its base.

    Raises:
        InputError: another kind of adapter, pickled weights, tensors that are not known, or a base that is not there or
            has other shapes.
    """
    settings = read_json(path / ADAPTER_CONFIG)
    if settings.get("peft_type") != "LORA":
        raise InputError(source, expected="a LoRA adapter (LoRA, rsLoRA, DoRA)", found=f"peft_type {settings.get('peft_type')!r}")
    _require_mergeable(settings, source)
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise InputError(source, expected=ADAPTER_WEIGHTS, found="no such file", action="Save the adapter as safetensors first.")
    named = base or settings.get("base_model_name_or_path")
    if not named:
        raise InputError(source, expected="base_model_name_or_path, or a base", found="neither", action="Pass --base MODEL.")
    try:
        opened = open_checkpoint(named)
    except InputError as error:
        hint = "Pass --base MODEL." if base is None else ""
        raise InputError(f"base of adapter {source}", expected="a checkpoint", found=str(error), action=hint) from error
    infos = {name.removeprefix(PREFIX): info for name, info in read_header(path / ADAPTER_WEIGHTS).items()}
    prefix = _prefix(infos, opened)
    parts, whole, unknown = _sort(infos, prefix, opened, settings)
    if unknown:
        raise InputError(source, expected="tensors of LoRA or DoRA, for modules of the base", found=", ".join(sorted(unknown)))
    low_rank = {
        name: _low_rank(name, found, settings, opened.infos[name[len(prefix) :]].shape, source) for name, found in parts.items()
    }
    return Adapter(path, source, opened, settings, low_rank, whole, prefix)


def _require_mergeable(settings: Mapping[str, Any], source: str) -> None:
    """Refuse adapters that are more than a change of the base's matrices."""
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(CHANGING_THE_BASE):
        raise InputError(
            source, expected="an adapter of the base as it is", found=f"one of a base changed by init_lora_weights {start!r}",
            action="Save it as plain LoRA first (peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)).",
        )  # fmt: skip
    used = [key for key in NOT_MERGEABLE if settings.get(key)]
    if used:
        raise InputError(source, expected="an adapter that can be merged into its base", found=", ".join(used))


def _prefix(infos: Mapping[str, TensorInfo], base: Checkpoint) -> str:
    """What an adapter's names have before the base's: ``bert.`` where the base was saved without a head."""
    modules = [match["module"] for name in infos if (match := _PART.fullmatch(name))]
    if not modules or any(f"{module}.weight" in base.infos for module in modules):
        return ""
    first = modules[0].partition(".")[0] + "."
    return first if f"{modules[0].removeprefix(first)}.weight" in base.infos else ""


def _sort(
    infos: Mapping[str, TensorInfo], prefix: str, base: Checkpoint, settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, TensorInfo]], dict[str, TensorInfo], list[str]]:
    """An adapter's tensors as factors by the name of the tensor they adapt, whole tensors by name, and names that are neither."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    unknown: list[str] = []
    for name, info in infos.items():
        match = _PART.fullmatch(name)
        if match and f"{match['module']}.weight".startswith(prefix) and f"{match['module']}.weight"[len(prefix) :] in base.infos:
            kind = "magnitude" if match["magnitude"] else (match["side"] or f"embedding_{match['embedding']}")
            parts.setdefault(f"{match['module']}.weight", {})[kind] = info
            continue
        plain = name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").replace(".base_layer.", ".")
        if ".original_module." in name or (plain != name and plain in infos):
            continue  # peft writes embeddings up to three times: the base's, the adapter's, and that under the plain name
        known = plain.removeprefix(prefix) in base.infos or any(
            f".{module}." in f".{plain}" for module in settings.get("modules_to_save") or ()
        )
        if known and "lora_" not in name:
            whole[plain] = info
        else:
            unknown.append(name)
    return parts, whole, unknown


def _new_head(settings: Mapping[str, Any], whole: Mapping[str, TensorInfo]) -> str:
    """The end of the name of the class whose head the adapter brings, or nothing where the base's class stays."""
    return TASK_CLASSES.get(str(settings.get("task_type")), "") if whole else ""


def _config(base: Mapping[str, Any], settings: Mapping[str, Any], whole: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The base's configuration, of the class that the adapter's task and new head ask for."""
    config, suffix = dict(base), _new_head(settings, whole)
    if not suffix:
        return config
    config["architectures"] = [
        re.sub(r"(For\w+|LMHeadModel|Model)$", "", name) + suffix for name in base.get("architectures") or []
    ]
    # A head may have more than one layer: all but the last give what the next takes.
    inner = {info.shape[1] for info in whole.values() if len(info.shape) == 2}
    classes = {info.shape[0] for info in whole.values() if info.shape} - inner
    if len(classes) == 1 and len(base.get("id2label") or range(2)) not in classes:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(classes.pop())}
        config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    return config


def _with_rows(config: dict[str, Any], grown: Mapping[int, int]) -> dict[str, Any]:
    """The configuration, or a part of it, where embeddings have other rows than the base's: (before, after)."""
    changed = {key: _with_rows(value, grown) if isinstance(value, dict) else value for key, value in config.items()}
    if config.get("vocab_size") in grown:
        changed["vocab_size"] = grown[config["vocab_size"]]
    return changed


def _low_rank(
    name: str, found: Mapping[str, TensorInfo], settings: Mapping[str, Any], shape: tuple[int, ...], source: str
) -> LowRank:
    embedding = "embedding_A" in found
    if not all(len(part.shape) == 2 for kind, part in found.items() if kind != "magnitude") or len(shape) != 2:
        shapes = ", ".join(f"{kind} {list(part.shape)}" for kind, part in found.items())
        raise InputError(f"adapter {source}", expected=f"a matrix and factors that are matrices for {name}",
                         found=f"{list(shape)}; {shapes}")  # fmt: skip
    a, b = (found.get(f"embedding_{side}" if embedding else side) for side in "AB")
    if a is None or b is None:
        raise InputError(f"adapter {source}", expected=f"both factors for {name}", found="one")
    module = name.removesuffix(".weight")
    rank = _by_pattern(settings.get("rank_pattern"), module, settings.get("r", a.shape[0]))
    alpha = _by_pattern(settings.get("alpha_pattern"), module, settings.get("lora_alpha", rank))
    # One setting for all modules, though a model may have both kinds: where it cannot be, the shapes say it.
    outputs_inputs = (b.shape[0], a.shape[1])
    transposed = embedding or (bool(settings.get("fan_in_fan_out")) if shape == shape[::-1] else outputs_inputs == shape[::-1])
    if outputs_inputs != (shape[::-1] if transposed else shape) or a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise InputError(
            f"adapter {source}", expected=f"factors of rank {rank} for {name} of shape {list(shape)}",
            found=f"A {list(a.shape)}, B {list(b.shape)}",
        )  # fmt: skip
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return LowRank(a, b, scale, transposed, found.get("magnitude"), embedding)


def _by_pattern(patterns: Any, module: str, default: Any) -> float:
    """The value of the first pattern that fits a module's name, as peft reads them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value  # type: ignore[no-any-return]
    return default  # type: ignore[no-any-return]
