"""Made-up latencies for tests of predictors."""

import numpy as np

from latency_tables import plan
from search_spaces import costs, define_space, slot_configs, slot_index, slots
from tests.latency_tables.fakes import table, tiny_space

SPACE = tiny_space()
MOBILE = define_space("mobilenet_v3", stem="small", resolutions=[16, 24], depths=[1, 2], num_classes=5)


def latencies(space, codes, seed=0, spread=0.3):
    """An exactly additive latency: a little for each layer and MAC, and each slot configuration strays on its own."""
    rng = np.random.default_rng(seed)
    total = np.full(len(codes), 0.02)
    for slot in slots(space):
        cost = slot_cost(space, slot)
        factor = np.exp(rng.normal(0, spread, len(cost)))
        total += (factor * cost)[slot_index(space, slot, codes)]
    return total


def slot_cost(space, slot):
    built = [slot.build(values) for values in slot_configs(space, slot)]
    return np.array([sum(0.002 + layer.macs / 5e7 for layer in layers) for layers in built])


def curved(space, codes):
    """A latency that no sum over slots gives: it grows with the square root of the MACs."""
    return 0.01 * np.sqrt(costs(space, codes, "macs") / 1e3)


def planned(space=SPACE, n=40, seed=0):
    """Codes as a profile would measure them."""
    return space.encode(plan(space, n, seed))


def measured_table(space=SPACE, n=40, of=latencies):
    archs = plan(space, n)
    times = dict(zip(archs, of(space, space.encode(archs)) * 1e3, strict=True))
    return table(space, list(archs), us=times.get)
