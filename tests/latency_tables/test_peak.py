"""The peak of a device is that of the fastest of its convolutions, the batch included."""

import pytest

from latency_tables.device import Device
from latency_tables.measuring.machine import Here
from latency_tables.measuring.measure import Protocol, measure
from latency_tables.measuring.peak import SHAPES, peak_gmacs_per_s
from tests.latency_tables.fakes import FakeMachine


class Hooked(FakeMachine):
    def measure(self, graphs, device, *, protocol):
        return measure(graphs, device, protocol=protocol, **self.hooks)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_peak_is_the_best_rate_of_multiply_accumulates(batch):
    macs = [channels * channels * kernel * kernel * size * size * batch for channels, size, kernel in SHAPES]
    rates = [50.0, 80.0]
    machine = Hooked({f"peak{i}": n / (rate * 1e3) for i, (n, rate) in enumerate(zip(macs, rates, strict=True))})
    assert peak_gmacs_per_s(machine, Device("fake", batch=batch)) == pytest.approx(80.0, rel=0.01)


def test_a_real_session_runs_at_some_rate():
    brief = Protocol(min_rounds=1, max_rounds=1, budget_s=0.05, warm_up_s=0.05)
    assert 0.01 < peak_gmacs_per_s(Here(), Device("cpu_t1"), brief) < 1e5
