"""Bounds: the best that additive models promise at each cost, and candidates for a search."""

import numpy as np
import pytest

from latency_tables.predicting.predictor import AdditivePredictor
from nas.searching.additive import AdditiveModel
from nas.searching.bounds import bound, cost_model, exact_candidates
from nas.searching.constraints import parse_constraint
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import costs
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space(widths=[0.5, 0.75, 1.0], resolutions=[4, 6, 8])
ALL = all_codes(SPACE)
SEEN = ALL[np.random.default_rng(0).permutation(len(ALL))[:60]]
ACCURACY = np.array([fake_accuracy(SPACE, arch) for arch in SPACE.decode(SEEN)])


def additive() -> AdditivePredictor:
    rng = np.random.default_rng(1)
    rows = ALL[rng.permutation(len(ALL))[:40]]
    return AdditivePredictor.fit(SPACE, rows, (0.1 + costs(SPACE, rows, "macs") / 1e6) * rng.normal(1, 0.02, len(rows)))


def problem_of(predictor, *limits: str, **changes) -> tuple[Problem, Target]:
    target = Target("a", SPACE, 1, {"latency_ms": predictor})
    return Problem(SPACE, (target,), limits=tuple(map(parse_constraint, limits)), **changes), target


@pytest.mark.parametrize("quantity", ["latency_ms", "macs", "model_bytes"])
def test_no_network_of_the_space_is_above_the_line(quantity):
    problem, target = problem_of(additive(), objectives=("accuracy", quantity))
    found = bound(problem, target, SEEN, ACCURACY)
    assert found.cost_error == 0
    assert list(found.costs) == sorted(found.costs)
    model = AdditiveModel.fit(SPACE, SEEN, ACCURACY)
    predicted, cost = model.predict(ALL), target.values(quantity, ALL)
    for optimum, at in zip(found.optima, found.costs, strict=True):
        assert optimum.proven
        assert predicted[cost <= at * (1 + 1e-9)].max() <= optimum.bound + 1e-6
        assert model.predict(optimum.codes)[0] == pytest.approx(optimum.value)
    assert found.accuracy_error > 0


def test_a_predictor_that_is_not_additive_is_made_so_and_its_error_told():
    class Bent(FakePredictor):
        def predict(self, codes):
            return super().predict(codes) ** 1.3

    problem, target = problem_of(Bent(SPACE))
    model, error = cost_model(target, "latency_ms")
    assert 0 < error < 0.2
    assert np.abs(model.predict(ALL) / target.values("latency_ms", ALL) - 1).mean() < 2 * error + 0.02
    assert bound(problem, target, SEEN, ACCURACY).cost_error == error


def test_limits_that_add_up_hold():
    most = float(np.quantile(costs(SPACE, ALL, "params"), 0.3))
    problem, target = problem_of(additive(), f"params <= {most}")
    found = bound(problem, target, SEEN, ACCURACY)
    assert (costs(SPACE, np.concatenate([each.codes for each in found.optima]), "params") <= most).all()


def test_where_there_is_nothing_to_bound_there_is_no_bound():
    for objectives in (("accuracy",), ("macs", "params")):
        problem, target = problem_of(additive(), objectives=objectives)
        assert bound(problem, target, SEEN, ACCURACY) is None
    problem, target = problem_of(additive(), "params <= 1")
    assert bound(problem, target, SEEN, ACCURACY) is None
    problem, target = problem_of(additive())
    assert bound(problem, target, SEEN[:1], ACCURACY[:1]) is None


def test_candidates_are_different_canonical_rows():
    problem, target = problem_of(additive())
    rows = exact_candidates(problem, [target, target], SEEN, ACCURACY, 5)
    np.testing.assert_array_equal(rows, np.unique(SPACE.canonical(rows), axis=0))
    assert 1 < len(rows) <= 5
