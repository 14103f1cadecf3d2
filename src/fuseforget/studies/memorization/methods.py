"""Whether other fusion methods forget what single models memorised as the average does, and at what perplexity."""

from __future__ import annotations

from typing import Any

from fuseforget.errors import InputError
from fuseforget.studies.memorization.workshop import Workshop
from fuseforget.studies.method_settings import LEFT_OUT, SETTINGS, Setting

__all__ = ["by_method", "fuse_by_methods"]

ONE_MODEL = "takes one model beside its base"


def by_method(row: str) -> str:
    """What the records call the model fused as a row of the comparison says."""
    return f"by {row}"


def fuse_by_methods(shop: Workshop) -> None:
    """Fuse the first models by every method of the table that needs no data; ask the results, keep none of them."""
    left_out = {**LEFT_OUT, **{setting.method: ONE_MODEL for setting in SETTINGS if setting.on == "each"}}
    for method, reason in left_out.items():
        if shop.run.find("left_out", method=method) is None:
            shop.run.add("left_out", method=method, reason=reason)
    for setting in SETTINGS:
        if setting.on != "each" and shop.run.find("method", row=setting.row) is None:
            _fuse(shop, setting)


def _fuse(shop: Workshop, setting: Setting) -> None:
    parents = shop.few if setting.on == "all" else shop.few[:2]
    options: dict[str, Any] = {"seed": shop.settings.seed, **setting.parameters}
    if setting.weight is not None:
        options["weights"] = [setting.weight] * len(parents)
    if setting.takes_base:
        options["base"] = shop.corpus.base
    name, about = by_method(setting.row), {"source": setting.source, "parents": list(parents)}
    try:
        shop.ask_fused(parents, name, shop.few_sets, setting.method, own=parents, **options)
    except InputError as error:
        # A method that these tensors are not for is a row that says so; the others go on.
        shop.say(f"{setting.row}: {error}")
        shop.run.add("method", row=setting.row, method=setting.method, **about, failed=str(error))
        return
    shop.run.add("method", row=setting.row, method=setting.method, model=name, **about)
