"""What a machine offers by itself."""

import onnxruntime
import pytest

from latency_tables import Device, LatencyError
from latency_tables.measuring.sessions import CPU
from latency_tables.offers import check_device, offered_devices
from latency_tables.processor import Processor


def test_this_machine_offers_its_processor_in_floats_and_integers():
    found = offered_devices([CPU]).devices
    assert {"cpu_t1_fp32_b1", "cpu_t1_fp32_b8", "cpu_t1_int8_b1"} <= {device.name for device in found}
    assert len({device.id for device in found}) == len(found)
    assert max(device.threads for device in found) == Processor.here().usable_cores
    for device in found:
        assert device.name == device.id
        check_device(device)


def test_whatever_the_runtime_has_is_offered_or_refused_with_a_reason():
    found = offered_devices()
    named = {device.provider for device in found.devices}
    for provider in onnxruntime.get_available_providers():
        short = provider.removesuffix("ExecutionProvider").lower()
        assert provider in named or any(line.startswith(f"{short}, fp32: ") for line in found.refused)
    assert all("\n" not in line for line in found.refused)


def test_a_provider_that_leaves_the_work_to_the_processor_is_not_offered():
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this runtime has no such provider")
    with pytest.raises(LatencyError, match="does not run 'canary' by itself"):
        check_device(Device("cloud", "AzureExecutionProvider"))


def test_a_provider_that_is_not_there_is_refused():
    assert offered_devices(["MadeUpExecutionProvider"]).devices == ()
    assert "no provider MadeUpExecutionProvider" in offered_devices(["MadeUpExecutionProvider"]).refused[0]


@pytest.mark.parametrize(("cores", "threads"), [(1, {1}), (2, {1, 2}), (6, {1, 2, 4, 6}), (8, {1, 2, 4, 8})])
def test_threads_are_powers_of_two_and_all(cores, threads, monkeypatch):
    here = Processor.here()
    fields = {name: getattr(here, name) for name in Processor.__slots__}
    monkeypatch.setattr(Processor, "here", staticmethod(lambda: Processor(**{**fields, "usable_cores": cores})))
    assert {device.threads for device in offered_devices([CPU]).devices} == threads
