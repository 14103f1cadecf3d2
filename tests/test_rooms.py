"""The house's rules: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "fuseforget"
ALL = {p.stem for p in ROOT.iterdir() if not p.name.startswith(("_", "py."))}
# Down the table only. Besides what the table names, sweep reads probes' data and
# has points fused in place, and sweep and paths write records.
MAY_IMPORT = {
    "errors": set(),
    "checkpoint": {"errors"},
    "compiling": set(),
    "locks": set(),
    "stopping": {"errors"},
    "workers": {"errors", "stopping", "models"},
    "methods": {"errors", "compiling"},
    "knowledge": {"errors"},
    "data": {"errors"},
    "erasure": {"errors"},
    "records": {"errors", "locks"},
    "fuse": {"errors", "checkpoint", "methods"},
    "geometry": {"errors", "checkpoint"},
    "forecast": {"errors", "checkpoint", "fuse", "geometry"},
    "models": {"errors", "checkpoint"},
    "train": {"errors", "locks", "stopping", "checkpoint", "models", "data"},
    "audit": {"knowledge", "records"},
    "leakage": {"errors", "stopping", "workers", "checkpoint", "models", "knowledge", "fuse", "data", "records"},
    "asked": {"errors", "checkpoint", "knowledge", "data", "leakage", "records"},
    "sweep": {
        "errors",
        "stopping",
        "workers",
        "asked",
        "audit",
        "leakage",
        "checkpoint",
        "models",
        "knowledge",
        "methods",
        "fuse",
        "data",
        "records",
    },
    "paths": {"errors", "stopping", "workers", "checkpoint", "models", "knowledge", "methods", "fuse", "records", "sweep"},
    "dial": {"errors", "workers", "checkpoint", "knowledge", "methods", "fuse", "records", "sweep"},
    "fisher": {"errors", "compiling", "checkpoint", "models", "knowledge", "data"},
    "studies": ALL - {"cli", "report", "studies"},
    "report": {"errors", "records"},
    "cli": ALL,
}


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "fuseforget" else [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("fuseforget.")}
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_go_down_the_table(room):
    files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").is_file() else sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        assert imports_of(file) - {room} <= MAY_IMPORT[room], file


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_room_takes_what_another_keeps_to_itself(file):
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fuseforget."):
            private = [a.name for a in node.names if a.name.startswith("_") and node.module.split(".")[1] != room]
            assert not private, f"{file}: {private} of {node.module}"


def test_every_room_is_in_the_table():
    assert set(MAY_IMPORT) == ALL


@pytest.mark.parametrize("command", [["--help"], ["methods"], ["fuse", "--help"], ["erase", "--help"], ["study", "--help"]])
def test_help_and_methods_do_not_import_torch(command):
    code = (
        "import sys\nsys.argv = ['fuseforget', *sys.argv[1:]]\n"
        "from fuseforget.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)


def test_the_report_does_without_torch():
    code = "import sys, fuseforget.report\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
