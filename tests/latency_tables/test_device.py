"""Devices and fingerprints."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables import Device, Fingerprint, LatencyError, fingerprint, local_devices
from latency_tables.device import GRAPH_OPTIMIZATIONS, PRECISIONS
from latency_tables.measuring.machine import Here

devices = st.builds(
    Device,
    name=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True),
    provider=st.sampled_from(["CPUExecutionProvider", "CUDAExecutionProvider"]),
    provider_options=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2).map(
        lambda options: tuple(options.items())
    ),
    threads=st.integers(1, 1024),
    precision=st.sampled_from(PRECISIONS),
    batch=st.integers(1, 4096),
    graph_optimization=st.sampled_from(GRAPH_OPTIMIZATIONS),
)


@given(devices)
def test_a_device_equals_its_own_json(device):
    assert Device.from_json(json.loads(json.dumps(device.to_json()))) == device


@given(devices, devices)
def test_devices_have_the_same_id_when_they_differ_in_name_only(a, b):
    settings = [{**device.to_json(), "name": ""} for device in (a, b)]
    assert (a.id == b.id) == (settings[0] == settings[1])


def test_the_id_of_a_plain_device_can_be_read():
    assert Device("x", batch=8).id == "cpu_t1_fp32_b8"
    assert Device("x", provider="CUDAExecutionProvider", threads=2).id == "cuda_t2_fp32_b1"
    assert Device("x", graph_optimization="basic").id.startswith("cpu_t1_fp32_b1_")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Upper"},
        {"name": ""},
        {"name": ".hidden"},
        {"name": "two\n"},
        {"provider": ""},
        {"threads": 0},
        {"threads": 1025},
        {"threads": True},
        {"threads": 1.5},
        {"batch": 0},
        {"batch": 4097},
        {"precision": "int4"},
        {"graph_optimization": "most"},
        {"provider_options": (("a",),)},
        {"provider_options": "ab"},
        {"provider_options": {"a": None}},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(LatencyError, match="device"):
        Device(**{"name": "pi4", **wrong})


@pytest.mark.parametrize(
    "document", [None, [], {}, {"name": "a", "colour": "red"}, {"name": 3}, {"name": "a", "provider_options": []}]
)
def test_a_document_that_is_no_device_is_refused(document):
    with pytest.raises(LatencyError):
        Device.from_json(document)


def test_provider_options_can_be_a_mapping_of_plain_values():
    device = Device("x", provider_options={"device_id": 0, "use_tf32": True, "mode": "fast"})
    assert device.provider_options == (("device_id", "0"), ("use_tf32", "1"), ("mode", "fast"))
    assert device == Device("x", provider_options=device.provider_options)
    assert hash(device)


def test_the_full_name_tells_machines_and_runtimes_apart():
    here = Fingerprint("AMD EPYC 9354 32-Core Processor", "x86_64", 64, 256, "Linux 6", "1.31.1")
    assert Device("x").full_name(here) == "epyc-9004_ort1.31_cpu_t1_fp32_b1"
    assert Device("x", precision="int8", batch=8).full_name(here) == "epyc-9004_ort1.31_cpu_t1_int8_b8"


def test_this_machine_has_a_fingerprint_that_stays_the_same():
    found = fingerprint()
    assert found == fingerprint()
    assert found.id == Fingerprint.from_json(json.loads(json.dumps(found.to_json()))).id
    assert found.cores >= 1
    assert "CPUExecutionProvider" in found.providers


@pytest.mark.parametrize("wrong", [{"cores": "2"}, {"cpu": None}, {"unknown": 1}])
def test_a_document_that_is_no_fingerprint_is_refused(wrong):
    with pytest.raises(LatencyError, match="fingerprint"):
        Fingerprint.from_json({**fingerprint().to_json(), **wrong})
    with pytest.raises(LatencyError, match="fingerprint"):
        Fingerprint.from_json({"cpu": "x"})


def test_this_machine_offers_devices_with_names_of_their_own():
    offered = local_devices()
    assert {"cpu_t1", "cpu_t1_b8"} <= {device.name for device in offered} <= {"cpu_t1", "cpu_t2", "cpu_t1_b8"}
    assert len({device.id for device in offered}) == len(offered)


def test_the_agent_that_measures_a_device_is_part_of_it_but_not_of_its_settings():
    here, there = Device("one"), Device("one", agent="board")
    assert here != there
    assert here.id == there.id
    assert "agent" not in here.to_json()
    assert Device.from_json(there.to_json()) == there


@pytest.mark.parametrize("agent", ["Board", "a b", "../x", 3, None])
def test_an_agent_is_named_like_a_device(agent):
    with pytest.raises(LatencyError, match="agent must be the name"):
        Device("one", agent=agent)


def test_this_machine_does_not_measure_for_an_agent():
    with pytest.raises(LatencyError, match="is measured by the agent board"):
        Here().check(Device("one", agent="board"))
