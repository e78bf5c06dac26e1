"""Additive models: what they tell of architectures, and what a fit to evaluated ones finds again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables.predicting.additive import AdditivePredictor
from latency_tables.predicting.conformal import UNCALIBRATED
from nas.errors import JobError
from nas.searching.additive import PENALTIES, AdditiveModel, fit_left_out
from search_spaces import COSTS, Space, costs, define_space, slot_sizes
from tests.search_spaces.spaces import all_codes, enumerable, families, spaces


def random_choices(space: Space, rng: np.random.Generator) -> AdditiveModel:
    return AdditiveModel(space, rng.normal(), tuple(rng.normal(size=len(c.values) + 1) for c in space.choices))


@pytest.mark.parametrize("metric", [name for name, metric in COSTS.items() if metric.combine is np.add])
@pytest.mark.parametrize("name", families())
def test_a_model_of_a_cost_tells_the_cost(name, metric):
    space = families()[name]
    codes = space.sample(np.random.default_rng(0), 50)
    assert (AdditiveModel.of_cost(space, metric).predict(codes) == costs(space, codes, metric)).all()


@pytest.mark.parametrize("metric", [name for name, metric in COSTS.items() if metric.combine is not np.add])
def test_a_cost_that_is_no_sum_has_no_model(metric):
    with pytest.raises(JobError, match=f"{metric} does not add up"):
        AdditiveModel.of_cost(enumerable("one stage"), metric)


def test_a_model_of_a_predictor_predicts_what_the_predictor_does():
    space, rng = define_space("tiny"), np.random.default_rng(0)
    predictor = AdditivePredictor(space, 0.5, tuple(rng.uniform(0, 1, n) for n in slot_sizes(space)), UNCALIBRATED)
    codes = space.sample(rng, 50)
    np.testing.assert_allclose(AdditiveModel.of_latency(predictor).predict(codes), predictor.predict(codes), rtol=1e-14)


@given(spaces(), st.integers(0, 99))
def test_each_row_is_predicted_the_same_whatever_comes_with_it(space, seed):
    model, codes = random_choices(space, np.random.default_rng(seed)), all_codes(space)
    alone = [model.predict(codes[i : i + 1])[0] for i in range(len(codes))]
    assert model.predict(codes).tolist() == alone
    assert (-model).predict(codes).tolist() == [-value for value in alone]


@given(spaces(), st.integers(0, 99))
def test_a_fit_finds_an_additive_function_again(space, seed):
    codes = all_codes(space).repeat(2, axis=0)  # left out once, it is still there
    y = random_choices(space, np.random.default_rng(seed)).predict(codes)
    np.testing.assert_allclose(AdditiveModel.fit(space, codes, y).predict(codes), y, atol=1e-5)


def test_a_fit_tells_of_networks_that_it_was_not_given():
    space, rng = define_space("mobilenet_v3"), np.random.default_rng(0)
    truth = random_choices(space, rng)
    seen, unseen = np.split(space.sample(rng, 400), 2)
    y = truth.predict(seen)
    model, left_out = fit_left_out(space, seen, y)
    np.testing.assert_allclose(model.predict(unseen), truth.predict(unseen), atol=1e-4)
    np.testing.assert_allclose(left_out, y, atol=1e-4)


def test_what_is_left_out_is_what_a_fit_without_it_predicts():
    space, rng = enumerable("one stage"), np.random.default_rng(1)
    codes = np.unique(space.sample(rng, 14), axis=0)
    y = random_choices(space, rng).predict(codes) + rng.normal(size=len(codes))
    active = space.active(codes)
    columns = [active[:, j] & (codes[:, j] == v) for j in range(codes.shape[1]) for v in range(space.cardinalities[j])]
    x = np.column_stack([*columns, *(~active).T]).astype(float)
    gram = (x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T

    def without_each(penalty: float) -> np.ndarray:
        predicted = []
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            centre, mean = x[rest].mean(axis=0), y[rest].mean()
            z = x[rest] - centre
            beta = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y[rest] - mean))
            predicted.append(mean + (x[i] - centre) @ beta)
        return np.array(predicted)

    refitted = [without_each(share * np.trace(gram) / len(y)) for share in PENALTIES]
    best = min(refitted, key=lambda predicted: ((predicted - y) ** 2).sum())
    np.testing.assert_allclose(fit_left_out(space, codes, y)[1], best, rtol=1e-6)


def test_values_that_are_all_the_same_are_predicted_everywhere():
    space = enumerable("one stage")
    codes = all_codes(space)
    for fitted in (codes, codes[[0, 0, 0]]):
        model, left_out = fit_left_out(space, fitted, np.full(len(fitted), 0.7))
        np.testing.assert_allclose(model.predict(codes), 0.7)
        np.testing.assert_allclose(left_out, 0.7)


@pytest.mark.parametrize("y", [[], [0.5], [0.5, np.nan], [0.5, 0.6, 0.7]])
def test_what_cannot_be_fitted_is_refused(y):
    space = enumerable("one stage")
    codes = all_codes(space)[: min(len(y), 2)]
    with pytest.raises(JobError, match="2 networks at least, one finite number each"):
        AdditiveModel.fit(space, codes, np.array(y))


def test_tables_that_do_not_fit_the_space_are_refused():
    space = enumerable("one stage")
    model = AdditiveModel.of_cost(space, "macs")
    with pytest.raises(JobError, match=r"by_choice: wanted arrays of \[3, "):
        AdditiveModel(space, 0.0, model.by_choice[1:])
    with pytest.raises(JobError, match=r"by_slot: wanted arrays of \[2, "):
        AdditiveModel(space, 0.0, model.by_choice, model.by_slot[1:])
    with pytest.raises(JobError, match="a number that is not finite"):
        AdditiveModel(space, np.inf, model.by_choice)
