"""A checkpoint as a lazy, read-only mapping from tensor name to tensor."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint.header import DTYPES, TensorInfo, read_header
from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "file_sha256", "open_checkpoint", "read_json", "resolve"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "consolidated.00.pth")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
# What belongs to a checkpoint beside its weights; the same patterns are fetched from the hub and copied on writing.
COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


class Checkpoint(Mapping[str, "torch.Tensor"]):
    """A directory with ``config.json`` and safetensors weights, opened without reading a tensor.

    ``checkpoint[name]`` is a view of the mapped file in its stored dtype and shape: no copy is made, and writing to it
    changes neither the file nor another view's file. ``checkpoint.infos[name]`` describes it from the header.
    """

    def __init__(self, path: Path, source: str, config: dict[str, Any], infos: dict[str, TensorInfo]) -> None:
        self.path, self.source, self.config, self.infos = path, source, config, infos
        self._maps: dict[Path, mmap.mmap] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        info = self.infos[name]
        dtype = getattr(torch, DTYPES[info.dtype].torch_name)
        if info.numel == 0:
            return torch.empty(info.shape, dtype=dtype)
        flat = torch.frombuffer(self._map(info.file), dtype=torch.uint8, count=info.nbytes, offset=info.offset)
        if info.offset % DTYPES[info.dtype].nbytes:  # the format allows unaligned tensors, torch's views do not
            flat = flat.clone()
        return flat.view(dtype).view(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __repr__(self) -> str:
        return f"Checkpoint({self.source!r}, {len(self)} tensors, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.infos.values())

    @property
    def files(self) -> list[Path]:
        """The weight files, in name order."""
        return sorted({info.file for info in self.infos.values()})

    @property
    def described_by(self) -> list[Path]:
        """The files that say what the weights are."""
        return [self.path / "config.json"]

    @property
    def places(self) -> list[Path]:
        """The directories that it is read from."""
        return [self.path]

    @property
    def companions(self) -> list[Path]:
        """The files that a loader needs beside the weights: config, tokenizer, generation config and the like."""
        found = {file for pattern in COMPANIONS for file in self.path.glob(pattern)}
        return sorted(f for f in found if f.is_file() and f.name not in (INDEX, MANIFEST_NAME))

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the checkpoint, or None where it is absent."""
        return read_json(self.path / name) if (self.path / name).is_file() else None

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as stream:
                # Copy on write: torch warns of read-only buffers, and the file stays untouched all the same.
                self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]


MANIFEST_NAME = "fuseforget.json"


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a model directory, a hub id or ``id@revision`` lazily: only headers are read.

    Raises:
        InputError: nothing is there, it is no checkpoint, its weights are pickled, or a header is damaged.
    """
    path = resolve(source)
    if (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file():
        raise InputError(
            str(source),
            expected="a full checkpoint",
            found="an adapter (adapter_config.json)",
            action=f"Merge it into its base first: fuseforget fuse {source} -o OUT",
        )
    if not (path / "config.json").is_file():
        raise InputError(
            str(source), expected="a model directory with config.json and safetensors weights", found="no config.json"
        )
    config = read_json(path / "config.json")
    if config.get("quantization_config"):
        raise InputError(
            str(source),
            expected="weights as numbers of their own (float32, float16, bfloat16, float8)",
            found="quantised weights (quantization_config in config.json), whose packed codes cannot be fused",
            action="Dequantise it first (transformers: model.dequantize()) and save_pretrained.",
        )
    # Where both stand, transformers loads the single file: so does this reader, or a fusion would be of other weights.
    if (path / SINGLE).is_file():
        infos = read_header(path / SINGLE)
    elif (path / INDEX).is_file():
        infos = _sharded(path)
    else:
        raise _no_weights(source, path, config)
    if not infos:
        raise InputError(str(source), expected="at least one tensor", found="none in its headers")
    return Checkpoint(path, str(source), config, infos)


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal (what ``sha256sum`` prints)."""
    with file.open("rb") as stream:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def resolve(source: str | Path) -> Path:
    """Return the directory of a path or a hub id, which is fetched unless it is cached."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(str(source), expected="a model directory", found="a file")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise InputError(str(source), expected="a model directory or a hub id", found="nothing at that path")
    return _from_hub(source)


def _from_hub(source: str) -> Path:
    """The local folder of a hub snapshot, fetched unless it is cached."""
    from huggingface_hub import snapshot_download

    repo, _, revision = source.partition("@")
    # The files of the top directory that are opened, not every *.safetensors: repositories also hold weights in other layouts.
    patterns = [SINGLE, INDEX, "model-*-of-*.safetensors", ADAPTER_WEIGHTS, *COMPANIONS]
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns, ignore_patterns="*/*"))
    # The client raises errors of its own, of its HTTP library and of the system; each is a way of not having the model.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            source,
            expected="a model directory, or a hub id that is cached or can be fetched",
            found=f"no such directory, and the hub answered: {reason}",
            action="Check the path or the id; offline (HF_HUB_OFFLINE=1) only cached models can be used.",
        ) from error


def _sharded(path: Path) -> dict[str, TensorInfo]:
    index = read_json(path / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(str(path / INDEX), expected="a weight_map of tensor names to files", found=f"{weight_map!r:.200}")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if Path(shard).name != shard or not (path / shard).is_file()]
    if missing:
        raise InputError(str(path), expected=f"all {len(shards)} shards of {INDEX}", found=f"{', '.join(missing)} missing")
    infos: dict[str, TensorInfo] = {}
    for shard in shards:
        infos.update(read_header(path / shard))
    stray = sorted(name for name, shard in weight_map.items() if name not in infos or infos[name].file.name != shard)
    unlisted = sorted(set(infos) - set(weight_map))
    if stray or unlisted:
        raise InputError(
            str(path / INDEX),
            expected="the tensors of its shards",
            found=f"not where it says: {stray or 'none'}; not listed: {unlisted or 'none'}",
        )
    return infos


def _no_weights(source: str | Path, path: Path, config: dict[str, Any]) -> InputError:
    pickled = [name for name in PICKLED if (path / name).is_file()]
    if not pickled:
        return InputError(str(source), expected=f"{SINGLE} or {INDEX}", found="neither")
    cls = (config.get("architectures") or ["AutoModel"])[0]
    return InputError(
        str(source),
        expected="safetensors weights",
        found=f"pickled weights ({', '.join(pickled)}), which can run code when they are opened and cannot be streamed",
        action='Convert a copy that you trust:\n  python -c "import transformers as t; '
        f"t.{cls}.from_pretrained('{path}').save_pretrained('{path}-safetensors'); "
        f"t.AutoTokenizer.from_pretrained('{path}').save_pretrained('{path}-safetensors')\"",
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or raise InputError."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(file), expected="a file that can be read", found=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(str(file), expected="a JSON object", found=f"unreadable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(str(file), expected="a JSON object", found=type(value).__name__)
    return value
