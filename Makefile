# Each target does all the set-up it needs on a fresh machine: a virtual environment and the pinned dependencies.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test real oracle lint types docs constraints tiny-base clean

demo: .venv/installed  ## The main job: fuse specialists, see the shortcuts go and the task stay
	$(BIN)/fuseforget demo -o runs/demo

# A process a core, of one thread each: threads of several processes on the same cores wait for one another.
test: .venv/installed  ## All tests that need neither ../shared/data nor many minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

real: .venv/installed  ## Tests on real models and data (../shared/data); skipped with the reason where it is absent
	$(BIN)/python -m pytest -m real

oracle: .venv/installed  ## Fusion methods against mergekit; skipped with the reason unless MERGEKIT_PYTHON names an interpreter that has it
	MERGEKIT_PYTHON='$(MERGEKIT_PYTHON)' $(BIN)/python -m pytest -m oracle tests/test_oracle.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

docs: .venv/installed  ## The README's commands, run, and their output compared with what it shows
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m docs -n auto --dist loadfile tests/test_docs.py tests/test_docs_memorization.py

tiny-base: .venv/installed  ## Pretrain the demo's base again (about ten minutes)
	$(BIN)/python -m fuseforget.studies.tiny

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
