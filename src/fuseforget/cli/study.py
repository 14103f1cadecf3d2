"""``fuseforget study``, ``report`` and ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table, progress_lines
from fuseforget.cli.workers import RayOption, ThreadsOption, WorkersEachCoreOption, WorkersOption, crew

__all__ = ["demo", "report", "study"]

ENCODED = ("values", "predicted", "confidence", "sums", "tokens", "scores", "greedy")  # per example, in records


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="shortcuts, bias, memorization, fisher or forgetting")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run; the same command on it resumes.")],
    base: Annotated[str | None, typer.Option(help="The pretrained model, a directory or a hub id.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled texts: a directory with train and validation, or a hub id; memorization: articles."),
    ] = None,
    scale: Annotated[str | None, typer.Option(help="tiny, small (the default) or paper.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="shortcuts: one to train a specialist for; default: the scale's.")
    ] = None,
    sentences: Annotated[int | None, typer.Option(help="Training texts (bias: a model); default: the scale's, or all.")] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="shortcuts: synthetic over original part (0.2; the authors' code: 5); bias: share of the favoured value (0.8)."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="shortcuts: pairs, shared, triangle, growth, forecast, methods; bias: baselines, ratios, triangle; "
            "memorization: epochs, fixed, methods, alternatives; forgetting: pairs, numbers, shared, partial, disjoint, "
            "lasting, ablations, bias, memorization; default: the scale's, or all that the runs allow. A finished run can be "
            "asked for more."
        ),
    ] = None,
    methods: Annotated[bool, typer.Option("--methods", help="shortcuts: also fuse by every method that needs no data.")] = False,
    names: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="bias: first names that sign texts without authors.")
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="bias: a protected attribute; default: gender, age, and of signatures frequency.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(metavar="TABLE", help="bias: the tweets of PAN16, by id.")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="bias: leave out authors of PAN16 that are damaged.")
    ] = False,
    unit: Annotated[str | None, typer.Option(help="bias: the column that says which rows are one author's.")] = None,
    seeds: Annotated[int | None, typer.Option(help="bias: train all models so many times; default: the scale's.")] = None,
    as_published: Annotated[bool, typer.Option("--as-published", help="bias: the choices of the authors' code.")] = False,
    text: Annotated[str | None, typer.Option(help="memorization: the column of the articles.")] = None,
    split: Annotated[str | None, typer.Option(help="memorization: the split of the articles; default: train.")] = None,
    pretrain: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="memorization without --base: what else its base is pretrained on.")
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked", help="memorization without --base: pretrain a masked model, not a decoder.")
    ] = False,
    models: Annotated[int | None, typer.Option(help="memorization: how many are trained.")] = None,
    rows: Annotated[int | None, typer.Option(help="memorization: training rows a model, shared ones included.")] = None,
    shared: Annotated[int | None, typer.Option(help="memorization: rows that all models are trained on.")] = None,
    control: Annotated[int | None, typer.Option(help="memorization: rows that none is trained on, to attack with.")] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            help="memorization: rows for perplexity and thresholds; forgetting: texts on which settings are chosen (2000)."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="memorization: of every training; default: the scale's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="memorization: of every training; default: the scale's.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="split-train-fuse", help="memorization: a recipe, against training on everything once.")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="memorization: parts that the recipe splits the articles in.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: WorkersOption = None,
    ray: RayOption = None,
    threads: ThreadsOption = 1,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="RUN", help="fisher: a finished shortcut study; forgetting: finished studies, each."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Repeat a study of the paper on a base and data of yours, ending in a table and an HTML report."""
    from fuseforget.studies import study as run_study

    with crew(workers, ray, out) as team:
        run_study(
            name, out, base=base, data=data, scale=scale, rules=tuple(rule) if rule else None, sentences=sentences,
            ratio=ratio, parts=tuple(part) if part else None, methods=methods, seed=seed, source=source or None, names=names,
            attributes=tuple(attribute) if attribute else None, unit=unit, seeds=seeds, as_published=as_published,
            texts=texts, skip_damaged=skip_damaged, text=text, split=split, pretrain=tuple(pretrain) if pretrain else None,
            masked=masked, models=models, rows=rows, shared=shared, control=control, validation=validation, epochs=epochs,
            learning_rate=learning_rate, recipe=recipe, shards=shards, workers=team, threads=threads, say=progress_lines(),
        )  # fmt: skip
    _show(out, as_json)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="The run; the same command on it resumes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: WorkersEachCoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See fusing forget, in minutes: the shortcut study at the tiny scale, on a base and text of the project's own."""
    from fuseforget.models import cores
    from fuseforget.studies import study as run_study

    with crew(cores() if workers is None else workers, None, out) as team:
        run_study("shortcuts", out, scale="tiny", seed=seed, workers=team, say=progress_lines())
    _show(out, as_json)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, finished or not.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, a name ending in .html or .md.")],
) -> None:
    """Write one page from runs: self-contained HTML with figures also beside each run, or Markdown with figures beside it."""
    from fuseforget.report import write_report

    print(write_report([str(run) for run in runs], out))


def _show(run: Path, as_json: bool) -> None:
    from fuseforget.records import read_records, read_run
    from fuseforget.report import write_report
    from fuseforget.report.page import summarise

    page = write_report([run], run / "report.html")
    records = read_records(run)
    if as_json:
        print_json({"run": str(run), "report": str(page), "records": _plain(records)})
        return
    summary = summarise(read_run(run), records)
    for table in summary.tables:
        if not table.title.startswith(("Training", "Eq. 2")):
            rows = [[cell.split(" [")[0] for cell in row] if "every probe" in table.title else row for row in table.rows]
            print_table(table.header, rows, table.title)
            print()
    for line in summary.headline:
        print(line)
    print(f"Report: {page}")


def _plain(value: Any) -> Any:
    """Records without what they have per example."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in ENCODED}
    return [_plain(one) for one in value] if isinstance(value, list) else value
