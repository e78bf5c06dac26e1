"""What a campaign leaves as JSON: all of it can be written, and says what the campaign holds."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nas.searching.campaign import Campaign, Extent, campaign
from nas.searching.constraints import parse_constraint
from nas.searching.document import COVERAGE, device_json, search_json
from nas.searching.engine import Identity, Plan
from nas.searching.evaluations import Evaluations
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import arch_cost, define_space
from tests.nas.fakes import FAKE_IMAGES, FakePredictor, FakeRunner, small_space

SPACE = define_space("tiny", in_channels=1, resolutions=[8, 12], channels=[64, 96], strides=[1, 2])
LIMITS = ("macs <= 40M", "latency_ms@b <= 8 with 90%", "accuracy >= 0.1")


def found_by(
    limits=(), names="ab", space=SPACE, images=(100,), seeds=2, controls=True, warm=None, objectives=None, **plan
) -> Campaign:
    targets = tuple(Target(name, space, 1, {"latency_ms": FakePredictor(space, seed=ord(name))}) for name in names)
    problem = Problem(space, targets, limits=tuple(map(parse_constraint, limits)))
    problem = replace(problem, objectives=objectives or problem.objectives)
    plan = Plan(**{"sampler": "guided", "evaluations": 12, "images": images, "population": 4, **plan})
    extent = Extent(seeds, controls, FAKE_IMAGES)
    with TrialStore("sqlite://") as store:
        evaluations = Evaluations(store, "same", FakeRunner(space), space)
        return campaign(problem, plan, extent, store, evaluations, Identity("one"), warm=warm)


def written(found: Campaign) -> tuple[dict, dict]:
    """What is left of it in a file: the search, and the devices by name."""
    document = [search_json(found, 1.5), *(device_json(found, target) for target in found.problem.targets)]
    whole, *devices = json.loads(json.dumps(document, allow_nan=False))
    return whole, {device["name"]: device for device in devices}


@pytest.fixture(scope="module")
def found() -> Campaign:
    return found_by(LIMITS)


def test_the_search_as_a_whole(found):
    whole, _ = written(found)
    assert whole["objectives"] == ["accuracy", "latency_ms"]
    assert whole["constraints"] == list(LIMITS)
    assert whole["evaluations"] == len(found.codes)
    assert whole["confirmed"] == np.isfinite(found.confirmed).sum()
    assert whole["proposals"] == sum(each.proposals for each in found.searches)
    assert whole["seconds"] == 1.5
    assert [each["seed"] for each in whole["searches"]] == [each.seed for each in found.searches]
    for each, search in zip(whole["searches"], found.searches, strict=True):
        assert (each["evaluations"], each["ended"], each["sources"]) == (12, search.ended, dict(search.sources))
        assert each["history"][-1]["by_device"] == dict(search.hypervolume)
        assert each["history"][-1]["hypervolume"] == pytest.approx(np.mean(list(search.hypervolume.values())))
    volumes = [np.mean(list(search.hypervolume.values())) for search in found.searches]
    assert whole["hypervolume"]["mean"] == pytest.approx(np.mean(volumes))
    assert whole["hypervolume"]["std"] == pytest.approx(np.std(volumes, ddof=1))
    assert [each["evaluations"] for each in whole["random"]] == [12, 12]
    assert 0 < whole["hypervolume_random"]["mean"] < 1


def test_the_front_of_a_device_row_by_row(found):
    _, devices = written(found)
    for target in found.problem.targets:
        rows, indices = devices[target.name]["front"], found.fronts[target.name]
        assert len(rows) == len(indices) > 0
        codes = found.codes[indices]
        latency, (low, high) = target.values("latency_ms", codes), target.interval("latency_ms", codes, COVERAGE)
        for k, (row, arch) in enumerate(zip(rows, found.problem.space.decode(codes), strict=True)):
            assert (row["arch_id"], row["arch"]) == (arch.id, arch.values)
            assert row["val_accuracy"] == found.confirmed[indices[k]]
            assert row["search_accuracy"] == found.accuracy[indices[k]]
            predicted = (row["latency_ms_low"], row["latency_ms_predicted"], row["latency_ms_high"])
            assert predicted == (low[k], latency[k], high[k])
            cost = arch_cost(SPACE, arch)
            assert (row["macs"], row["params"]) == (cost.macs, cost.params)
            own = [limit for limit in LIMITS if "@" not in limit or f"@{target.name}" in limit]
            assert row["constraints"] == [{"text": text, "predicted": True, "measured": None} for text in own]
            assert row["values"]["latency_ms"] == {"predicted": latency[k], "low": low[k], "high": high[k]}
            assert row["values"]["macs"] == dict.fromkeys(("predicted", "low", "high"), cost.macs)
            assert row["values"].keys() == {"latency_ms", "macs"}


def test_a_device_shows_everything_evaluated_and_its_controls(found):
    _, devices = written(found)
    for target in found.problem.targets:
        device = devices[target.name]
        assert [row["arch_id"] for row in device["evaluated"]] == [arch.id for arch in SPACE.decode(found.codes)]
        assert [row["val_accuracy"] for row in device["evaluated"]] == found.accuracy.tolist()
        latency = target.values("latency_ms", found.codes).tolist()
        assert [row["latency_ms_predicted"] for row in device["evaluated"]] == latency
        assert len(device["uniform"]) == len(found.uniform[0])
        assert device["uniform_hypervolume"] == found.problem.hypervolume(target, *found.uniform)
        assert device["average"]["accuracy"] == found.averages[target.name].accuracy
        assert device["hypervolume"]["seeds"] == device["hypervolume_random"]["seeds"] == 2
        own = [
            limit for limit in LIMITS if "accuracy" not in limit and ("@" not in limit or f"@{target.name}" in limit)
        ]
        assert [row["text"] for row in device["reach"]][: len(own)] == own
        assert device["closest"] is None


def test_what_other_runs_evaluated_is_not_counted_as_evaluated_here():
    codes = np.unique(SPACE.sample(np.random.default_rng(5), 10), axis=0)
    warm = dict.fromkeys(SPACE.decode(codes), 0.5)
    found = found_by(warm=warm, seeds=1)
    whole, devices = written(found)
    assert whole["evaluations"] == whole["searches"][0]["evaluations"] == 12
    assert len(devices["a"]["evaluated"]) == 12 + len(codes)


def test_a_device_whose_limits_nothing_meets_is_told_what_comes_closest():
    found = found_by(["latency_ms@b <= 0.5"])
    _, devices = written(found)
    assert devices["b"]["front"] == []
    closest = devices["b"]["closest"]
    target = found.problem.targets[1]
    (missed,) = closest["missed"]
    assert missed["text"] == "latency_ms@b <= 0.5"
    codes = SPACE.encode([SPACE.arch(closest["arch"])])
    assert missed["value"] == pytest.approx(target.values("latency_ms", codes)[0])
    assert closest["arch_id"] == SPACE.decode(codes)[0].id
    assert devices["a"]["front"]


ODD = {
    "nothing can be met": {"limits": ["macs <= 1"]},
    "without controls": {"controls": False},
    "one seed": {"seeds": 1},
    "few images first": {"images": (100, 200)},
    "all images at once": {"images": (FAKE_IMAGES,)},
    "accuracy alone": {"objectives": ("accuracy",)},
    "no accuracy": {"objectives": ("params", "latency_ms")},
    "three objectives": {"objectives": ("accuracy", "macs", "latency_ms")},
    "a space of one": {"space": small_space(resolutions=[8], depths=[1], kernels=[3], widths=[1.0], expands=[1.0])},
    "another sampler": {"sampler": "nsga2"},
}


@pytest.mark.parametrize("case", ODD)
def test_every_campaign_can_be_written(case):
    found = found_by(**{"seeds": 1, "names": "a", **ODD[case]})
    whole, devices = written(found)
    assert whole["evaluations"] == len(found.codes)
    assert [row["arch_id"] for row in devices["a"]["front"]] == [
        arch.id for arch in found.problem.space.decode(found.codes[found.fronts["a"]])
    ]
    assert (whole["searches"][0]["fidelity"] is None) == (case != "few images first")
    assert (devices["a"]["average"] is None) == (case in ("nothing can be met", "without controls", "accuracy alone"))
