"""Publishing a directory: whole or not at all, and never over what must not go."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from fuseforget.checkpoint import atomic_directory, publish
from fuseforget.errors import InputError, OutputError


def make_model(directory: Path, text: str = "old") -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(text)
    return directory


def write(out: Path, text: str = "new", **options: object) -> None:
    with atomic_directory(out, **options) as partial:  # type: ignore[arg-type]
        (partial / "config.json").write_text(text)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=["renameat2", "rename"])
def either_rename(request, monkeypatch):
    """Once with the exchange of two names, once where the system has none."""
    if request.param == "rename":
        monkeypatch.setattr(publish, "_exchange", lambda a, b: False)


@pytest.mark.usefixtures("either_rename")
def test_what_stood_there_is_replaced_and_nothing_else_is_left(tmp_path):
    out = make_model(tmp_path / "out")
    write(out, overwrite=True)
    assert (out / "config.json").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_the_system_exchanges_two_names(tmp_path):
    a, b = make_model(tmp_path / "a", "a"), make_model(tmp_path / "b", "b")
    if not publish._exchange(a, b):
        pytest.skip("this file system cannot exchange names")
    assert (a / "config.json").read_text() == "b"


def test_the_old_directory_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    out = make_model(tmp_path / "out")
    monkeypatch.setattr(publish, "_exchange", lambda a, b: False)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if Path(target) == out and ".partial-" in self.name and not self.name.endswith("-replaced"):
            raise PermissionError(13, "no", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError):
        write(out, overwrite=True)
    assert (out / "config.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_failure_in_the_work_leaves_the_old_directory(tmp_path):
    out = make_model(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), atomic_directory(out, overwrite=True):
        raise ZeroDivisionError
    assert (out / "config.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_symbolic_link_is_followed(tmp_path):
    real = make_model(tmp_path / "disk/real")
    link = tmp_path / "link"
    link.symlink_to(real)
    write(link, overwrite=True)
    assert link.is_symlink()
    assert (real / "config.json").read_text() == "new"


@pytest.mark.parametrize("where", ["input", "parent of an input", "link to an input", "cwd", "parent of cwd", "home"])
def test_places_that_must_not_go_are_refused(tmp_path, monkeypatch, where):
    model = make_model(tmp_path / "models/m")
    for holder in (tmp_path, tmp_path / "models"):
        (holder / "config.json").write_text("{}")  # not even what looks like a model
    monkeypatch.chdir(model)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(model)
    out, inputs = {
        "input": (model, [model]),
        "parent of an input": (tmp_path / "models", [model]),
        "link to an input": (tmp_path / "link", [model]),
        "cwd": (model, []),
        "parent of cwd": (tmp_path / "models", []),
        "home": (tmp_path, []),
    }[where]
    if inputs:
        monkeypatch.chdir("/")
    with pytest.raises(InputError, match="a place of its own"):
        write(out, overwrite=True, inputs=inputs)
    assert (model / "config.json").read_text() == "old"


def test_only_models_and_data_sets_are_replaced(tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        write(out, overwrite=True)
    assert (out / "chapter.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="found a file"):
        write(tmp_path / "file", overwrite=True)


def test_an_input_may_hold_the_output(tmp_path):
    model = make_model(tmp_path / "m")
    write(model / "fused", inputs=[model])
    assert (model / "fused/config.json").read_text() == "new"


def _die_inside(out: str) -> None:
    with atomic_directory(Path(out)) as partial:
        (partial / "config.json").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_die_inside, args=(str(tmp_path / "out"),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.partial-*"))) == 1
    with atomic_directory(tmp_path / "out") as living:
        assert list(tmp_path.glob(".out.partial-*")) == [living]
        write(tmp_path / "out", "first")
        assert living.is_dir()
        shutil.rmtree(tmp_path / "out")
        (living / "config.json").write_text("second")
    assert (tmp_path / "out/config.json").read_text() == "second"
    assert names(tmp_path) == ["out"]


def test_the_slower_of_two_finds_the_place_taken(tmp_path):
    with pytest.raises(InputError, match="--overwrite"), atomic_directory(tmp_path / "out"):
        write(tmp_path / "out", "first")
    assert (tmp_path / "out/config.json").read_text() == "first"
    assert names(tmp_path) == ["out"]
