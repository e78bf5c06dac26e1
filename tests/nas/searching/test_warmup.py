"""Cheap scores beside accuracy, and first populations of all sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.errors import JobError
from nas.searching.warmup import Correlation, correlations, warm_start
from search_spaces import costs
from tests.search_spaces.spaces import enumerable

SPACE = enumerable("two stages")
CODES = np.unique(SPACE.sample(np.random.default_rng(0), 60), axis=0)
RANDOM = np.random.default_rng(1).random(len(CODES))
# Few different values, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20)


def correlation(score, accuracy) -> Correlation:
    """Of a score that is not a size, on as many rows as there are."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (score, accuracy))
    return correlations(SPACE, SPACE.sample(np.random.default_rng(0), len(a)), b, {"score": a})[-1]


@given(PAIRS)
def test_correlations_are_what_scipy_says(rows):
    a, b = np.array(rows, dtype=float).T
    found = correlation(a, b)
    assert found.n == len(rows)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert (found.spearman, found.kendall) == (None, None)
    else:
        assert found.spearman == pytest.approx(stats.spearmanr(a, b).statistic)
        assert found.kendall == pytest.approx(stats.kendalltau(a, b).statistic)


def test_sizes_come_first_as_the_score_to_beat():
    macs = costs(SPACE, CODES, "macs").astype(float)
    params = costs(SPACE, CODES, "params").astype(float)
    found = correlations(SPACE, CODES, RANDOM, {"good": RANDOM, "bad": -RANDOM, "size": macs})
    assert [each.name for each in found] == ["macs", "params", "good", "bad", "size"]
    assert {each.n for each in found} == {len(CODES)}
    assert found[0].spearman == pytest.approx(stats.spearmanr(macs, RANDOM).statistic) == found[4].spearman
    assert found[1].kendall == pytest.approx(stats.kendalltau(params, RANDOM).statistic)
    assert found[2].spearman == found[2].kendall == pytest.approx(1)
    assert found[3].spearman == found[3].kendall == pytest.approx(-1)


def test_only_the_order_counts_and_infinite_scores_have_one():
    assert correlation([-np.inf, 1, 2, 900], [0.1, 0.2, 0.3, 0.31]).kendall == pytest.approx(1)
    assert correlation([-np.inf, -np.inf, 2, np.inf], [1, 2, 3, 4]).spearman == pytest.approx(
        stats.spearmanr([0, 0, 2, 3], [1, 2, 3, 4]).statistic
    )


def test_rows_without_a_score_or_an_accuracy_do_not_count():
    nan = float("nan")
    assert correlation([1, nan, 2, 3, 0], [1, 2, nan, 3, 0]) == correlation([1, 3, 0], [1, 3, 0])
    assert correlation([nan, nan], [1, 2]) == Correlation("score", None, None, 0)
    assert correlation([], []) == Correlation("score", None, None, 0)


def test_a_score_for_other_networks_is_refused():
    with pytest.raises(JobError, match="wanted one accuracy and one snip a network, got 60 and 3"):
        correlations(SPACE, SPACE.sample(np.random.default_rng(0), 60), np.zeros(60), {"snip": np.zeros(3)})


@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_first_population_has_the_best_of_each_stratum_of_sizes(seed, n):
    rng = np.random.default_rng(seed)
    codes = np.unique(SPACE.sample(rng, int(rng.integers(1, 60))), axis=0)
    score, groups = rng.integers(0, 9, len(codes)).astype(float), rng.random(len(codes))
    chosen = warm_start(codes, score, groups, n)
    size = min(n, len(codes))
    assert len(set(chosen.tolist())) == len(chosen) == size
    order = np.argsort(groups)
    for index, stratum in zip(chosen, np.array_split(order, size), strict=True):
        assert index in stratum
        assert score[index] == score[stratum].max()
    assert (np.diff(groups[chosen]) > 0).all()


def test_a_score_that_grows_with_size_does_not_crowd_out_small_networks():
    macs = costs(SPACE, CODES, "macs").astype(float)
    chosen = warm_start(CODES, macs, macs, 6)
    assert macs[chosen[0]] <= np.quantile(macs, 0.25)
    assert macs[chosen[-1]] == macs.max()


def test_the_order_of_the_candidates_does_not_matter():
    order = np.random.default_rng(3).permutation(len(CODES))
    groups = np.random.default_rng(4).random(len(CODES))
    wanted = CODES[warm_start(CODES, RANDOM, groups, 7)]
    np.testing.assert_array_equal(CODES[order][warm_start(CODES[order], RANDOM[order], groups[order], 7)], wanted)


def test_a_candidate_that_comes_twice_is_taken_once():
    twice = np.concatenate([CODES, CODES])
    chosen = warm_start(twice, np.tile(RANDOM, 2), np.tile(RANDOM, 2), 2 * len(CODES))
    assert sorted(chosen) == list(range(len(CODES)))


def test_what_has_no_score_is_taken_last():
    score, groups = np.array([np.nan, 1.0, np.nan, np.nan]), np.arange(4.0)
    assert warm_start(CODES[:4], score, groups, 2).tolist() == [1, 2]
    assert warm_start(CODES[:4], score, groups, 1).tolist() == [1]


def test_of_equal_scores_the_smaller_network_is_taken():
    assert warm_start(CODES[:4], np.zeros(4), np.array([3.0, 2.0, 1.0, 0.0]), 2).tolist() == [3, 1]


def test_no_candidates_make_an_empty_population():
    assert warm_start(CODES[:0], RANDOM[:0], RANDOM[:0], 5).shape == (0,)


def test_wrong_numbers_are_refused_in_one_line():
    with pytest.raises(JobError, match="at least one architecture, not 0"):
        warm_start(CODES, RANDOM, RANDOM, 0)
    with pytest.raises(JobError, match=f"for each of {len(CODES)} candidates, got 3, {len(CODES)}"):
        warm_start(CODES, RANDOM[:3], RANDOM, 5)
