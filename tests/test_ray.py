"""Workers on a Ray cluster of two nodes, both of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fuseforget import stopping
from fuseforget.errors import InputError, Stopped, WorkerError
from fuseforget.records import code_sha256
from fuseforget.workers import open_workers
from fuseforget.workers.on_ray import OnRay, _room, _share
from patience import LONG
from working import (
    DyingOnce,
    Held,
    Loading,
    Meeting,
    Training,
    code_of_a_process,
    devices,
    refuse_three,
    say_it,
    share,
    square,
)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes of a CPU each, on the loopback interface."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        pytest.importorskip("ray", reason="needs ray: pip install 'fuseforget[ray]'")
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        for _ in range(2):
            cluster.add_node(num_cpus=1, include_dashboard=False)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "items").mkdir()
    return tmp_path / "items"


def begun(directory: Path, count: int) -> list[int]:
    """The processes that began items, as soon as there are so many."""
    deadline = time.monotonic() + LONG
    while True:
        pids = [int(path.suffix[1:]) for path in directory.iterdir() if path.suffix[1:].isdigit()]
        if len(pids) >= count:
            return pids
        assert time.monotonic() < deadline, "the items were not begun in time"
        time.sleep(0.01)


def meanwhile(act) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_each_cpu_has_a_worker_and_results_are_in_order(cluster, directory):
    with open_workers(ray=cluster.address, shared=directory, code=code_sha256) as workers:
        import ray

        assert workers.count == 2
        assert list(workers.each(square, range(30))) == [number**2 for number in range(30)]
        assert len(set(workers.each(Meeting(directory, 3), range(2)))) == 2  # the mark is the third file
        assert list(workers.each(share, range(4))) == [(1, 1)] * 4
        assert ray.available_resources().get("CPU", 0) == 0
        function = Loading(directory)
        assert list(workers.each(function, range(20))) == [10 * number for number in range(20)]
        results = workers.each(refuse_three, range(10))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(InputError, match="item three: expected another one, found it"):
            next(results)
    assert not ray.is_initialized()
    assert not list(directory.glob(".seen-by-all-*"))


def test_the_variable_names_the_cluster_and_fewer_workers_are_enough(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    before = signal.getsignal(signal.SIGTERM)
    with open_workers(1, "auto") as workers:
        assert workers.count == 1
        assert signal.getsignal(signal.SIGTERM) is before
        assert list(workers.each(square, range(5))) == [0, 1, 4, 9, 16]


def test_the_items_of_a_worker_that_dies_are_done_again(cluster, directory):
    with open_workers(ray=cluster.address) as workers:
        assert list(workers.each(DyingOnce(directory, (1, 4)), range(8))) == [number**2 for number in range(8)]
        assert [len(list(directory.glob(f"{number}.*"))) for number in (1, 4)] == [2, 2]
        with pytest.raises(WorkerError, match=r"point 9: .*3 workers that died with it"):
            list(workers.each(DyingOnce(directory, (9,), always=True), [9], name=lambda number: f"point {number}"))


def test_the_items_of_a_node_that_dies_are_done_again(cluster, directory, capfd):
    (node,) = cluster.worker_nodes

    def one_gone(pids):
        deadline = time.monotonic() + LONG
        while all(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline, "no worker died with its node"
            time.sleep(0.01)

    def kill():
        pids = begun(directory, 2)
        cluster.remove_node(node, allow_graceful=False)
        one_gone(pids)
        (directory / "go").touch()

    try:
        with open_workers(ray=cluster.address) as workers:
            killer = meanwhile(kill)
            assert list(workers.each(Held(directory), range(8))) == [number**2 for number in range(8)]
            killer.join()
            # Its place stays empty, and nobody waits for it.
            assert list(workers.each(square, range(8))) == [number**2 for number in range(8)]
            assert not cluster.worker_nodes
    finally:
        cluster.add_node(num_cpus=1)
    assert len(begun(directory, 9)) == 9  # one was begun twice
    assert capfd.readouterr().out == ""  # where results go


def test_a_request_to_stop_reaches_the_nodes(cluster, directory):
    with stopping.finishing(lambda line: None), open_workers(ray=cluster.address) as workers:
        asker = meanwhile(lambda: begun(directory, 2) and os.kill(os.getpid(), signal.SIGINT))
        results = workers.each(Training(directory, ends=True), range(10))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(Stopped):
            next(results)
        asker.join()
    assert {path.name for path in directory.glob("*.stopped")} == {"0.stopped", "1.stopped"}


def test_actors_end_with_a_driver_that_is_killed(cluster, directory):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom fuseforget.workers import open_workers\nfrom working import Training\n"
        "with open_workers(ray=sys.argv[1]) as workers:\n"
        "    list(workers.each(Training(Path(sys.argv[2]), heeds=False), range(2)))\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, cluster.address, str(directory)])
    try:
        pids = begun(directory, 2)
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + LONG
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_node_of_other_code_is_refused(cluster):
    with (
        open_workers(ray=cluster.address, code=code_of_a_process) as workers,
        pytest.raises(InputError, match=rf"node .*: expected the code: process {os.getpid()}, .* found process"),
    ):
        list(workers.each(square, [1]))


def test_a_node_that_does_not_see_the_directory_is_refused(cluster, directory):
    workers = open_workers(ray=cluster.address, shared=directory)
    (mark,) = directory.iterdir()
    mark.unlink()
    with workers, pytest.raises(InputError, match=r"node .*items: .*found no mark of the driver"):
        list(workers.each(square, [1]))
    with pytest.raises(InputError, match="expected a directory that all workers see, found no directory"):
        open_workers(ray=cluster.address, shared=directory / "none")


def test_no_room_says_what_the_cluster_has(cluster):
    with (
        OnRay(cluster.address, cores=5, patience=1) as workers,
        pytest.raises(WorkerError, match=r"within 1 s, found none with 5 CPUs; the cluster has 2 of . CPUs, 0 of 0 GPUs free"),
    ):
        list(workers.each(square, [1]))


def test_each_gpu_has_a_worker(cluster):
    node = cluster.add_node(num_cpus=3, num_gpus=1)
    try:
        with open_workers(ray=cluster.address) as workers:
            assert workers.count == 1
            assert list(workers.each(devices, range(3))) == ["0"] * 3
    finally:
        cluster.remove_node(node)


def test_workers_say_what_they_do(cluster, capfd):
    said = ""
    with open_workers(ray=cluster.address, loud=True) as workers:
        assert list(workers.each(say_it, [1, 2])) == [1, 2]
        deadline = time.monotonic() + LONG
        while not ("item 1" in said and "item 2" in said) and time.monotonic() < deadline:
            time.sleep(0.05)
            captured = capfd.readouterr()
            said += captured.err
            assert not captured.out
    assert {"item 1", "item 2"} <= set(said.splitlines())


def test_where_there_is_no_cluster_the_error_says_how_to_start_one(cluster):
    for address, found in (("127.0.0.1:1", "nobody who answers"), ("here", "no host and port"), ("ray://a:1", "a client's")):
        with pytest.raises(InputError, match=f"--ray {address}: expected a Ray cluster that runs, found {found}.*ray start"):
            open_workers(ray=address)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'fuseforget\[ray\]'"):
        open_workers(ray="auto")


@pytest.mark.parametrize(
    ("nodes", "workers", "cores", "room"),
    [
        ([(8, 0), (8, 0)], None, 1, 16),
        ([(8, 0), (8, 0)], 2, 8, 2),
        ([(8, 0), (8, 0)], 3, 4, 4),
        ([(8, 0), (4, 0)], 2, 4, 3),
        ([(1, 0)], 5, 1, 1),
        ([(32, 4), (8, 0)], None, 8, 4),
        ([(32, 4), (8, 2)], None, 4, 6),
        ([(2, 4)], None, 1, 2),
        ([(32, 4)], 2, 16, 2),
    ],
)
def test_a_cluster_s_cpus_and_gpus_are_shared(nodes, workers, cores, room):
    assert _share(nodes, workers) == cores
    assert _room(nodes, cores) == room


def test_a_request_to_stop_is_heeded_while_no_worker_is_there(cluster):
    with stopping.finishing(lambda line: None), OnRay(cluster.address, cores=5) as workers:
        asker = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
        asker.start()
        with pytest.raises(Stopped):
            list(workers.each(square, [1]))
        asker.join()
