"""What a search begins with: its name, the digests of its inputs, and what it takes over from other runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latency_tables.predicting.predictor import AdditivePredictor
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import Job, job_from_json, read_job
from nas.searching.engine import Identity
from nas.searching.inputs import context_of, identity_of, images_of, warm_start
from nas.searching.quantities import Target
from nas.searching.store import Evaluation, TrialStore
from search_spaces import Space, SpaceError, costs, define_space, digest, lifted
from tests.nas.fakes import LITTLE, small_space, write_job

SPACE = small_space()
CONTEXT = {"supernet": "aa", "data": "bb", "calibration": "cc"}
CODES = np.unique(SPACE.sample(np.random.default_rng(0), 30), axis=0)


def job_of(seed=0, **search) -> Job:
    return job_from_json({**LITTLE, "seed": seed, "search": {**LITTLE["search"], **search}})


def target(name="one", power=1.0, space: Space = SPACE) -> Target:
    latency_ms = 0.1 + (costs(space, CODES, "macs") / 1e5) ** power
    return Target(name, space, 1, {"latency_ms": AdditivePredictor.fit(space, CODES, latency_ms)})


def identity(job=None, targets=None, images=(200,), context=CONTEXT, warm=None) -> Identity:
    return identity_of(job or job_of(), SPACE, targets or [target()], images, context, warm or {})


OF_PROPOSALS = {
    "sampler": "nsga2",
    "population": 8,
    "objectives": ["accuracy", "macs"],
    "constraints": ["macs <= 100k"],
    "warm_up": "synflow",
}
OF_LENGTH = {"evaluations": 50, "seeds": 3, "patience": 4, "controls": False, "proxies": ["synflow"]}


@pytest.mark.parametrize("key", OF_PROPOSALS)
def test_what_proposals_depend_on_makes_another_search(key):
    assert identity(job_of(**{key: OF_PROPOSALS[key]})).search != identity().search


@pytest.mark.parametrize("key", OF_LENGTH)
def test_what_only_lengthens_or_compares_goes_on_with_the_same_search(key):
    assert identity(job_of(**{key: OF_LENGTH[key]})) == identity()


def test_images_and_devices_make_another_search():
    names = [identity().search, identity(images=(100,)).search, identity(images=(100, 200)).search]
    names += [identity(targets=[target("two")]).search, identity(targets=[target(), target("two")]).search]
    assert len(set(names)) == len(names)


def test_what_changed_beneath_a_search_can_be_named():
    """The search is the same by name, so the store finds that its inputs changed."""
    known = identity()
    warm = {SPACE.largest(): 0.5}
    for other, changed in (
        (identity(context={**CONTEXT, "supernet": "zz"}), {"supernet"}),
        (identity(targets=[target(power=0.5)]), {"predictor of latency_ms on one"}),
        (identity(warm=warm), {"warm start"}),
    ):
        assert other.search == known.search
        names = {*known.inputs, *other.inputs}
        assert {name for name in names if known.inputs.get(name) != other.inputs.get(name)} == changed
    assert identity(warm={SPACE.largest(): 0.6}).inputs != identity(warm=warm).inputs
    two = {SPACE.largest(): 0.5, SPACE.smallest(): 0.1}
    assert identity(warm=two) == identity(warm=dict(reversed(two.items())))


def test_accuracies_depend_on_weights_images_and_calibration():
    wanted = context_of("w", "d", job_of())
    assert wanted.keys() == {"supernet", "data", "calibration"}
    assert context_of("w", "d", job_of(evaluations=99)) == wanted
    for other in (
        context_of("x", "d", job_of()),
        context_of("w", "e", job_of()),
        context_of("w", "d", job_of(calibration_batches=2)),
        context_of("w", "d", job_of(seed=1)),
    ):
        assert sum(other[name] != wanted[name] for name in wanted) == 1
    mirrored = replace(job_of().train.augment, mirror=True)
    job = replace(job_of(), train=replace(job_of().train, augment=mirrored))
    assert context_of("w", "d", job)["calibration"] != wanted["calibration"]


def test_how_many_images_an_evaluation_reads():
    search = job_of(validation_images=None).search
    assert images_of(search, 500) == (500,)
    assert images_of(replace(search, validation_images=200), 500) == (200,)
    assert images_of(replace(search, validation_images=900), 500) == (500,)
    assert images_of(replace(search, first_images=100), 500) == (100, 500)
    assert images_of(replace(search, validation_images=300, first_images=100), 500) == (100, 300)
    with pytest.raises(JobError, match="first_images must be fewer than the 500 images of an evaluation, not 500"):
        images_of(replace(search, first_images=500), 500)
    with pytest.raises(JobError, match="fewer than the 80 images"):
        images_of(replace(search, first_images=100), 80)


@pytest.fixture
def other_run(tmp_path) -> Path:
    """A run that evaluated ten architectures on 200 images, one of them on 400 as well."""
    folder = RunFolder.create(tmp_path / "other", read_job(write_job(tmp_path / "job.yaml")))
    with TrialStore(folder.evaluations) as store:
        store.begin("one", {**CONTEXT, "predictor": "dd"})
        for i, arch in enumerate(SPACE.decode(CODES[:10])):
            store.add(digest(CONTEXT), arch, Evaluation(arch.id, 200, i / 10, 1.0))
        store.add(digest(CONTEXT), arch, Evaluation(arch.id, 400, 0.55, 1.0))
        store.add(digest({**CONTEXT, "supernet": "old"}), arch, Evaluation(arch.id, 200, 0.01, 1.0))
    return folder.root


def test_what_another_run_evaluated_is_taken_over(other_run):
    found = warm_start([str(other_run)], SPACE, CONTEXT, 200)
    assert found == {arch: i / 10 for i, arch in enumerate(SPACE.decode(CODES[:10]))}
    assert warm_start([str(other_run)], SPACE, CONTEXT, 400) == {SPACE.decode(CODES[9:10])[0]: 0.55}
    assert warm_start([], SPACE, CONTEXT, 200) == {}


def test_a_search_with_precision_starts_from_what_one_without_found(other_run):
    precise = define_space("tiny", **SPACE.settings, precisions=["int8", "fp32"])
    wanted = {lifted(precise, arch): i / 10 for i, arch in enumerate(SPACE.decode(CODES[:10]))}
    assert warm_start([str(other_run)], precise, CONTEXT, 200) == wanted
    with pytest.raises(SpaceError, match="belongs to space"):
        warm_start([str(other_run)], define_space("tiny", precisions=["int8", "fp32"]), CONTEXT, 200)


def test_accuracies_that_do_not_hold_here_are_refused_with_what_differs(other_run):
    for name in CONTEXT:
        with pytest.raises(JobError, match=f"its {name} is another \\({CONTEXT[name]}, here zz\\)") as caught:
            warm_start([str(other_run)], SPACE, {**CONTEXT, name: "zz"}, 200)
        assert str(other_run) in str(caught.value)


def test_a_run_without_evaluations_is_refused(tmp_path):
    RunFolder.create(tmp_path / "new", read_job(write_job(tmp_path / "job.yaml")))
    with pytest.raises(JobError, match=r"has no evaluations yet; run `nas search .*new` first"):
        warm_start([str(tmp_path / "new")], SPACE, CONTEXT, 200)
    with pytest.raises(JobError, match="is not the folder of a run"):
        warm_start([str(tmp_path)], SPACE, CONTEXT, 200)
