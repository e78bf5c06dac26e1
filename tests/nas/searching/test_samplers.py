"""Samplers as Optuna uses them: in a plain study, with what others told it, and with its plots."""

import numpy as np
import optuna
import pytest

from nas.searching.constraints import parse_constraint
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.samplers import (
    ACCURACY,
    IMAGES,
    SAMPLERS,
    GuidedSampler,
    codes_of,
    distributions,
    founders,
    known_of,
    params_of,
)
from nas.searching.studies import Scored, trials_of
from search_spaces import costs, define_space
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space
from tests.search_spaces.spaces import all_codes

SPACE = define_space("tiny", in_channels=1)
SMALL = small_space()


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def problem_of(space=SPACE, names="a", limits=(), **changes) -> Problem:
    targets = tuple(Target(name, space, 1, {"latency_ms": FakePredictor(space, seed=ord(name))}) for name in names)
    return Problem(space, targets, limits=tuple(map(parse_constraint, limits)), **changes)


def asked(space, trial) -> np.ndarray:
    row = [trial.suggest_int(c.name, 0, len(c.values) - 1) if len(c.values) > 1 else 0 for c in space.choices]
    return space.canonical(np.array([row]))


def scored(space, codes) -> np.ndarray:
    return np.array([fake_accuracy(space, arch) for arch in space.decode(codes)])


def objective_of(problem):
    def objective(trial):
        codes = asked(problem.space, trial)
        accuracy = scored(problem.space, codes)
        trial.set_user_attr(ACCURACY, float(accuracy[0]))
        return problem.trial_values(codes, accuracy)[0].tolist()

    return objective


def study_of(problem, seed=0, **more) -> optuna.Study:
    sampler = GuidedSampler(problem, batch=6, seed=seed)
    return optuna.create_study(directions=problem.directions(), sampler=sampler, **more)


@pytest.mark.parametrize(
    ("names", "objectives"),
    [("a", ("accuracy", "latency_ms")), ("abc", ("accuracy", "latency_ms")), ("ab", ("macs", "latency_ms"))],
)
def test_a_plain_study_proposes_nothing_twice(names, objectives):
    problem = problem_of(names=names, objectives=objectives)
    study = study_of(problem)
    study.optimize(objective_of(problem), n_trials=24)
    codes = codes_of(SPACE, study.trials)
    assert len(np.unique(codes, axis=0)) == 24
    np.testing.assert_array_equal(SPACE.canonical(codes), codes)
    again = study_of(problem)
    again.optimize(objective_of(problem), n_trials=24)
    np.testing.assert_array_equal(codes_of(SPACE, again.trials), codes)
    other = study_of(problem, seed=1)
    other.optimize(objective_of(problem), n_trials=12)
    assert not np.array_equal(codes_of(SPACE, other.trials), codes[:12])


def test_it_learns_from_trials_of_others():
    problem = problem_of()
    rows = np.unique(SPACE.sample(np.random.default_rng(0), 40), axis=0)
    accuracy = scored(SPACE, rows)
    study = study_of(problem)
    study.add_trials(trials_of(problem, rows, Scored(rows, accuracy, np.full(len(rows), 100)), [{}] * len(rows)))
    study.optimize(objective_of(problem), n_trials=12)
    codes = codes_of(SPACE, study.trials)
    assert len(np.unique(codes, axis=0)) == len(rows) + 12
    target = problem.targets[0]
    everything = scored(SPACE, codes)
    assert problem.hypervolume(target, codes, everything) > problem.hypervolume(target, rows, accuracy) + 0.02


def test_trials_that_fail_or_are_pruned_do_not_stop_it():
    problem = problem_of()
    works = objective_of(problem)

    def objective(trial):
        values = works(trial)
        if trial.number % 4 == 1:
            raise ZeroDivisionError
        return values

    study = study_of(problem)
    study.optimize(objective, n_trials=24, catch=ZeroDivisionError)
    states = [trial.state.name for trial in study.trials]
    assert states.count("FAIL") == 6
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(np.unique(codes_of(SPACE, done), axis=0)) == 18


def test_a_small_space_is_exhausted_before_anything_comes_again():
    problem = problem_of(SMALL)
    study = study_of(problem)
    study.optimize(objective_of(problem), n_trials=SMALL.size + 3)
    first = codes_of(SMALL, study.trials[: SMALL.size])
    np.testing.assert_array_equal(np.unique(first, axis=0), all_codes(SMALL))


