"""Which cores measuring threads are bound to, and that everything is put back."""

import os
import threading

import pytest

from latency_tables.measuring.placement import choose_cores, placed


def machine(root, capacities, siblings) -> None:
    for core, (capacity, together) in enumerate(zip(capacities, siblings, strict=True)):
        folder = root / f"sys/devices/system/cpu/cpu{core}"
        (folder / "topology").mkdir(parents=True)
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
        (folder / "topology/thread_siblings_list").write_text(f"{together}\n")


def test_fast_cores_come_first_then_one_of_each_physical_core(tmp_path):
    machine(tmp_path, [400, 400, 1024, 1024, 1024, 1024], ["0", "1", "2,4", "3,5", "2,4", "3,5"])
    assert choose_cores(range(6), 1, tmp_path) == (3,)
    assert choose_cores(range(6), 2, tmp_path) == (2, 3)
    assert choose_cores(range(6), 3, tmp_path) == (2, 3, 5)
    assert choose_cores(range(6), 5, tmp_path) == (1, 2, 3, 4, 5)
    assert choose_cores([0, 1, 2], 1, tmp_path) == (2,)


def test_ranges_of_siblings_are_understood(tmp_path):
    machine(tmp_path, [1024] * 4, ["0-1", "0-1", "2-3", "2-3"])
    assert choose_cores(range(4), 2, tmp_path) == (0, 2)


def test_a_busy_core_is_left_to_its_work(tmp_path, monkeypatch):
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    stat.write_text("cpu 0 0 0 0 0\ncpu0 0 0 0 100 0\ncpu1 0 0 0 100 0\ncpu2 0 0 0 100 0\n")

    def look(seconds):
        stat.write_text("cpu 0 0 0 0 0\ncpu0 0 0 0 105 0\ncpu1 0 0 0 105 0\ncpu2 0 0 0 101 0\n")

    monkeypatch.setattr("latency_tables.measuring.placement.sleep", look)
    assert choose_cores(range(3), 1, tmp_path) == (1,)


def test_as_many_threads_as_cores_take_them_all(tmp_path):
    assert choose_cores([0, 1], 2, tmp_path) == choose_cores([0, 1], 8, tmp_path) == (0, 1)


def standing() -> tuple:
    """Where the calling thread may run and how high up."""
    priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.getpriority(os.PRIO_PROCESS, 0)
    return os.sched_getaffinity(0), priority


@pytest.mark.parametrize("kernel", [(4, 19), (6, 18)])
def test_threads_started_inside_are_placed_as_well_and_all_is_put_back(kernel, monkeypatch):
    monkeypatch.setattr("latency_tables.measuring.placement._kernel", lambda: kernel)
    before, inside = standing(), []
    with placed(1) as placement:
        thread = threading.Thread(target=lambda: inside.append(standing()))
        thread.start()
        thread.join()
        assert inside == [standing()]
    assert inside[0][0] == set(placement.cores)
    assert len(placement.cores) == 1
    assert standing() == before
    with pytest.raises(ZeroDivisionError), placed(1):
        1 / 0  # noqa: B018
    assert standing() == before


def test_more_threads_than_cores_never_run_in_real_time():
    allowed = os.sched_getaffinity(0)
    with placed(len(allowed) + 1) as placement:
        assert set(placement.cores) == allowed
        assert placement.priority.startswith("nice")


@pytest.mark.parametrize("kernel", [(4, 19), (6, 18)])
def test_a_user_who_may_not_raise_priority_measures_without(kernel, monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr("latency_tables.measuring.placement._kernel", lambda: kernel)
    before = standing()
    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.MonkeyPatch.context() as inner:
        inner.setattr("latency_tables.measuring.placement.os.SCHED_RR", -1)
        inner.setattr(os, "sched_setscheduler", lambda pid, policy, param: refuse() if policy == -1 else None)
        with placed(1) as placement:
            assert placement.priority == f"nice {os.getpriority(os.PRIO_PROCESS, 0)}"
    assert standing() == before
