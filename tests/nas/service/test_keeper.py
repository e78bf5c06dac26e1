"""The keeper: a process a step, and nothing left of it, whoever is killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.service.hired import Hired
from nas.service.keeper import _unsaid
from nas.service.orders import Order, Outcome
from nas.service.orphans import descendants, end_marked, is_alive, marked, worker_id
from tests.nas.searching.test_runners import wait_until_gone
from tests.nas.service.acts import hire, steps, stubborn

WORKER = "a-test"
SOON_S = 20.0
"""How long a loaded machine may take for what takes milliseconds."""


@pytest.fixture
def keeper() -> Iterator[Hired]:
    found = hire(WORKER)
    yield found
    found.close()


def order(folder: Path, act: str, *steps: str) -> Order:
    return Order({"act": act, "folder": str(folder)}, "j1", 1, WORKER, steps or ("train",))


def ended(keeper: Hired) -> Outcome:
    found = keeper.outcome(SOON_S)
    assert found is not None
    return found


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_step_is_a_process_of_its_own_and_those_that_use_all_cores_are_nice(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "do", "prepare", "train", "profile", "search", "front", "export"))
    assert ended(keeper) == Outcome("done", result={"made": "it"})
    rows = steps(tmp_path)
    assert [(row[0], row[1]) for row in rows] == [
        ("prepare", 0),
        ("train", 1),
        ("profile", 2),
        ("search", 3),
        ("front", 4),
        ("export", 5),
    ]
    assert len({row[2] for row in rows}) == 6
    nicest = min(19, os.nice(0) + 10)
    assert [row[3] for row in rows] == [os.nice(0), nicest, os.nice(0), nicest, os.nice(0), os.nice(0)]


def test_one_order_comes_after_the_other(keeper, tmp_path):
    for _ in range(3):
        keeper.carry_out(order(tmp_path, "do"))
        assert ended(keeper).state == "done"
    assert len(steps(tmp_path)) == 3


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        ("refuse", Outcome("failed", "user", "there is no such thing")),
        ("die", Outcome("failed", "infrastructure", "train: its process was killed by SIGKILL")),
        ("leave", Outcome("failed", "infrastructure", "train: its process ended with code 3")),
    ],
)
def test_a_step_that_fails_is_the_last_one_and_says_why(keeper, tmp_path, act, outcome):
    keeper.carry_out(order(tmp_path, act, "train", "search"))
    assert ended(keeper) == outcome
    assert len(steps(tmp_path)) == 1


def test_a_step_that_stumbles_leaves_its_trace(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "stumble"))
    outcome = ended(keeper)
    assert (outcome.fault, outcome.message) == ("bug", "KeyError: 'nothing there'")
    assert "in stumble" in outcome.trace


def test_a_long_answer_is_heard_to_its_end(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "say_much"))
    assert len(ended(keeper).result) == 1_000_000


def test_a_process_killed_for_want_of_memory_is_told_from_one_that_was_killed():
    assert _unsaid("train", signal.SIGKILL, 1, asked=False).fault == "memory"
    assert _unsaid("train", signal.SIGKILL, 0, asked=False).fault == "infrastructure"
    assert _unsaid("train", signal.SIGSEGV, 1, asked=False).fault == "infrastructure"
    assert _unsaid("train", signal.SIGKILL, 1, asked=True).state == "stopped"


def test_what_a_step_leaves_behind_is_ended_with_it(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "spawn"))
    assert ended(keeper).state == "done"
    assert len(stubborn(tmp_path)) == 3
    assert wait_until_gone(stubborn(tmp_path), 0) == set()


def test_a_step_that_is_told_to_stop_does(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "stay", "train", "search"))
    wait_until(lambda: steps(tmp_path))
    keeper.stop(SOON_S)
    assert ended(keeper).state == "stopped"
    assert len(steps(tmp_path)) == 1


def test_a_step_that_would_not_stop_is_killed_with_all_below_it(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "spawn_and_stay"))
    wait_until((tmp_path / "spawned").exists)
    keeper.stop(0.2)
    assert ended(keeper).state == "stopped"
    assert wait_until_gone(stubborn(tmp_path), 0) == set()


def test_a_keeper_that_is_told_to_kill_takes_the_next_order(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "ignore"))
    wait_until(lambda: steps(tmp_path))
    keeper.kill()
    assert ended(keeper).state == "stopped"
    keeper.carry_out(order(tmp_path, "do"))
    assert ended(keeper).state == "done"


def test_all_ends_when_the_worker_is_gone(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "spawn_and_stay"))
    wait_until((tmp_path / "spawned").exists)
    below = descendants(keeper.pid) | stubborn(tmp_path)
    assert len(below) == 4
    keeper._process.stdin.close()
    assert wait_until_gone(below | {keeper.pid}, SOON_S) - {keeper.pid} == set()
    assert not is_running(keeper)


def is_running(keeper: Hired) -> bool:
    keeper._process.wait(SOON_S)
    return keeper.is_alive()


def test_a_keeper_that_is_killed_takes_its_step_with_it_and_the_worker_ends_the_rest(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "spawn_and_stay"))
    wait_until((tmp_path / "spawned").exists)
    below = descendants(keeper.pid) | stubborn(tmp_path)
    os.kill(keeper.pid, signal.SIGKILL)
    assert ended(keeper) == Outcome("failed", "infrastructure", "the keeper of its processes ended with code -9")
    assert wait_until_gone(below, SOON_S) == set()


def test_signals_that_whoever_ends_a_service_sends_to_all_of_it_do_not_end_a_keeper(keeper, tmp_path):
    keeper.carry_out(order(tmp_path, "stay"))
    wait_until(lambda: steps(tmp_path))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(keeper.pid, number)
    keeper.stop(SOON_S)
    assert ended(keeper).state == "stopped"


def test_a_worker_knows_whether_another_one_of_its_machine_lives():
    own = worker_id()
    assert is_alive(own)
    machine, pid, started = own.rsplit(":", 2)
    assert not is_alive(f"{machine}:{pid}:{int(started) - 1}"), "another process had this id before"
    assert is_alive(f"elsewhere:{pid}:{started}"), "who knows"
    assert is_alive("no worker's id")


def test_processes_are_found_by_their_mark(keeper):
    wait_until(lambda: any(mark.startswith(f"{WORKER}/") for mark in marked().values()))
    found = {pid for pid, mark in marked().items() if mark.startswith(f"{WORKER}/")}
    assert keeper.pid in found
    assert end_marked(lambda mark: mark.startswith(f"{WORKER}/")) == set()
    assert not is_running(keeper)