def test_optuna_can_plot_copy_and_store_its_study(tmp_path):
    problem = problem_of()
    study = study_of(problem)
    study.optimize(objective_of(problem), n_trials=12)
    front = optuna.visualization.plot_pareto_front(study, target_names=list(problem.objectives))
    assert sum(len(trace.x) for trace in front.data) == 12
    history = optuna.visualization.plot_optimization_history(
        study, target=lambda trial: trial.values[0], target_name="accuracy"
    )
    assert len(history.data[0].y) == 12
    storage = f"sqlite:///{tmp_path / 'study.sqlite'}"
    name = study.study_name
    optuna.copy_study(from_study_name=name, from_storage=study._storage, to_storage=storage)
    copied = optuna.load_study(study_name=name, storage=storage, sampler=GuidedSampler(problem, batch=6))
    np.testing.assert_array_equal(codes_of(SPACE, copied.trials), codes_of(SPACE, study.trials))
    assert [trial.values for trial in copied.trials] == [trial.values for trial in study.trials]
    copied.optimize(objective_of(problem), n_trials=2)
    assert len(np.unique(codes_of(SPACE, copied.trials), axis=0)) == 14


def test_a_parameter_of_another_space_is_refused():
    study = study_of(problem_of())
    with pytest.raises(ValueError, match="'depth' is no choice of the space"):
        study.ask().suggest_int("depth", 0, 3)


def test_an_architecture_counts_once_as_it_was_on_the_most_images():
    problem = problem_of()
    rows = SPACE.sample(np.random.default_rng(0), 1)[[0, 0, 0]]
    images = np.array([100, 400, 200])
    accuracy = np.array([0.5, 0.6, 0.7])
    trials = trials_of(problem, rows, Scored(rows, accuracy, images), [{}] * 3)
    known = known_of(problem, trials, None)
    assert (known.accuracy.tolist(), known.variance.tolist(), known.final.tolist()) == ([0.6], [0.0], [True])
    few = known_of(problem, trials, 1000)
    assert few.final.tolist() == [False]
    # A sample of 400 without replacement from 1000.
    np.testing.assert_allclose(few.variance, 0.6 * 0.4 * (1 / 400 - 1 / 1000))
    np.testing.assert_allclose(known_of(problem_of(labels=3.0), trials, 1000).variance, few.variance / 3)
    assert len(known_of(problem, [], None).codes) == 0


def test_accuracy_may_be_an_attribute_in_place_of_an_objective():
    problem = problem_of(objectives=("macs", "latency_ms"))
    rows = np.unique(SPACE.sample(np.random.default_rng(0), 5), axis=0)
    accuracy = np.linspace(0.1, 0.5, len(rows))
    trials = trials_of(problem, rows, Scored(rows, accuracy, np.full(len(rows), 7)), [{}] * len(rows))
    assert [trial.user_attrs[IMAGES] for trial in trials] == [7] * len(rows)
    np.testing.assert_array_equal(known_of(problem, trials, None).accuracy, accuracy)


def test_parameters_are_the_codes_of_choices_that_can_be_made():
    fixed = small_space(resolutions=[8])
    row = fixed.encode([fixed.largest()])[0]
    assert "resolution" not in params_of(fixed, row)
    assert params_of(fixed, row).keys() == distributions(fixed).keys()
    assert all(known.high == params_of(fixed, row)[name] for name, known in distributions(fixed).items())


def test_founders_are_the_ends_and_others_evenly_over_the_sizes():
    rows = founders(problem_of(names="ab"), np.random.default_rng(0), 12)
    assert len(np.unique(rows, axis=0)) == len(rows) == 12
    ends = SPACE.encode([SPACE.smallest(), SPACE.largest()])
    np.testing.assert_array_equal(rows[:2], ends)
    sizes = np.log(costs(SPACE, rows, "macs"))
    drawn = np.log(costs(SPACE, SPACE.sample(np.random.default_rng(0), 12), "macs"))
    assert sizes[2:].std() > 1.3 * drawn.std()


def test_founders_meet_the_limits_of_some_target():
    macs = costs(SPACE, SPACE.sample(np.random.default_rng(0), 500), "macs")
    low, high = np.quantile(macs, [0.1, 0.9])
    rows = founders(
        problem_of(names="ab", limits=(f"macs@a <= {low}", f"macs@b >= {high}")), np.random.default_rng(0), 12
    )
    found = costs(SPACE, rows, "macs")
    assert ((found <= low) | (found >= high)).all()
    assert min((found <= low).sum(), (found >= high).sum()) >= 4
    assert len(founders(problem_of(limits=("macs <= 1",)), np.random.default_rng(0), 12)) == 0


def test_founders_may_be_preferred():
    rng = np.random.default_rng(0)
    wanted = founders(problem_of(), rng, 12, prefer=lambda codes: codes[:, 0].astype(float))
    free = founders(problem_of(), np.random.default_rng(0), 12)
    assert len(wanted) == 12
    assert wanted[2:, 0].mean() > free[2:, 0].mean()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_one_of_optunas(name):
    kind = SAMPLERS[name]
    sampler = kind.make(problem_of(), 0, kind.population, None)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
