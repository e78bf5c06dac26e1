"""Devices and fingerprints."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables import Device, Fingerprint, LatencyError, fingerprint, local_devices
from latency_tables.device import GRAPH_OPTIMIZATIONS

devices = st.builds(
    Device,
    name=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True),
    provider=st.sampled_from(["CPUExecutionProvider", "CUDAExecutionProvider"]),
    provider_options=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2).map(
        lambda options: tuple(options.items())
    ),
    threads=st.integers(1, 1024),
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
        {"precision": "int8"},
        {"graph_optimization": "most"},
        {"provider_options": (("a", 1),)},
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


def test_this_machine_has_a_fingerprint_that_stays_the_same():
    found = fingerprint()
    assert found == fingerprint()
    assert found.id == Fingerprint.from_json(json.loads(json.dumps(found.to_json()))).id
    assert found.cores >= 1


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
