"""Workers that are processes: order, what they keep, and what they survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuseforget import stopping
from fuseforget.errors import InputError, Stopped, WorkerError
from fuseforget.models import running
from fuseforget.workers import Here, open_workers
from fuseforget.workers.parcels import WorkerTraceback
from patience import LONG
from working import (
    DyingAmidItsResult,
    DyingOnce,
    Loading,
    Meeting,
    Training,
    process,
    raise_odd,
    refuse_three,
    say_it,
    share,
    square,
    unpicklable,
)


@pytest.fixture(scope="module")
def two():
    """Two workers for tests that leave them alive."""
    with open_workers(2) as workers:
        yield workers


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "items").mkdir()
    return tmp_path / "items"


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + LONG
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def begun(directory: Path, count: int) -> list[int]:
    """The processes that began items of a Training, as soon as there are so many."""
    deadline = time.monotonic() + LONG
    while True:
        pids = [int(path.suffix[1:]) for path in directory.iterdir() if path.suffix != ".stopped"]
        if len(pids) >= count:
            return pids
        assert time.monotonic() < deadline, "the items were not begun in time"
        time.sleep(0.01)


def test_results_are_the_same_and_in_order_for_any_number(two):
    with open_workers(1) as one, open_workers(3) as three:
        for count, workers in enumerate((one, two, three), start=1):
            assert workers.count == count
            assert list(workers.each(square, range(30))) == [number**2 for number in range(30)]
            assert list(workers.each(square, [])) == []


def test_without_options_the_process_itself_works():
    with open_workers() as workers:
        assert isinstance(workers, Here)
        assert list(workers.each(process, [1])) == [os.getpid()]


def test_no_workers_are_refused():
    with pytest.raises(InputError, match="workers: expected at least 1, found 0"):
        open_workers(0)


def test_two_work_at_once(two, directory):
    assert len(set(two.each(Meeting(directory, 2), range(2)))) == 2


def test_items_are_taken_only_as_they_are_needed(two):
    taken = []
    results = two.each(square, (taken.append(number) or number for number in range(1000)))
    assert taken == []
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert 5 <= len(taken) <= 5 + 4 * two.count
    results.close()
    assert list(two.each(square, [7])) == [49]


def test_a_function_is_loaded_once_a_worker(two, directory):
    function = Loading(directory)
    assert list(two.each(function, range(20))) == [10 * number for number in range(20)]
    assert list(two.each(function, range(20, 40))) == [10 * number for number in range(20, 40)]
    loaded = [path.stem for path in directory.iterdir()]
    assert len(loaded) == len(set(loaded)) <= 2
    assert not function.loaded  # theirs are copies


def test_a_function_that_others_replaced_is_loaded_again(two, directory):
    for ballast in (b"a", b"b", b"c", b"a"):
        assert list(two.each(Loading(directory, ballast), [1, 2, 3])) == [10, 20, 30]


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(running, "cores", lambda: 5)
    with open_workers(2) as workers:
        shares = list(workers.each(share, range(4)))
    assert shares == [(min(2, len(os.sched_getaffinity(0))), 1)] * 4


def test_what_a_function_raises_comes_up_in_order(two):
    results = two.each(refuse_three, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="item three: expected another one, found it") as caught:
        next(results)
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in refuse_three" in str(caught.value.__cause__)


def test_what_the_items_raise_comes_up_in_order(two):
    def items():
        yield from range(3)
        raise OSError("the source ended")

    results = two.each(square, items())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(OSError, match="the source ended"):
        next(results)


def test_what_cannot_be_pickled_is_said(two):
    with pytest.raises(InputError, match="the workers' function: expected something that can be pickled"):
        two.each(lambda item: item, [1])
    with pytest.raises(InputError, match="the odd one: expected something that can be pickled"):
        list(two.each(square, [lambda: 1], name=lambda item: "the odd one"))
    with pytest.raises(InputError, match="a worker's result: expected something that can be pickled"):
        list(two.each(unpicklable, [1]))
    with pytest.raises(RuntimeError, match="OddError: oddone"):
        list(two.each(raise_odd, [1]))
    assert list(two.each(square, [3])) == [9]


def test_the_items_of_a_worker_that_dies_are_done_again(directory):
    items = (0, 3, 4)
    with open_workers(2) as workers:
        assert list(workers.each(DyingOnce(directory, items), range(10))) == [number**2 for number in range(10)]
    tries = [len(list(directory.glob(f"{number}.*"))) for number in range(10)]
    assert tries == [2 if number in items else 1 for number in range(10)]


def test_an_item_that_kills_its_workers_is_named(directory):
    with open_workers(2) as workers:
        results = workers.each(DyingOnce(directory, (2,), always=True), range(6), name=lambda number: f"point {number}")
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(WorkerError, match=r"point 2: .*3 workers that died with it.*memory") as caught:
            next(results)
        assert caught.value.exit_code == 1
        assert len(list(directory.glob("2.*"))) == 3
        assert list(workers.each(square, [5])) == [25]


def test_workers_that_are_killed_while_they_wait_are_replaced():
    with open_workers(2) as workers:
        for pid in set(workers.each(process, range(8))):
            os.kill(pid, signal.SIGKILL)
        assert list(workers.each(square, range(8))) == [number**2 for number in range(8)]


def test_workers_that_die_before_they_begin_are_replaced(directory, monkeypatch):
    mark = directory / "started"
    code = f"import os, pathlib, signal\nmark = pathlib.Path({str(mark)!r})\n"
    code += "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (directory / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]))
    (directory / "loads").mkdir()
    with open_workers(2) as workers:
        # More than a pipe holds: who starts a process writes it while nobody reads.
        results = workers.each(Loading(directory / "loads", os.urandom(3_000_000)), range(4))
        assert list(results) == [0, 10, 20, 30]
    assert mark.exists()


def test_a_worker_killed_amid_a_large_result_is_replaced(tmp_path):
    with open_workers(2) as workers:
        results = workers.each(DyingAmidItsResult(tmp_path / "mark"), range(3))
        assert [result == bytes([number]) * 50_000_000 for number, result in enumerate(results)] == [True] * 3
    assert (tmp_path / "mark").exists()


def test_leaving_early_leaves_the_work(directory):
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        leave(directory, pids)
    assert len(pids) >= 1
    assert gone(pids)


def leave(directory: Path, pids: list[int]) -> None:
    """Fail in the middle of an iteration."""
    with open_workers(2) as workers:
        for _ in workers.each(Leaving(directory), range(5)):
            pids += begun(directory, 1)
            raise ZeroDivisionError


class Leaving(Training):
    """Does its first item, and then goes on for good."""

    def __call__(self, number: int) -> int:
        return number if number == 0 else super().__call__(number)


def test_here_stops_between_items():
    with stopping.finishing(lambda line: None), open_workers() as workers:
        results = workers.each(lambda number: stopping.request() if number == 1 else number, range(5))
        assert [next(results), next(results)] == [0, None]
        with pytest.raises(Stopped):
            next(results)


def test_what_is_finished_when_asked_to_stop_is_no_stop():
    with stopping.finishing(lambda line: None), open_workers() as workers:
        assert list(workers.each(lambda number: stopping.request(), [1])) == [None]


@pytest.mark.parametrize("ends", [True, False], ids=["finishes", "stops"])
def test_a_request_reaches_what_is_being_done(directory, ends):
    with stopping.finishing(lambda line: None), open_workers(2) as workers:
        results = workers.each(Training(directory, ends=ends), asking(directory))
        if ends:
            assert [next(results), next(results)] == [0, 1]
        with pytest.raises(Stopped):
            next(results)
    assert {path.name for path in directory.glob("*.stopped")} == {"0.stopped", "1.stopped"}
    assert not list(directory.glob("[2-9].*"))


def asking(directory: Path):
    """Items; the request comes from another thread, while the driver waits."""
    import threading

    def ask():
        begun(directory, 2)
        os.kill(os.getpid(), signal.SIGINT)

    yield 0
    threading.Thread(target=ask).start()
    yield from range(1, 10)


def test_a_worker_that_was_asked_when_there_was_nothing_to_stop_works_on(directory):
    with open_workers(1 + 1) as workers:
        for pid in set(workers.each(process, range(8))):
            os.kill(pid, signal.SIGINT)
        assert list(workers.each(Careful(directory), range(6))) == list(range(6))


class Careful(Loading):
    """Looks whether it is to stop before each item."""

    def __call__(self, number: int) -> int:
        stopping.check("nothing")
        return number


DRIVER = """
import sys
from pathlib import Path
from fuseforget import stopping
from fuseforget.errors import FuseForgetError
from fuseforget.workers import open_workers
from working import Training

