"""Short words for processors."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables.processor import Processor, short_name

NAMES = {
    "AMD EPYC 9354 32-Core Processor": "epyc-9004",
    "AMD EPYC 7B13": "epyc-7003",
    "AMD EPYC 9R14": "epyc-9004",
    "AMD EPYC": "amd-epyc",
    "AMD Ryzen 9 5950X 16-Core Processor": "ryzen-9-5950x",
    "AMD Ryzen 7 PRO 4750U with Radeon Graphics": "ryzen-7-4750u",
    "Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz": "xeon-platinum-8275cl",
    "Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz": "xeon-e5-2686-v4",
    "Intel(R) Xeon(R) CPU @ 2.20GHz": "intel-xeon",
    "Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz": "core-i7-9700k",
    "12th Gen Intel(R) Core(TM) i5-1240P": "core-i5-1240p",
    "Intel(R) Core(TM) Ultra 7 155H": "core-7-155h",
    "Apple M2 Pro": "apple-m2-pro",
    "Apple M1": "apple-m1",
    "Cortex-A76": "cortex-a76",
    "Neoverse-N1": "neoverse-n1",
    "Raspberry Pi 4 Model B Rev 1.4": "rpi-4-b",
    "NVIDIA Jetson Orin Nano Developer Kit": "jetson-orin-nano",
    "Some Maker's Chip 12 of today": "some-maker-s-chip",
}


@pytest.mark.parametrize(("model", "word"), NAMES.items(), ids=NAMES)
def test_a_processor_has_a_short_word(model, word):
    assert short_name(model, "x86_64") == word


def test_an_unknown_processor_is_called_by_its_machine():
    assert short_name("", "aarch64") == "aarch64"
    assert short_name("", "") == "unknown"


@given(st.text(max_size=40), st.text(max_size=10))
def test_a_short_word_fits_into_a_name(model, machine):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", short_name(model, machine))


def test_the_processor_at_hand_is_described():
    here = Processor.here()
    assert here == Processor.here()
    assert 1 <= here.usable_cores <= here.cores
