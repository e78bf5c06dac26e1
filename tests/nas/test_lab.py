"""The laboratory from the command line: profiles of a space, of any ONNX file, and what is said of devices."""

import io
import json
import re
import tempfile

import numpy as np
import pytest
from PIL import Image

from latency_tables.device import Device, fingerprint
from latency_tables.graphs.graph import profiling_model
from latency_tables.plan import plan
from latency_tables.predicting.predictor import load_predictor
from latency_tables.table import load
from nas.device_page import device_page
from nas.words import space_of
from search_spaces import arch_cost, define_space
from tests.latency_tables import fakes
from tests.nas.chromium import dom_of, drawn_plots, needs_chromium
from tests.nas.conftest import commanded

SPACE = define_space("tiny", resolutions=[8], stem=8, channels=[32], strides=[2], widths=[0.5, 1.0], expands=[0.5, 1.0])
SETTINGS = ("resolutions=[8]", "stem=8", "channels=[32]", "strides=[2]", "widths=[0.5,1.0]", "expands=[0.5,1.0]")


@pytest.fixture(autouse=True)
def _own_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def of_the_space(*options: object) -> tuple[object, ...]:
    settings = [part for text in SETTINGS for part in ("--set", text)]
    return ("profile", "--space", "tiny", *settings, "--precision", "20%", *options)


def made_up_table(path, us_per_mac: float, networks: int = 40, device: str = "board"):
    """A table of a device that takes so long for every multiply-accumulate."""
    archs = list(plan(SPACE, networks))
    made = fakes.table(SPACE, archs, Device(device), us=lambda arch: 5 + us_per_mac * arch_cost(SPACE, arch).macs)
    made.save(path)
    return path


def test_a_space_is_profiled_into_a_table_a_predictor_and_a_page_and_gone_on_with(here):
    said = commanded(*of_the_space("--networks", 18, "--budget", "20s", "--json"))
    assert said.code == 0, said.err
    found = said.json
    name = f"{Device('cpu_t1').full_name(fingerprint())}.{SPACE.id}"
    assert sorted(path.name for path in (here / "profiles").iterdir()) == [
        f"{name}.predictor.json",
        f"{name}.report.html",
        f"{name}.table.json",
    ]
    table = load(found["table"], space=SPACE)
    assert len(table.entries) == found["measured"]["networks"] == 18
    assert table.peak_gmacs_per_s == found["peak_gmacs_per_s"] > 0
    assert all(entry.measurement.footprint is not None for entry in table.entries)
    predictor = load_predictor(found["predictor_file"], space=SPACE)
    assert (predictor.predict(table.codes()) > 0).all()
    for entry in found["time"]:
        total = entry["constant_ms"] + sum(part["latency_ms"] for part in entry["parts"])
        assert total == pytest.approx(entry["latency_ms"])
        for part in entry["parts"]:
            if part["efficiency"] is not None:
                rate = part["macs"] / part["latency_ms"] / 1e6
                assert part["efficiency"] == pytest.approx(rate / found["peak_gmacs_per_s"])
            for key in ("latency_ms", "share", "macs"):
                assert sum(layer[key] for layer in part["layers"]) == pytest.approx(part[key])
    before = {entry.arch.id: entry.measurement.runs for entry in table.entries if entry.measurement.converged}
    again = commanded(*of_the_space("--networks", 20, "--budget", "20s"))
    assert again.code == 0, again.err
    assert "20 networks from" in again.out
    after = load(found["table"]).measurements
    assert len(after) == 20
    assert {key: after[key].runs for key in before} == before


def test_a_target_for_the_error_ends_a_profile_early_and_the_budget_as_well(here):
    early = commanded(
        *of_the_space("--networks", 60, "--target-error", "90%", "--budget", "60s", "--json", "--out", "a")
    )
    assert early.code == 0, early.err
    assert early.json["measured"]["networks"] < 60
    brief = commanded(*of_the_space("--networks", 60, "--budget", "0.01s", "--json", "--out", "b"))
    assert brief.code == 0, brief.err
    assert brief.json["measured"]["converged"] < 60


def test_a_new_device_is_carried_over_from_the_tables_of_others(here):
    known = [
        made_up_table(here / f"{i}.json", us_per_mac, device=f"board{i}") for i, us_per_mac in enumerate((1e-4, 3e-4))
    ]
    carried = [part for path in known for part in ("--from", path)]
    said = commanded(*of_the_space("--networks", 12, "--budget", "20s", "--json", *carried))
    assert said.code == 0, said.err
    assert said.json["predictor"]["kind"] == "transfer"
    assert said.json["measured"]["networks"] == 12
    predictor = load_predictor(said.json["predictor_file"], space=SPACE)
    codes = SPACE.sample(np.random.default_rng(0), 5)
    assert (predictor.predict(codes) > 0).all()
    alone = commanded(*of_the_space("--from", known[0]))
    assert "--from carries over from the tables of two or more other devices" in alone.complaint
    report = commanded("devices", "report", said.json["table"], "--json", *carried)
    assert report.json["predictor"]["kind"] == "transfer"