if __name__ == "__main__":
    directory, heeds, ends = Path(sys.argv[1]), *(word == "True" for word in sys.argv[2:4])
    try:
        with stopping.finishing(print), open_workers(2) as workers:
            for result in workers.each(Training(directory, heeds, ends), range(10)):
                print("result", result, flush=True)
    except FuseForgetError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


@pytest.fixture
def driver(tmp_path, directory):
    """Start a driver of two workers in a process group of its own."""
    script = tmp_path / "driver.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{DRIVER}")
    started = []

    def start(heeds: bool = True, ends: bool = True) -> subprocess.Popen:
        command = [sys.executable, str(script), str(directory), str(heeds), str(ends)]
        started.append(
            subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


def test_workers_end_with_a_driver_that_is_killed(driver, directory):
    running_driver = driver(heeds=False)
    pids = begun(directory, 2)
    running_driver.kill()
    assert gone(pids)


@pytest.mark.parametrize(("whole_group", "ends"), [(True, True), (False, False)], ids=["group finishes", "driver stops"])
def test_ctrl_c_finishes_what_was_begun(driver, directory, whole_group, ends):
    running_driver = driver(ends=ends)
    pids = begun(directory, 2)
    (os.killpg if whole_group else os.kill)(running_driver.pid, signal.SIGINT)
    out, err = running_driver.communicate(timeout=LONG)
    assert err.startswith("Stopped: "), err
    assert ("result 0\nresult 1" in out) == ends
    assert running_driver.returncode == 1
    assert {path.name for path in directory.glob("*.stopped")} == {"0.stopped", "1.stopped"}
    assert gone(pids)


def test_a_second_ctrl_c_ends_at_once(driver, directory):
    running_driver = driver(heeds=False)
    pids = begun(directory, 2)
    os.killpg(running_driver.pid, signal.SIGINT)
    assert "stopping" in running_driver.stdout.readline()
    os.killpg(running_driver.pid, signal.SIGINT)
    _, err = running_driver.communicate(timeout=LONG)
    assert err == "interrupted\n"
    assert gone(pids)


def test_ctrl_c_while_workers_start_is_no_crash(driver, directory):
    running_driver = driver(ends=True)
    children = Path(f"/proc/{running_driver.pid}/task/{running_driver.pid}/children")
    deadline = time.monotonic() + LONG
    while len(children.read_text().split()) < 3 and time.monotonic() < deadline:  # two, and the tracker of resources
        time.sleep(0.001)
    os.killpg(running_driver.pid, signal.SIGINT)
    out, err = running_driver.communicate(timeout=LONG)
    assert err.startswith("Stopped: "), err
    assert "result 0\nresult 1" in out


@pytest.mark.parametrize(("count", "loud"), [(1, False), (1, True), (2, True)])
def test_workers_say_what_they_do_where_that_is_asked_for(capfd, count, loud):
    with open_workers(count, loud=loud) as workers:
        assert list(workers.each(say_it, [1, 2])) == [1, 2]
    assert sorted(capfd.readouterr().err.splitlines()) == (["item 1", "item 2"] if loud else [])
