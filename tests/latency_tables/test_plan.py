"""Which networks are profiled."""

import numpy as np
import pytest

from latency_tables import LatencyError, plan
from search_spaces import costs, define_space
from tests.latency_tables.fakes import tiny_space

SPACE = tiny_space()
SPACES = [SPACE, define_space("tiny"), define_space("mobilenet_v3")]


@pytest.mark.parametrize("space", SPACES, ids=["small", "tiny", "mobilenet_v3"])
@pytest.mark.parametrize("n", [2, 5, 40, 150])
def test_a_plan_covers_the_space_from_the_smallest_to_the_largest(space, n):
    archs = plan(space, n)
    assert len(set(archs)) == len(archs) == n
    assert archs[:2] == (space.smallest(), space.largest())
    log_macs = np.sort(np.log(costs(space, space.encode(archs), "macs")))
    if n >= 40:
        assert np.diff(log_macs).max() < 0.15 * (log_macs[-1] - log_macs[0])


def test_a_plan_depends_on_its_seed_alone():
    assert plan(SPACE, 12, seed=3) == plan(SPACE, 12, seed=3) != plan(SPACE, 12, seed=4)


def test_a_plan_of_more_networks_than_there_are_has_them_all():
    space = tiny_space(channels=[32], strides=[1], widths=[1.0])
    assert len(plan(space, 1000)) == space.size < 1000


def test_a_plan_of_one_network_is_refused():
    with pytest.raises(LatencyError, match="at least 2"):
        plan(SPACE, 1)


@pytest.mark.parametrize("space", SPACES, ids=["small", "tiny", "mobilenet_v3"])
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(space):
    longest = plan(space, 60, seed=1)
    assert all(plan(space, n, seed=1) == longest[:n] for n in (2, 3, 10, 59))


@pytest.mark.parametrize("n", [10, 20, 33, 60])
def test_wherever_a_plan_is_cut_off_what_is_left_is_spread(n):
    space = SPACES[2]
    log_macs = np.sort(np.log(costs(space, space.encode(plan(space, 100)[:n]), "macs")))
    assert np.diff(log_macs).max() < 4 / n * (log_macs[-1] - log_macs[0])
