"""``fuseforget erase``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table, progress_lines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fuseforget.data import AttributedExamples
    from fuseforget.models import Classifier

__all__ = ["command", "erase"]

Say = Callable[[str], None]


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A sequence classifier: a directory, a hub id or id@revision.")],
    data: Annotated[str, typer.Option(help="Labelled texts with attributes: a file, a directory with splits, or a hub id.")],
    attribute: Annotated[list[str], typer.Option(metavar="NAME", help="The column of what to erase; again for another.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the model goes that predicts without it.")],
    method: Annotated[str, typer.Option(help="inlp or leace.")] = "leace",
    classifiers: Annotated[int, typer.Option(min=1, help="Of inlp: how many, all attributes together.")] = 200,
    split: Annotated[str, typer.Option(help="Of a directory or a hub data set: what to fit on.")] = "train",
    held_out: Annotated[str, typer.Option(help="The split to measure on as well; '' for none.")] = "validation",
    text: Annotated[str | None, typer.Option(help="The column of the texts; default: text or sentence.")] = None,
    label: Annotated[str, typer.Option(help="The column of the labels.")] = "label",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Erase attributes from a classifier's pooled features, fit its head again, and write the model that does both."""
    from fuseforget.data import read_attributed

    say = progress_lines()
    read: dict[str, Any] = {"text": text, "label": label, "attributes": attribute}
    train = read_attributed(data, split=split, **read)
    measured = None
    if Path(data).expanduser().is_file():
        say(f"{data} is one table: nothing is held out from it")
    elif held_out and held_out != split:
        measured = read_attributed(data, split=held_out, like=train, **read)
    found = erase(
        model, train, out, held_out=measured, method=method, classifiers=classifiers, about={"data": data, "split": split},
        overwrite=overwrite, say=say,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        _print(found)


def erase(
    model: str | Path,
    train: AttributedExamples,
    out: Path,
    *,
    held_out: AttributedExamples | None = None,
    method: str = "leace",
    classifiers: int = 200,
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Fit an eraser of all attributes and a head to a model's features, write the debiased model, and say what changed.

    Returns:
        ``n``, ``rank`` (dimensions erased) of ``dimensions``; ``task``: accuracy of the model before and of the new head after;
        ``attributes``: how well a fresh linear classifier reads each before and after, and the share of its most frequent
        value; each by split (``train``, and ``held_out`` where there is one).

    Raises:
        InputError: no such method, a model that is no classifier, labels that it does not have, a constant attribute, a head
            without bias where one is needed; ``out`` exists and may not be replaced.
    """
    from fuseforget.checkpoint import open_checkpoint, refuse_place
    from fuseforget.erasure import fit_eraser, fit_head, require_erasure
    from fuseforget.models import debias, has_bias, head_of, load_classifier

    require_erasure(method)
    refuse_place(out, overwrite=overwrite, inputs=[open_checkpoint(model).path])
    classifier = load_classifier(model)
    parts = {"train": train, **({} if held_out is None else {"held_out": held_out})}
    seen = {name: _look(classifier, part, say) for name, part in parts.items()}
    features, labels, _ = seen["train"]
    eraser = fit_eraser(
        method, features, {name: train.codes(name) for name in train.attributes}, classifiers=classifiers, say=say
    )
    say(f"{eraser.rank} of {eraser.dimensions} dimensions erased by {method}")
    erased = {name: eraser.apply(found) for name, (found, _, _) in seen.items()}
    layer = head_of(classifier)
    head = fit_head(erased["train"], labels, bias=has_bias(layer), count=layer.out_features)
    result = {
        "model": str(model),
        "out": str(out),
        "method": method,
        "rank": eraser.rank,
        "dimensions": eraser.dimensions,
        "n": {name: len(part) for name, part in parts.items()},
        "task": {
            "before": {name: float((said == truth).mean()) for name, (_, truth, said) in seen.items()},
            "after": {name: head.accuracy(erased[name], truth) for name, (_, truth, _) in seen.items()},
        },
        "attributes": {
            name: {
                "before": _read({part: found for part, (found, _, _) in seen.items()}, parts, name),
                "after": _read(erased, parts, name),
            }
            for name in train.attributes
        },
    }
    told = {"data_sha256": train.sha256, **(about or {}), "task": result["task"], "read": result["attributes"]}
    debias(model, out, eraser, head, overwrite=overwrite, about=told)
    return result


def _look(
    classifier: Classifier, part: AttributedExamples, say: Say
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Features, labels as the model numbers them, and the labels that it says."""
    import numpy as np

    from fuseforget.knowledge import Probe
    from fuseforget.knowledge.probes import in_labels_of
    from fuseforget.models import describe_cut, encode_batches, features_and_logits, label_names, max_tokens

    taken = part.examples
    probe = Probe("data", taken.texts, taken.labels, "accuracy", taken.own_names, named=taken.named)
    labels = in_labels_of(probe, classifier.source, label_names(classifier.model)).labels
    batches = encode_batches(classifier, taken.texts)
    if cut := describe_cut(sum(batch.cut for batch in batches), len(taken), max_tokens(classifier)):
        say(cut)
    found, logits = features_and_logits(classifier, batches, exact=True)
    say(f"features of {len(taken)} texts")
    return found, np.array(labels), logits.argmax(axis=1)


def _read(
    features: dict[str, npt.NDArray[Any]], parts: dict[str, AttributedExamples], attribute: str
) -> dict[str, dict[str, float]]:
    """How well a fresh classifier of an attribute does, by split, and how well saying its most frequent value does."""
    from fuseforget.erasure import readable

    held_out = (features["held_out"], parts["held_out"].codes(attribute)) if "held_out" in parts else None
    found = readable(features["train"], parts["train"].codes(attribute), held_out=held_out)
    read = {"train": {"accuracy": found.accuracy, "majority": found.majority}}
    if found.held_out is not None and found.held_out_majority is not None:
        read["held_out"] = {"accuracy": found.held_out, "majority": found.held_out_majority}
    return read


def _print(found: dict[str, Any]) -> None:
    print(f"{found['out']}: {found['rank']} of {found['dimensions']} dimensions erased by {found['method']}")
    rows = [
        ["task", part, str(n), "", f"{found['task']['before'][part]:.3f}", f"{found['task']['after'][part]:.3f}"]
        for part, n in found["n"].items()
    ]
    for name, read in found["attributes"].items():
        for part, n in found["n"].items():
            before, after = read["before"][part], read["after"][part]
            rows.append(
                [name, part, str(n), f"{before['majority']:.3f}", f"{before['accuracy']:.3f}", f"{after['accuracy']:.3f}"]
            )
    print_table(["linear classifier of", "split", "n", "majority", "accuracy before", "after"], rows)
