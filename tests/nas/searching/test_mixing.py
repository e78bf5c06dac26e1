"""Mixed precision by integer programming: the best mixes under limits, and what they are made from."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.searching.mixing import Mixer, best_mix, knapsack, mixes
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.samplers import SAMPLERS
from nas.searching.sensitivity import Sensitivity
from nas.searching.studies import JOINT, Aids, Scored, SearchStudy
from search_spaces import Arch, define_space, float_codes, precision_columns
from supernets.supernet import Supernet
from tests.contracts.runner_contract import SPACE, small_evaluator
from tests.nas.fakes import FakePredictor, fake_accuracy

PRECISE = define_space("tiny", precisions=["int8", "fp32"], precision_per="block")
COLUMNS = precision_columns(PRECISE)
PARTS = len(COLUMNS)
numbers = st.floats(0, 100, allow_nan=False).map(lambda x: round(x, 3))


def target_of(space=PRECISE) -> Target:
    return Target("one", space, 1, {"latency_ms": FakePredictor(space, seed=1)})


def losses(arch: Arch) -> np.ndarray:
    """Different for each part, whatever the architecture."""
    return np.random.default_rng(2).uniform(0.1, 1.0, PARTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, st.floats(-5, 100).map(lambda x: round(x, 3))), min_size=1, max_size=6), numbers)
def test_the_knapsack_has_the_least_loss_of_all_that_save_enough(parts, need):
    loss_p, saved_p = (np.array(column) for column in zip(*parts, strict=True))
    every = [np.array(picked) for picked in product([False, True], repeat=len(parts))]
    enough = [loss_p[picked].sum() for picked in every if saved_p[picked].sum() >= need]
    found = knapsack(loss_p, saved_p, need)
    assert (found is None) == (not enough)
    if found is not None:
        assert saved_p[found].sum() >= need - 1e-4
        assert loss_p[found].sum() <= min(enough) + 1e-4


def test_a_mix_keeps_to_its_limit_and_no_other_that_does_loses_less():
    target, row = target_of(), PRECISE.encode([PRECISE.largest()])[0]
    loss_p = losses(PRECISE.largest())
    every = np.repeat(row[None], 2**PARTS, axis=0)
    every[:, COLUMNS] = np.array(list(product([0, 1], repeat=PARTS)))
    latency_ms, loss = target.values("latency_ms", every), ((1 - every[:, COLUMNS]) * loss_p).sum(axis=1)
    for limit_ms in np.quantile(latency_ms, [0.1, 0.5, 0.9]):
        found = best_mix(target, row, COLUMNS, loss_p, float(limit_ms))
        assert found is not None
        assert target.values("latency_ms", found[None])[0] <= limit_ms
        own = ((1 - found[COLUMNS]) * loss_p).sum()
        assert own == pytest.approx(loss[latency_ms <= limit_ms].min())
    assert best_mix(target, row, COLUMNS, loss_p, float(latency_ms.min()) - 1) is None


def test_mixes_are_the_same_network_in_other_precisions():
    rng = np.random.default_rng(0)
    for row in float_codes(PRECISE, PRECISE.sample(rng, 6)):
        found = mixes(target_of(), row, losses, 4)
        assert len(found) > 1
        assert (float_codes(PRECISE, found) == row).all()
        np.testing.assert_array_equal(PRECISE.canonical(found), found)
        assert not (found == row).all(axis=1).any()


def test_each_turn_mixes_other_networks_of_the_front():
    front, mixer = np.unique(PRECISE.sample(np.random.default_rng(0), 7), axis=0), Mixer(losses)
    turns = [{row.tobytes() for row in float_codes(PRECISE, mixer(target_of(), front, turn))} for turn in range(3)]
    assert len(turns[0]) == 3
    assert not turns[0] & turns[1]
    assert turns[0] | turns[1] | turns[2] == {row.tobytes() for row in float_codes(PRECISE, front)}
    assert len(mixer(target_of(), front[:0], 0)) == 0


def test_the_answers_change_the_more_of_a_network_is_in_integers():
    space = define_space("tiny", **SPACE.settings, precisions=["int8", "fp32"])
    evaluator = small_evaluator()
    found = Sensitivity(Supernet(SPACE).eval(), space, "single_label", evaluator.calibration)
    arch = space.arch({**space.largest().values, "s1.precision": "int8"})
    losses = found(arch)
    assert losses.shape == (len(precision_columns(space)),)
    assert (losses > 0).all()
    np.testing.assert_array_equal(losses, found(space.largest()))


def test_guided_batches_are_chosen_from_mixes_as_well():
    problem, asked = Problem(PRECISE, (target_of(),)), []

    def mix(target, front, turn):
        asked.append(front)
        return front[:0]

    study = SearchStudy(JOINT, problem, SAMPLERS["guided_mixed"], 6, 0, Aids(mix=mix))
    codes = PRECISE.sample(np.random.default_rng(0), 12)
    accuracy = np.array([fake_accuracy(PRECISE, arch) for arch in PRECISE.decode(codes)])
    study.restore(codes, Scored(codes, accuracy, np.full(12, 400)), [{}] * 12)
    study.ask(1)
    (front,) = asked
    wanted = codes[problem.front(problem.targets[0], codes, accuracy)]
    np.testing.assert_array_equal(np.unique(front, axis=0), np.unique(wanted, axis=0))
