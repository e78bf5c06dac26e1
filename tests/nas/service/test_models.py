"""Measuring an uploaded model, here and elsewhere."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from latency_tables import LatencyError
from latency_tables.device import Device, Fingerprint
from latency_tables.measuring.machine import Here
from latency_tables.offers import CANARIES
from nas.service.models import measure_upload
from nas.service.specs import Effort, Model
from tests.nas.agent.fakes import ENERGY, FINDS
from tests.nas.fakes import FakeDisplay

ELSEWHERE = Fingerprint("Cortex-A76", "aarch64", 4, 8, "Linux 6.6", "1.22.0")


@dataclass
class FakeMachine:
    """A machine elsewhere, on which inferences take as long as here."""

    asked: list[Any] = field(default_factory=list)

    def fingerprint(self) -> Fingerprint:
        return ELSEWHERE

    def check(self, device: Device, needs=()) -> None:
        if device.threads > 4:
            raise LatencyError("it has 4 cores")

    @contextmanager
    def held(self, on_wait=None) -> Iterator[None]:
        on_wait("waiting for somebody")
        yield

    def measure(self, graphs, device, *, protocol=None, earlier=None, on_round=None, needs=()):
        self.asked.append((device, protocol))
        here = Here(find_needs=lambda: FINDS)
        return here.measure(graphs, device, protocol=protocol, on_round=on_round, needs=needs)


def asked(**device: Any) -> Model:
    return Model("u1", Device("one", **device), {}, Effort(budget_s=0.3, precision=0.5))


def test_a_model_is_measured_on_this_machine():
    found = measure_upload(CANARIES["fp32"], "my model", asked(), Here(), FakeDisplay())
    assert (found["format"], found["file"], found["device"]["name"]) == ("nas.measurement/1", "my model", "one")
    assert found["measurement"]["p50"] > 0
    json.dumps(found, allow_nan=False)


def test_a_model_is_measured_elsewhere():
    machine, model = FakeMachine(), asked(agent="pi")
    found = measure_upload(CANARIES["fp32"], "my model", model, machine, FakeDisplay())
    assert found["fingerprint"] == ELSEWHERE.to_json()
    assert found["full_name"] == model.device.full_name(ELSEWHERE)
    assert found["measurement"]["p50"] > 0
    assert found["measurement"]["footprint"]["model_bytes"] == CANARIES["fp32"].stat().st_size
    assert found["measurement"]["energy"] == ENERGY.to_json()
    (device, protocol), *others = machine.asked
    assert (device, protocol.budget_s, protocol.target_precision, others) == (model.device, 0.3, 0.5, [])
    json.dumps(found, allow_nan=False)


def test_what_a_machine_cannot_run_is_refused_before_it_is_measured():
    machine = FakeMachine()
    with pytest.raises(LatencyError, match="it has 4 cores"):
        measure_upload(CANARIES["fp32"], "m", asked(agent="pi", threads=8), machine, FakeDisplay())
    assert machine.asked == []
