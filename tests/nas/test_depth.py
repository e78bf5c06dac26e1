"""The choice of mergers is the best of all that there are."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.specialising.depth import UNITS, Option, choices


def option(start, length, units, loss):
    return Option(start, start + length, units / UNITS, loss)


OPTIONS = st.lists(
    st.builds(option, st.integers(0, 8), st.integers(1, 4), st.integers(-3, 500), st.integers(-4, 40).map(float)),
    max_size=8,
)


def apart(options):
    ordered = sorted(options, key=lambda each: each.start)
    return all(a.end <= b.start for a, b in pairwise(ordered))


def best(options, units):
    """The least loss by trying all sets; None where none saves so much."""
    sets = (chosen for n in range(len(options) + 1) for chosen in combinations(options, n))
    found = [
        sum(each.loss for each in chosen)
        for chosen in sets
        if apart(chosen) and round(UNITS * sum(each.saving for each in chosen)) >= units
        if all(each.saving >= 0 for each in chosen) and round(UNITS * sum(each.saving for each in chosen)) <= UNITS
    ]
    return min(found, default=None)


@given(OPTIONS, st.integers(0, UNITS))
def test_no_other_set_of_mergers_loses_less_and_saves_as_much(options, units):
    found = choices(options).saving(units / UNITS)
    wanted = best(options, units)
    assert (found is None) == (wanted is None)
    if found is not None:
        chosen = [options[i] for i in found]
        assert apart(chosen)
        assert round(UNITS * sum(each.saving for each in chosen)) >= units
        assert sum(each.loss for each in chosen) == wanted


@given(OPTIONS)
def test_saving_more_never_loses_less(options):
    found = choices(options)
    losses = [sum(options[i].loss for i in found.saving(share)) for share in np.arange(0, found.most + 1e-9, 0.05)]
    assert losses == sorted(losses)
    assert found.saving(found.most) is not None
    assert found.saving(found.most + 1 / UNITS) is None


def test_what_is_not_a_whole_unit_counts_for_nothing():
    options = [Option(0, 1, 0.0109, 1.0), Option(1, 2, 0.0109, 1.0)]
    assert choices(options).most == pytest.approx(0.020)


def test_without_options_only_nothing_is_saved():
    assert choices([]).saving(0.0) == ()
    assert choices([]).saving(0.001) is None
