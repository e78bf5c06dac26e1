"""kill -9 the driver of a search, an evaluator on Ray or Ray itself, at random moments: the result is the same to the byte."""

import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from nas.errors import JobError
from nas.searching.campaign import Campaign, Extent, campaign
from nas.searching.constraints import parse_constraint
from nas.searching.document import device_json, search_json
from nas.searching.engine import Identity, Plan
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Evaluator, Score
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.runners import make_runner
from nas.searching.store import TrialStore
from search_spaces import Arch
from supernets.supernet import Supernet
from tests.contracts.runner_contract import small_evaluator
from tests.nas.fakes import FakePredictor, small_space
from tests.nas.searching.test_runners import descendants, named, wait_until_gone

SPACE = small_space(num_classes=3, channels=[32, 32], strides=[1, 2], depths=[1, 2, 3])
IMAGES = 48
KILLS = 4

# A server that has all modules loaded forks the drivers: one that begins as a new Python takes seconds to load them.
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Slow(Evaluator):
    """A real evaluator that takes longer, so that most kills come while it works."""

    pause_s: float

    def score(self, arch: Arch, images: int | None = None) -> Score:
        time.sleep(self.pause_s)
        return super().score(arch, images)


@dataclass(frozen=True)
class Case:
    """A search over two devices, one with a constraint, that confirms the best on all images."""

    sampler: str
    images: tuple[int, ...] = (32,)
    jobs: int = 1
    pause_s: float = 0.003

    def run(self, path: Path, said: Connection) -> None:
        """In a process of its own: says `None` at each step, and at the end the result or why there is none."""
        evaluator = Slow(
            **vars(replace(small_evaluator(), net=Supernet(SPACE).eval(), space=SPACE)), pause_s=self.pause_s
        )
        targets = tuple(Target(n, SPACE, 1, {"latency_ms": FakePredictor(SPACE, seed=ord(n))}) for n in "ab")
        problem = Problem(SPACE, targets, limits=(parse_constraint("latency_ms@a <= 5"),))
        plan = Plan(self.sampler, 27, self.images, population=3)
        try:
            with TrialStore(path) as store, make_runner(evaluator, self.jobs, None) as runner:
                evaluations = Evaluations(store, "same", runner, SPACE)
                found = campaign(
                    problem,
                    plan,
                    Extent(seeds=1, controls=False, all_images=IMAGES),
                    store,
                    evaluations,
                    Identity("one"),
                    progress=lambda done, total, text: said.send(None),
                )
            said.send(document(found))
        except JobError as error:
            said.send(str(error))


ON_RAY = Case("guided", jobs=2, pause_s=0.1)


def document(found: Campaign) -> str:
    """All that a search leaves but the seconds."""
    devices = [device_json(found, target) for target in found.problem.targets]
    whole = {"search": search_json(found, 0.0), "devices": devices}
    return re.sub(r'"seconds": [^,}]*', "", json.dumps(whole, indent=1))


def remembered(path: Path) -> tuple[object, ...]:
    """All that the store holds but the seconds."""
    with TrialStore(path) as store:
        evaluations = {key: each.accuracy for key, each in store.evaluations("same").items()}
        return store.searches(), store.archs("same"), evaluations, store.proposals("one/0")


@contextmanager
def driver(case: Case, path: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that searches, and where it is heard."""
    heard, said = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=case.run, args=(path, said), daemon=True)
    process.start()
    said.close()
    with heard:
        yield process, heard
    process.join()


def hear(heard: Connection, steps: float = math.inf) -> str | None:
    """What a driver says at the end; nothing where it has come so many steps or is killed before."""
    try:
        while steps > 0 and (said := heard.recv()) is None:
            steps -= 1
    except EOFError:
        return None
    return said if steps > 0 else None


def whole(case: Case, path: Path) -> str:
    """The result of a search that nobody kills any more."""
    with driver(case, path) as (_, heard):
        found = hear(heard)
    assert found is not None
    return found


def killed(case: Case, path: Path, rng: np.random.Generator) -> str | None:
    """A search that is killed at a random moment; its result where it came to its end before."""
    with driver(case, path) as (process, heard):
        if (found := hear(heard, steps=rng.integers(10))) is None:
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            found = hear(heard)
    assert found or process.exitcode == -signal.SIGKILL
    return found


@pytest.mark.parametrize(
    ("sampler", "images"),
    [("guided", (32,)), ("guided", (16, 32)), ("nsga2", (32,)), ("nsga3", (32,)), ("tpe", (32,))],
)
def test_a_search_whose_driver_is_killed_again_and_again_ends_as_if_it_was_not(tmp_path, sampler, images):
    case, rng = Case(sampler, images), np.random.default_rng(len(sampler) + len(images))
    wanted = whole(case, tmp_path / "whole.sqlite")
    kills = 0
    for attempt in count():
        path = tmp_path / f"{attempt}.sqlite"
        while (found := killed(case, path, rng)) is None:
            kills += 1
        assert found == wanted
        assert remembered(path) == remembered(tmp_path / "whole.sqlite")
        if kills >= KILLS:
            break


@contextmanager
def on_ray(path: Path) -> Iterator[tuple[BaseProcess, Connection, dict[str, list[int]]]]:
    """A driver with two evaluators on Ray that has come a few steps, and the processes of Ray by what they are.

    Ray's agents are left out: they watch for the end of the others, and end a minute or two later.
    """
    before = descendants()
    with driver(ON_RAY, path) as (process, heard):
        assert hear(heard, steps=3) is None
        below = descendants() - before
        yield process, heard, {name: named(below, name.encode()) for name in ("_Actor", "raylet", "gcs_server")}


@pytest.mark.slow
def test_a_search_on_ray_outlives_an_evaluator_and_goes_on_after_the_end_of_ray_and_of_its_driver(tmp_path):
    path = tmp_path / "a.sqlite"
    with on_ray(path) as (process, heard, working):
        os.kill(working["_Actor"][0], signal.SIGKILL)
        assert hear(heard, steps=3) is None
        os.kill(working["raylet"][0], signal.SIGKILL)
        assert re.fullmatch(r"Ray ended \(.*\); go on with --resume", hear(heard))
    assert process.exitcode == 0
    assert wait_until_gone({*chain(*working.values())}, within_s=20) == set()
    with on_ray(path) as (process, _, working):
        process.kill()
    assert wait_until_gone({*chain(*working.values())}, within_s=20) == set()
    here = replace(ON_RAY, jobs=1, pause_s=0.0)
    assert whole(here, path) == whole(here, tmp_path / "whole.sqlite")
    assert remembered(path) == remembered(tmp_path / "whole.sqlite")
