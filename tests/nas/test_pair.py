"""Pairs: a fast network and an accurate one that is asked where the first is not sure."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.folder import RunFolder
from nas.specialising import pair_export
from nas.specialising.chain import ALLOWED, Said
from nas.specialising.pair import Cascade, chosen_pair, outcome
from supernets.dataset import load


def said(seed: int, accuracy: float, n: int = 2000) -> Said:
    """A network that is right as often as it says it is, and where others are, mostly."""
    rng = np.random.default_rng(seed)
    hardness = np.random.default_rng(99).random(n)
    sure_N = np.clip(1 - hardness * 2 * (1 - accuracy) + rng.normal(0, 0.02, n), 0.1, 1.0)
    return Said(sure_N, rng.random(n) < sure_N)


FRONT = [said(0, 0.80), said(1, 0.85), said(2, 0.93)]
TIMES_MS = [1.0, 2.0, 8.0]


def test_the_chosen_pair_is_as_accurate_as_the_best_network_in_less_time():
    chosen = chosen_pair(FRONT, TIMES_MS)
    found = outcome(
        FRONT[chosen.fast], FRONT[chosen.accurate], chosen.threshold, TIMES_MS[chosen.fast], TIMES_MS[chosen.accurate]
    )
    assert found.accuracy >= max(each.accuracy for each in FRONT) - ALLOWED
    assert found.latency_ms < TIMES_MS[2]
    assert 0 < found.share < 1


@given(st.integers(0, 2), st.integers(0, 2), st.floats(0.1, 1.0))
def test_no_other_pair_is_faster_and_as_accurate(fast, accurate, quantile):
    chosen = chosen_pair(FRONT, TIMES_MS)
    best = outcome(
        FRONT[chosen.fast], FRONT[chosen.accurate], chosen.threshold, TIMES_MS[chosen.fast], TIMES_MS[chosen.accurate]
    )
    threshold = float(np.quantile(FRONT[fast].sure_N, quantile))
    other = outcome(FRONT[fast], FRONT[accurate], threshold, TIMES_MS[fast], TIMES_MS[accurate])
    if other.accuracy >= max(each.accuracy for each in FRONT) - ALLOWED:
        # Thresholds are tried in steps of a half percent of the images.
        assert other.latency_ms >= best.latency_ms - 0.006 * TIMES_MS[accurate]


@given(st.floats(0.0, 1.1))
def test_an_outcome_is_what_asking_one_after_the_other_gives(threshold):
    fast, accurate = FRONT[0], FRONT[2]
    right = [accurate.right_N[i] if fast.sure_N[i] < threshold else fast.right_N[i] for i in range(len(fast.sure_N))]
    found = outcome(fast, accurate, threshold, 1.0, 8.0)
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.latency_ms == pytest.approx(1.0 + 8.0 * found.share)


def test_there_is_no_pair_where_one_network_is_as_good():
    assert chosen_pair(FRONT[:1], TIMES_MS[:1]) is None
    assert chosen_pair([FRONT[2], FRONT[0]], [1.0, 8.0]) is None, "the accurate one is the fast one"
    unsure = Said(np.full(2000, 0.5), FRONT[0].right_N)
    assert chosen_pair([unsure, FRONT[2]], [1.0, 8.0]) is None, "who is always as sure sends on all or nothing"


def test_a_pair_is_a_folder_whose_script_asks_the_second_network_where_the_first_is_unsure(
    nas, copied, monkeypatch, tmp_path
):
    # The little job's networks know too little for a pair to pay; half of the images are sent on here.
    def half(networks, latency_ms):
        return Cascade(0, len(networks) - 1, float(np.median(networks[0].sure_N)))

    monkeypatch.setattr(pair_export, "chosen_pair", half)
    result = nas("export", copied, "--again", "--pair")
    assert result.code == 0
    folder = copied / "models/one-pair"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("accurate.onnx", "card.md", "fast.onnx", "pair.json", "predict.py")
    ]
    one, four = json.loads((copied / "summary.json").read_text())["devices"]
    told = json.loads((folder / "pair.json").read_text())
    assert four["pair"] is None
    assert "four: a pair answers image by image, and this device takes 4" in result.err
    assert one["pair"]["test_accuracy"] == told["test"]["accuracy"] == told["outcome"]["test"]["accuracy"]
    assert one["pair"]["folder"] == "models/one-pair"
    assert "models/one-pair: " in result.out
    assert "A pair of networks" in (copied / "report.html").read_text()
    for name, row in (("fast", one["front"][0]), ("accurate", one["front"][-1])):
        assert (told[name]["arch_id"], told[name]["latency_ms"]) == (row["arch_id"], row["latency_ms_measured"])
    for words in ("**the pair**", "the fast one alone", "## What it forgets", "sent on"):
        assert words in (folder / "card.md").read_text()
    _script_agrees(copied, folder, told, tmp_path)


def _script_agrees(root: Path, folder: Path, told, tmp_path: Path) -> None:
    """The script is right of as many images as the pair says it is of all."""
    job = RunFolder.open(root).job
    dataset = load(job.source, cache=root / "data")
    files = []
    for i, pixels in enumerate(dataset.test.pixels):
        Image.fromarray(pixels[0]).save(tmp_path / f"{i}.png")
        files.append(str(tmp_path / f"{i}.png"))
    command = [sys.executable, str(folder / "predict.py"), *files]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(": ")[1].split()[0] for line in lines]
    right = [name == dataset.classes[label] for name, label in zip(found, dataset.test.labels, strict=True)]
    assert np.mean(right) == pytest.approx(told["test"]["accuracy"], abs=1e-9)


def test_where_no_pair_pays_that_is_said_and_none_is_written(nas, copied, monkeypatch):
    monkeypatch.setattr(pair_export, "chosen_pair", lambda said, latency_ms: None)
    result = nas("export", copied, "--pair", "--pick", "knee", "--out", "out")
    assert result.code == 0
    assert "one: no pair of networks is as accurate as one alone in less time; none is written" in result.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["four-knee", "one-knee"]
