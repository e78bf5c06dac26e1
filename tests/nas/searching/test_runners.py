"""Runners: the same scores here and on Ray, and nothing left behind."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from nas.errors import JobError
from nas.searching.runners import LocalRunner, RayRunner, make_runner
from tests.contracts.runner_contract import check_runner, small_evaluator, some_archs


def running() -> dict[int, int]:
    """Every process that runs, and its parent; one that only waits to be collected does not count."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(file.parent.name)] = int(parent)
    return found


def descendants() -> set[int]:
    """The processes below this one."""
    parents, found = running(), {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def wait_until_gone(processes: set[int], within_s: float) -> set[int]:
    """Those that still run after this time."""
    deadline = time.monotonic() + within_s
    while (left := processes & running().keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_the_local_runner_keeps_the_contract():
    with LocalRunner(small_evaluator()) as runner:
        check_runner(runner)


def test_the_local_runner_gives_torch_its_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with LocalRunner(small_evaluator()) as runner:
            list(runner.scores(some_archs(2)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_ray_keeps_the_contract_and_leaves_no_process_behind_when_it_is_interrupted():
    ray = pytest.importorskip("ray")
    before = descendants()
    started = set()

    def interrupted_work() -> None:
        with RayRunner(small_evaluator(), jobs=2) as runner:
            check_runner(runner)
            started.update(descendants() - before)
            evaluators = [
                pid for pid in started if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor")
            ]
            assert len(evaluators) == 2
            os.kill(evaluators[0], signal.SIGKILL)
            with pytest.raises(JobError, match="an evaluator on Ray died"):
                list(runner.scores(some_archs()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert not ray.is_initialized()
    assert wait_until_gone(started, within_s=10) == set()


def test_a_cluster_that_is_not_there_is_refused_at_once():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nothing listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(JobError, match=rf"search\.ray_address: no Ray answers at {address}"):
            RayRunner(small_evaluator(), 1, address).__enter__()


def test_one_job_without_a_cluster_works_here():
    evaluator = small_evaluator()
    assert isinstance(make_runner(evaluator, 1, None), LocalRunner)
    assert isinstance(make_runner(evaluator, 2, None), RayRunner)
    assert isinstance(make_runner(evaluator, 1, "10.0.0.1:6379"), RayRunner)
