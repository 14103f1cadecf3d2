"""Run by the interpreter that has mergekit, once for many merges: ``python mergekit_worker.py JOBS.json``.

A job is ``{"config": ..., "out": directory}`` (mergekit's own configuration of whole checkpoints),
``{"recipe": YAML file, "out": directory}`` (what ``mergekit-yaml`` does with it, the tokenizer included),
``{"defaults": [method, ...], "out": file}`` (what its parameters are called and default to), or
``{"tensors": file, "method": ..., "parameters": ..., "base": index or null, "seed": ..., "out": file}`` of single tensors.
The failure of a single tensor is part of the answer: the file then holds no tensor, and its metadata the error.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods import get, merge_tensors
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        torch.manual_seed(job.get("seed", 0))
        if "recipe" in job:
            config = MergeConfiguration.model_validate(yaml.safe_load(Path(job["recipe"]).read_text()))
            run_merge(config, job["out"], MergeOptions(quiet=True, write_model_card=False))
            continue
        if "config" in job:
            config = MergeConfiguration.model_validate(job["config"])
            run_merge(config, job["out"], MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False))
            continue
        if "defaults" in job:
            specs = {name: get(name).spec.parameters for name in job["defaults"]}
            found = {name: {p.name: None if p.required else p.default for p in spec} for name, spec in specs.items()}
            Path(job["out"]).write_text(json.dumps(found))
            continue
        tensors = load_file(job["tensors"])
        try:
            result = merge_tensors(
                [tensors[str(i)] for i in range(len(tensors))],
                job["method"],
                parameters=job["parameters"],
                base_index=job["base"],
            )
            save_file({"result": result.contiguous()}, job["out"])
        except Exception as error:
            save_file({}, job["out"], metadata={"error": f"{type(error).__name__}: {error}"})