def test_any_onnx_file_is_measured_with_what_it_takes_and_from_images(here):
    arch = SPACE.smallest()
    (here / "model.onnx").write_bytes(profiling_model(SPACE, arch, 1))
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(image, "PNG")
    (here / "image.png").write_bytes(image.getvalue())
    options = ("--onnx", "model.onnx", "--image", "image.png", "--budget", "5s", "--precision", "20%")
    found = commanded("profile", *options, "--json").json
    assert found["measurement"]["count"] > 0
    assert found["measurement"]["footprint"]["model_bytes"] == (here / "model.onnx").stat().st_size
    assert found["end_to_end"]["p50"] > found["measurement"]["p50"]
    said = commanded("profile", *options)
    assert re.search(r"inference: median [\d.]+ ms", said.out)
    assert "decode, resize, normalise, inference: median" in said.out
    assert "peak memory" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of: the folder of a run, --space, or --onnx"),
        (("runs/x", "--space", "tiny"), "give one of"),
        (("runs/x", "--budget", "1m"), "--budget does not go with a run"),
        (("--space", "tiny", "--shape", "a=1"), "--shape does not go with --space"),
        (("--space", "tiny", "--again"), "--again does not go with --space"),
        (("--onnx", "x.onnx", "--set", "stem=8"), "--set does not go with --onnx"),
        (("--onnx", "x.onnx", "--networks", "9"), "--networks does not go with --onnx"),
        (("--space", "tiny", "--networks", "11"), "a predictor needs 12 networks or more (5 with --from), not 11"),
        (("--space", "tinny"), "tinny is neither a family"),
        (("--space", "tiny", "--budget", "soon"), "'soon' is not an amount of time"),
        (("--space", "tiny", "--target-error", "5"), "'5' is not a share"),
        (("--space", "tiny", "--device", "cuda_t1"), "has no provider CUDAExecutionProvider"),
        (("--space", "tiny", "--device", "cpu_t1_fp16"), "CPUExecutionProvider has no fp16"),
        (("--space", "tiny", "--from", "no.json", "--from", "no.json"), "no.json: cannot be read"),
        (("--onnx", "no.onnx"), "no.onnx: cannot be read"),
        (("--onnx", "text.onnx"), "text.onnx"),
        (("--onnx", "good.onnx", "--shape", "other=1,3,8,8"), "other"),
        (("--onnx", "good.onnx", "--image", "no.png"), "no.png: cannot be read"),
        (("--onnx", "good.onnx", "--image", "text.onnx"), "image"),
    ],
)
def test_what_cannot_be_profiled_is_one_clear_line_and_leaves_nothing(here, arguments, said):
    (here / "text.onnx").write_text("not a model")
    (here / "good.onnx").write_bytes(profiling_model(SPACE, SPACE.smallest(), 1))
    before = sorted(here.iterdir())
    brief = () if "--budget" in arguments or "--space" not in arguments else ("--budget", "0.1s")
    assert said in commanded("profile", *arguments, *brief).complaint
    assert sorted(here.iterdir()) == before


def test_the_devices_of_this_machine_are_listed_with_the_reasons_for_those_that_are_not():
    found = commanded("devices", "list", "--json").json
    names = [device["name"] for device in found["devices"]]
    assert "cpu_t1_fp32_b1" in names
    assert "cpu_t1_int8_b8" in names
    assert any("cpu, fp16" in reason for reason in found["refused"])
    said = commanded("devices", "list").out
    assert all(name in said for name in names)
    # Each of them can be asked for by its name.
    assert commanded("profile", "--space", "nothing", "--device", names[-1]).complaint.startswith("nas: nothing")


def test_a_device_report_says_what_the_table_holds(here):
    path = made_up_table(here / "board.json", 2e-4)
    found = commanded("devices", "report", path, "--json", "--html", "page.html").json
    assert found["measured"]["networks"] == len(load(path).entries)
    assert found["predictor"]["mape"] < 0.05
    assert len(found["held_out"]) == found["predictor"]["n_test"]
    assert found["peak_gmacs_per_s"] is None
    assert [entry["network"] for entry in found["time"]] == ["fastest", "middle", "slowest"]
    page = (here / "page.html").read_text()
    assert page == device_page(found)
    assert all(row["arch_id"] in page for row in found["held_out"])
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#)', markup)
    text = commanded("devices", "report", path).out
    assert f"{found['measured']['networks']} networks from" in text
    assert "of the peak" not in text


@pytest.mark.browser
@needs_chromium
def test_a_browser_draws_the_page_of_a_device(here):
    commanded("devices", "report", made_up_table(here / "board.json", 2e-4), "--html", "report.html")
    dom = dom_of((here / "report.html").read_text(), here)
    assert drawn_plots(dom) == ["trust-0"]
    assert "Layers of the slowest network" in dom


def test_a_report_of_what_is_no_table_is_refused(here):
    (here / "x.json").write_text("{")
    assert "x.json: not a whole latency table" in commanded("devices", "report", "x.json").complaint
    assert "no.json: cannot be read" in commanded("devices", "report", "no.json").complaint


def test_the_fronts_of_a_run_are_compared_on_its_devices_and_on_others(finished, here):
    run_space = space_of(str(finished / "space.json"))
    made = fakes.table(run_space, list(plan(run_space, 30)), Device("elsewhere"))
    made.save(here / "other.json")
    found = commanded("devices", "compare", finished, "--table", here / "other.json", "--json").json
    assert found["fronts"] == ["one", "four"]
    assert found["devices"][:2] == ["one", "four"]
    assert found["devices"][2] == made.device.full_name(made.fingerprint)
    shares = np.array(found["hypervolume_share"])
    assert shares.shape == (2, 3)
    assert (shares <= 1 + 1e-9).all()
    np.testing.assert_allclose(np.diag(shares), 1.0)
    text = commanded("devices", "compare", finished).out
    assert "front of" in text
    assert "one" in text
    twice = commanded("devices", "compare", finished, "--table", here / "other.json", "--table", here / "other.json")
    assert "is given twice" in twice.complaint
    foreign = made_up_table(here / "foreign.json", 1e-4)
    assert "space: the table is of space" in commanded("devices", "compare", finished, "--table", foreign).complaint


def test_json_of_a_device_report_is_json_all_the_way(here):
    report = commanded("devices", "report", made_up_table(here / "board.json", 2e-4), "--json").json
    assert json.loads(json.dumps(report, allow_nan=False)) == report
