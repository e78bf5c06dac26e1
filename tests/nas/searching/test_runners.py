"""Runners: the same scores here and on Ray, and nothing left behind."""

import os
import signal
import socket
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch

from nas.errors import JobError
from nas.ray_session import keep_ray_to_ourselves
from nas.searching import runners
from nas.searching.evaluator import Evaluator, Score
from nas.searching.runners import LocalRunner, RayRunner, make_runner
from search_spaces import Arch
from tests.contracts.runner_contract import check_runner, check_scores, small_evaluator, some_archs


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


def named(processes: set[int], title: bytes) -> list[int]:
    """Those that run under this name."""
    return [pid for pid in processes if title in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:  # it has ended
        return b""


def listened_on(processes: set[int]) -> dict[str, bytes]:
    """The addresses at which they take connections, as the kernel tells them, and one who does."""
    links = {link: pid for pid in processes for link in Path(f"/proc/{pid}/fd").glob("*")}
    own = {str(link.readlink())[8:-1]: pid for link, pid in links.items()}
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines():
        _, local, _, state, *rest = line.split()
        if state == "0A" and rest[5] in own:
            address = ".".join(str(octet) for octet in reversed(bytes.fromhex(local.partition(":")[0][-8:])))
            found[address] = command(own[rest[5]])
    return found


class KillsItself(Evaluator):
    """Ends its process where it meets an architecture: the first one, once; the second one, always."""

    def __init__(self, once: Arch, always: Arch, mark: Path) -> None:
        super().__init__(**vars(small_evaluator()))
        vars(self).update(once=once, always=always, mark=mark)

    def score(self, arch: Arch, images: int | None = None) -> Score:
        if arch == self.always or (arch == self.once and not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(arch, images)


def test_ray_keeps_the_contract_through_deaths_and_leaves_no_process_behind(tmp_path, monkeypatch, capsys):
    """One test for all, as starting Ray takes seconds, and starting an evaluator nearly as long."""
    monkeypatch.setattr(runners, "DEATHS", 1)
    before, started = descendants(), set()
    *healthy, always = some_archs(13)
    evaluator = KillsItself(healthy[5], always, tmp_path / "mark")

    def work() -> None:
        with RayRunner(evaluator, jobs=2) as runner:
            check_scores(runner)
            assert (tmp_path / "mark").exists()
            check_runner(runner)
            with pytest.raises(JobError, match=r"an evaluator on Ray died, 2 times, .*try fewer --jobs"):
                list(runner.scores([*healthy, always]))
            check_scores(runner)
            started.update(descendants() - before)
            assert listened_on(started).keys() == {"127.0.0.1"}
            (control,) = named(started, b"gcs_server")
            assert b"RAY_AUTH_MODE=token" in Path(f"/proc/{control}/environ").read_bytes()
            actors = named(started, b"ray::_Actor")
            assert 1 <= len(actors) <= 2
            assert all(os.getpriority(os.PRIO_PROCESS, pid) >= 10 for pid in actors)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not sys.modules["ray"].is_initialized()
    assert wait_until_gone(started, within_s=10) == set()
    assert capsys.readouterr().out == "", "what Ray says of deaths does not get into a command's output"


@pytest.mark.slow
@pytest.mark.parametrize("service", ["raylet", "gcs_server"])
def test_the_end_of_ray_is_an_error_of_one_line_and_not_ours(service):
    before = descendants()
    with RayRunner(small_evaluator(), jobs=2) as runner:
        check_scores(runner)
        started = descendants() - before
        (pid,) = named(started, service.encode())
        # Agents of Ray's own outlive its control service by a minute or two.
        working = {*named(started, b"ray::_Actor"), *named(started, b"raylet")}
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(JobError, match=r"^Ray ended \(.*\); go on with --resume$"):
            list(chain.from_iterable(runner.scores(some_archs()) for _ in range(10_000)))
    assert not sys.modules["ray"].is_initialized()
    assert wait_until_gone(working, within_s=10) == set()


@pytest.mark.parametrize("kind", [RuntimeError, Exception])
def test_a_ray_that_does_not_start_is_an_error_of_one_line(monkeypatch, capsys, kind):
    keep_ray_to_ourselves()  # before it is imported
    ray = pytest.importorskip("ray")

    def init(**options) -> None:
        print("what Ray says")
        raise kind("Timed out waiting for file\ngcs_server_port")  # as when its control service is killed

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match=r"^Ray did not start \(Timed .* file gcs_server_port\); go on with --resume$"):
        RayRunner(small_evaluator(), jobs=2).__enter__()
    print("what we say")
    assert capsys.readouterr().out == "what we say\n"


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
