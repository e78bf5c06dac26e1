"""What the system tells, from files that stand in for those of Linux."""

import threading

import pytest

from latency_tables.measuring.conditions import Conditions, System

STAT = (
    "cpu  9 9 9 9 9 9 9 {0} 0 0\ncpu0 1 1 1 1 1 1 1 {0} 0 0\ncpu1 1 1 1 1 1 1 1 {1} 0 0\ncpu10 1 1 1 1 1 1 1 99 0 0\n"
)


def write(root, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def moment(root, steal=(0, 0), pressure_us=0, mhz=(2000, 2000), celsius=(40, 50)) -> None:
    write(root, "proc/stat", STAT.format(*steal))
    write(root, "proc/pressure/cpu", f"some avg10=0.00 avg60=0.00 avg300=0.00 total={pressure_us}\nfull total=7\n")
    for index, (frequency, temperature) in enumerate(zip(mhz, celsius, strict=True)):
        write(root, f"sys/devices/system/cpu/cpu{index}/cpufreq/scaling_cur_freq", f"{frequency * 1000}\n")
        write(root, f"sys/class/thermal/thermal_zone{index}/temp", f"{temperature * 1000}\n")


def test_shares_are_of_the_time_that_passed_and_of_our_cores(tmp_path):
    moment(tmp_path)
    times = {cores: iter((5.0, 5.1)) for cores in ((0, 1), (0,))}
    both, first = (System(cores, tmp_path, lambda cores=cores: next(times[cores])) for cores in times)
    starts = both.counters(), first.counters()
    moment(tmp_path, steal=(1, 3), pressure_us=20_000, mhz=(1500, 2000), celsius=(70, 60))
    found = both.since(starts[0])
    assert found.steal == pytest.approx(0.3)
    assert found.pressure == pytest.approx(0.2)
    assert (found.frequency_mhz, found.temperature_c) == (1500.0, 70.0)
    assert first.since(starts[1]).steal == pytest.approx(0.1)


@pytest.mark.parametrize(("idle", "busy"), [((1, 1), 1.0), ((6, 11), 0.5), ((11, 11), 0.0), ((13, 13), 0.0)])
def test_the_busiest_core_beside_ours_is_the_neighbour(tmp_path, idle, busy):
    stat = "cpu 0 0 0 0 0 0\ncpu0 0 0 0 {} 0 0\ncpu1 0 0 0 {} 0 0\ncpu2 0 0 0 {} 0 0\n"
    write(tmp_path, "proc/stat", stat.format(1, 1, 1))
    times = iter((5.0, 5.1))
    system = System((0,), tmp_path, lambda: next(times))
    start = system.counters()
    write(tmp_path, "proc/stat", stat.format(1, *idle))
    assert system.since(start).neighbour == pytest.approx(busy)


def test_short_stretches_are_joined_until_they_say_something_of_neighbours(tmp_path):
    stat = "cpu0 0 0 0 1 0 0\ncpu1 0 0 0 {} 0 0\n"
    write(tmp_path, "proc/stat", stat.format(0))
    now = [5.0]
    system = System((0,), tmp_path, lambda: now[0])
    found = []
    for step in range(1, 7):
        start = system.counters()
        now[0] += 0.02
        write(tmp_path, "proc/stat", stat.format(step if step < 4 else 3))
        found.append(system.since(start).neighbour)
    # 60 ms with 30 ms idle; from the beginning of the third stretch on, 60 ms with 10 ms idle.
    assert found[:2] == [None, None]
    assert found[2:] == pytest.approx([0.5, 0.5, 5 / 6, 5 / 6])


def test_a_system_that_tells_nothing_gives_none(tmp_path):
    system = System((0,), tmp_path)
    assert system.since(system.counters()) == Conditions()
    assert system.threads() == frozenset()
    assert system.waited_s((1, 2)) == (0.0, 0.0)


def test_files_that_make_no_sense_give_none(tmp_path):
    moment(tmp_path)
    for path in ("proc/pressure/cpu", "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "proc/stat"):
        write(tmp_path, path, "<unknown>\n")
    system = System((0,), tmp_path)
    found = system.since(system.counters())
    assert (found.steal, found.pressure, found.frequency_mhz) == (None, None, None)


def test_threads_and_their_waiting_are_seen_on_this_machine():
    system = System()
    before, go = system.threads(), threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        (new,) = system.threads() - before
        assert new == thread.native_id
        assert system.waited_s((new,))[0] >= 0
    finally:
        go.set()
        thread.join()
