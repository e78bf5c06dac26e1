"""Studies of a search: what Optuna is told, and that a study that is rebuilt asks as the first one would have."""

import numpy as np
import optuna
import pytest

from nas.searching.constraints import parse_constraint
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.samplers import ACCURACY, IMAGES, SAMPLERS, codes_of
from nas.searching.studies import ARCH, JOINT, Scored, constraint_values, make_studies, trials_of
from search_spaces import costs, define_space
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space

SPACE = define_space("tiny", in_channels=1)


def problem_of(space=SPACE, names="ab", limits=(), **changes) -> Problem:
    targets = tuple(Target(name, space, 1, {"latency_ms": FakePredictor(space, seed=ord(name))}) for name in names)
    return Problem(space, targets, limits=tuple(map(parse_constraint, limits)), **changes)


def scored(space, asked, images=400) -> Scored:
    codes = space.canonical(asked)
    accuracy = np.array([fake_accuracy(space, arch) for arch in space.decode(codes)])
    return Scored(codes, accuracy, np.full(len(codes), images))


# Integer programming takes its time, and the engine's tests go on with its searches.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "guided_exact"])
def test_a_study_that_is_rebuilt_goes_on_as_the_first_one(name):
    problem, kind = problem_of(limits=("macs <= 40M",)), SAMPLERS[name]
    for kept in (1, 2):
        first, again = (make_studies(problem, kind, 4, seed=0)[0] for _ in range(2))
        rows = []
        for generation in range(3):
            codes, attrs = first.ask(generation)
            assert len(codes) == len(attrs) == 4 * (max(1, kind.founders) if generation == 0 else 1)
            first.tell(scored(SPACE, codes))
            rows.append((codes, attrs))
        for codes, attrs in rows[:kept]:
            again.restore(codes, scored(SPACE, codes), attrs)
        np.testing.assert_array_equal(again.ask(kept)[0], rows[kept][0])


def test_a_joint_sampler_has_one_study_the_others_one_a_target():
    problem = problem_of()
    (joint,) = make_studies(problem, SAMPLERS["guided"], 4, 0)
    assert (joint.name, joint.problem.targets) == (JOINT, problem.targets)
    assert len(joint.study.directions) == 3
    apart = make_studies(problem, SAMPLERS["nsga2"], 4, 0)
    assert [study.name for study in apart] == ["a", "b"]
    assert [len(study.study.directions) for study in apart] == [2, 2]
    # Their first generation is the same, so that what both ask for is evaluated once.
    assert {tuple(row) for row in SPACE.canonical(apart[0].ask(0)[0]).tolist()} == {
        tuple(row) for row in SPACE.canonical(apart[1].ask(0)[0]).tolist()
    }


def test_only_what_proposes_from_what_it_knows_goes_without_founders():
    problem = problem_of(names="a")
    rows = np.unique(SPACE.sample(np.random.default_rng(0), 12), axis=0)
    ends = SPACE.encode([SPACE.smallest(), SPACE.largest()]).tolist()
    for name, informed in (("guided", True), ("nsga2", False), ("tpe", False)):
        (study,) = make_studies(problem, SAMPLERS[name], 4, 0)
        assert not study.informed
        study.restore(rows, scored(SPACE, rows), [{}] * len(rows))
        assert study.informed == informed
        asked = SPACE.canonical(study.ask(0)[0]).tolist()
        assert all(end in asked for end in ends) != informed


def test_a_trial_holds_all_that_is_known_of_its_architecture():
    problem = problem_of(limits=("macs@a <= 10M", "accuracy >= 0.5", "latency_ms@b <= 4"))
    rows = np.unique(SPACE.sample(np.random.default_rng(0), 6), axis=0)
    found = scored(SPACE, rows, images=77)
    trials = trials_of(problem, rows, found, [{"x": i} for i in range(len(rows))])
    np.testing.assert_array_equal(codes_of(SPACE, trials), rows)
    macs, latency = costs(SPACE, rows, "macs"), problem.targets[1].values("latency_ms", rows)
    for i, trial in enumerate(trials):
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.values == problem.trial_values(rows, found.accuracy)[i].tolist()
        arch = SPACE.decode(rows[[i]])[0]
        assert trial.user_attrs == {ARCH: arch.id, ACCURACY: found.accuracy[i], IMAGES: 77}
        assert trial.system_attrs["x"] == i
        wanted = {
            "a: macs@a <= 10M": macs[i] / 10e6 - 1,
            "a: accuracy >= 0.5": 1 - found.accuracy[i] / 0.5,
            "b: accuracy >= 0.5": 1 - found.accuracy[i] / 0.5,
            "b: latency_ms@b <= 4": latency[i] / 4 - 1,
        }
        assert constraint_values(problem, found)[i] == pytest.approx(wanted)


def test_what_was_told_and_what_is_restored_are_the_same_trials():
    problem = problem_of(limits=("macs <= 10M",))
    told, restored = (make_studies(problem, SAMPLERS["nsga2"], 4, 0)[0] for _ in range(2))
    codes, attrs = told.ask(0)
    told.tell(scored(SPACE, codes))
    restored.restore(codes, scored(SPACE, codes), attrs)
    for one, other in zip(told.study.trials, restored.study.trials, strict=True):
        assert (one.params, one.values) == (other.params, other.values)
        assert {**one.user_attrs, ARCH: other.user_attrs[ARCH]} == other.user_attrs
        assert one.constraints == other.constraints
        assert one.constraints


def test_choices_without_a_choice_are_no_parameters():
    space = small_space(resolutions=[8], kernels=[3])
    (study,) = make_studies(problem_of(space, "a"), SAMPLERS["guided"], 4, 0)
    codes, _ = study.ask(0)
    study.tell(scored(space, codes))
    assert all("resolution" not in trial.params for trial in study.study.trials)
    assert (codes[:, space.columns["resolution"]] == 0).all()
