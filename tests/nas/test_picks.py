"""Picks: who on a front answers to a name, an id or a need, and what is said where nobody does."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import JobError
from nas.job import ExportSettings
from nas.searching.constraints import parse_constraint
from nas.searching.quantities import Target
from nas.specialising.picks import check_picks, picked, slug
from search_spaces import costs
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space

SPACE = small_space()
TARGET = Target("one", SPACE, 1, {"latency_ms": FakePredictor(SPACE)})
CODES = np.unique(SPACE.sample(np.random.default_rng(0), 40), axis=0)
FRONT = [
    {
        "arch_id": arch.id,
        "arch": dict(arch.values),
        "val_accuracy": fake_accuracy(SPACE, arch),
        "latency_ms_predicted": float(latency_ms),
    }
    for arch, latency_ms in zip(SPACE.decode(CODES), TARGET.values("latency_ms", CODES), strict=True)
]
MIDDLE_MS = float(np.median([row["latency_ms_predicted"] for row in FRONT]))


def only(pick: str) -> dict:
    """The one network that a pick finds."""
    ((_, index),) = picked(FRONT, "one", [pick], TARGET).indices.items()
    return FRONT[index]


@given(st.floats(0.0, 1.0))
def test_a_limit_picks_the_most_accurate_network_that_meets_it(share):
    times = [row["latency_ms_predicted"] for row in FRONT]
    bound = min(times) + share * (max(times) - min(times))
    meeting = [row for row in FRONT if row["latency_ms_predicted"] <= bound]
    assert only(f"latency_ms <= {bound!r}") == max(meeting, key=lambda row: row["val_accuracy"])


def test_a_limit_may_be_on_anything_that_is_known_of_a_network():
    macs = dict(zip([row["arch_id"] for row in FRONT], costs(SPACE, CODES, "macs"), strict=True))
    bound = int(np.median(list(macs.values())))
    found = only(f"macs<={bound}")
    assert macs[found["arch_id"]] <= bound
    assert found["val_accuracy"] == max(row["val_accuracy"] for row in FRONT if macs[row["arch_id"]] <= bound)


def test_a_limit_on_accuracy_picks_the_fastest_that_meets_it():
    found = only("accuracy >= 60%")
    rivals = [row for row in FRONT if row["val_accuracy"] >= 0.6]
    assert 1 < len(rivals) < len(FRONT)
    assert found == min(rivals, key=lambda row: row["latency_ms_predicted"])


def test_a_probability_asks_for_the_upper_end_of_a_prediction():
    found = only(f"latency_ms <= {MIDDLE_MS} with 90%")
    assert (
        found["latency_ms_predicted"] * 1.09
        <= MIDDLE_MS
        < only(f"latency_ms<={MIDDLE_MS}")["latency_ms_predicted"] * 1.09
    )


def test_an_id_picks_its_network():
    assert only(FRONT[3]["arch_id"]) == FRONT[3]


def test_what_nothing_meets_is_told_with_the_closest():
    found = picked(FRONT, "one", ["knee", "latency_ms <= 0.001", "0" * 12], TARGET)
    fastest = min(FRONT, key=lambda row: row["latency_ms_predicted"])
    assert list(found.indices) == ["knee"]
    assert found.missed["latency_ms <= 0.001"] == (
        f"no network of the front of one meets 'latency_ms <= 0.001'; closest is {fastest['arch_id']} with "
        f"{fastest['latency_ms_predicted']:.4g}"
    )
    with pytest.raises(JobError, match=re.escape(f"export.picks: {found.missed['latency_ms <= 0.001']}")):
        check_picks([found])
    assert f"{'0' * 12} is not on the front of one, which has {FRONT[0]['arch_id']}" in found.missed["0" * 12]


def test_what_one_of_two_devices_meets_is_no_error():
    met = picked(FRONT, "one", [f"latency_ms <= {MIDDLE_MS}"], TARGET)
    slow = Target("slow", SPACE, 1, {"latency_ms": FakePredictor(SPACE, base=1000.0)})
    missed = picked(FRONT, "slow", [f"latency_ms <= {MIDDLE_MS}"], slow)
    assert missed.missed
    check_picks([met, missed])


def test_a_limit_on_another_device_and_an_empty_front_pick_nobody():
    for front, pick in ((FRONT, f"latency_ms@two <= {MIDDLE_MS}"), ([], "knee"), ([], "latency_ms <= 1")):
        found = picked(front, "one", [pick], TARGET)
        assert (found.indices, found.missed) == ({}, {})


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        ("most-accurate", "most-accurate"),
        ("0123456789ab", "0123456789ab"),
        ("latency_ms <= 3 with 90%", "latency_ms-at-most-3-with-90pct"),
        ("latency_ms@cpu_t1<=0.02", "latency_ms-at-most-0.02"),
        ("macs < 20M", "macs-at-most-20000000"),
        ("accuracy >= 92.5%", "accuracy-at-least-0.925"),
        ("model_bytes <= 512KiB", "model_bytes-at-most-524288"),
    ],
)
def test_picks_have_names_that_any_file_may_have(pick, name):
    assert ExportSettings(picks=(pick,)).picks == (pick,)
    assert slug(pick) == name


@given(st.floats(1e-9, 1e12), st.sampled_from(["<=", ">=", "<", ">"]))
def test_limits_of_any_size_have_such_names(bound, sign):
    pick = f"macs {sign} {bound!r}"
    assert parse_constraint(pick)
    assert re.fullmatch(r"[a-z][A-Za-z0-9_.+-]*", slug(pick))
