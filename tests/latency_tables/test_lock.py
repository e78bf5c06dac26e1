"""One measurement at a time, across processes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from latency_tables import BusyError, LatencyError, exclusive
from latency_tables.measuring.lock import lock_path

HOLD = """
import sys, time, pathlib
from latency_tables.measuring.lock import exclusive
with exclusive(5, pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock at `tmp_path / "lock"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_the_lock(holder, tmp_path):
    with pytest.raises(BusyError, match=f"process {holder.pid} is measuring"), exclusive(0.1, tmp_path / "lock"):
        pass


def test_the_lock_dies_with_its_process(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(1, tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(0, tmp_path / "lock"):
        1 / 0  # noqa: B018
    with exclusive(0, tmp_path / "lock"):
        pass


def test_the_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(LatencyError, match="cannot be opened"), exclusive(0, tmp_path / "lock"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_each_user_has_a_lock_of_their_own():
    assert str(os.getuid()) in lock_path().name


def test_two_threads_of_one_process_do_not_measure_at_once(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with exclusive(30, tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 15


def test_who_waits_says_for_whom(holder, tmp_path):
    said = []
    with pytest.raises(BusyError), exclusive(0.2, tmp_path / "lock", on_wait=said.append):
        pass
    assert said == [f"waiting for process {holder.pid}, which is measuring on this machine"]
