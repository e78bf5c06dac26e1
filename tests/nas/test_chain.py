"""Chains of classifiers: thresholds that cost least, and what they do."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.specialising.chain import NEVER, Said, answered_by, cheapest, expected, links


def said(seed: int, accuracy: float, n: int = 60) -> Said:
    """A classifier that is right as often as it says it is."""
    rng = np.random.default_rng(seed)
    sure_N = np.clip(rng.beta(8 * accuracy, 8 * (1 - accuracy), n), 0.1, 1.0)
    return Said(sure_N, rng.random(n) < sure_N)


CHAIN = [said(0, 0.6), said(1, 0.75), said(2, 0.9)]
TIMES_MS = [1.0, 2.0, 5.0]


@settings(max_examples=20)
@given(st.floats(0.5, 0.95))
def test_no_other_thresholds_cost_less(wanted):
    chain = [said(0, 0.6, 12), said(1, 0.75, 12), said(2, 0.9, 12)]
    grids = [[*np.unique(each.sure_N), NEVER] for each in chain[:-1]]
    outcomes = [expected(links(chain, pair, TIMES_MS)) for pair in product(*grids)]
    possible = [ms for accuracy, ms in outcomes if accuracy >= wanted - 1e-9 and ms < 4.5]
    found = cheapest(chain, TIMES_MS, wanted, 4.5)
    assert (found is None) == (not possible)
    if found is not None:
        accuracy, ms = expected(links(chain, found.values, TIMES_MS))
        assert accuracy >= wanted - 1e-9
        assert ms == pytest.approx(found.latency_ms)
        assert ms == pytest.approx(min(possible))


@given(st.tuples(st.floats(0.0, 1.1), st.floats(0.0, 1.1)))
def test_a_chain_does_what_asking_one_after_the_other_gives(thresholds):
    wanted = [next((at for at in (0, 1) if CHAIN[at].sure_N[i] >= thresholds[at]), 2) for i in range(60)]
    assert answered_by(CHAIN, thresholds).tolist() == wanted
    accuracy, ms = expected(links(CHAIN, thresholds, TIMES_MS))
    assert accuracy == pytest.approx(np.mean([CHAIN[at].right_N[i] for i, at in enumerate(wanted)]))
    assert ms == pytest.approx(np.mean([TIMES_MS[at] for at in wanted]))
    assert sum(each.share for each in links(CHAIN, thresholds, TIMES_MS)) == pytest.approx(1)


def test_a_classifier_that_answers_nothing_has_no_accuracy():
    first, *_ = links(CHAIN, (NEVER, 0.5), TIMES_MS)
    assert (first.share, first.accuracy) == (0.0, None)


def test_an_exit_that_is_never_right_is_passed_by():
    wrong = Said(CHAIN[0].sure_N, np.zeros(60, dtype=bool))
    last = Said(CHAIN[2].sure_N, np.ones(60, dtype=bool))
    found = cheapest([wrong, CHAIN[1], last], TIMES_MS, 1.0, 5.0)
    assert found.values[0] == NEVER
    assert cheapest([wrong, last], [1.0, 5.0], 1.0, 5.0) is None


def test_more_exits_are_searched_in_coarser_steps():
    four = [said(seed, 0.6 + 0.08 * seed) for seed in range(5)]
    found = cheapest(four, [1.0, 2.0, 3.0, 4.0, 5.0], four[-1].accuracy - 0.2, 5.0)
    assert len(found.values) == 4
    assert expected(links(four, found.values, [1.0, 2.0, 3.0, 4.0, 5.0]))[0] >= four[-1].accuracy - 0.2 - 1e-9
