"""Jobs: what a YAML file says, what it may not say, and the JSON that a run folder keeps of it."""

import copy
import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latency_tables.device import Device, local_devices
from nas.errors import JobError
from nas.job import PICKS as OF_PICKS
from nas.job import PROXIES as OF_JOBS
from nas.job import Job, Sampler, job_from_json, job_to_json, read_job
from nas.searching.fronts import PICKS
from nas.searching.samplers import SAMPLERS
from search_spaces import FAMILY_NAMES
from supernets.proxies import PROXIES
from tests.nas.fakes import LITTLE, write_job

ROOT = Path(__file__).parents[2]


def refused(document) -> str:
    with pytest.raises(JobError) as caught:
        job_from_json(document)
    return str(caught.value)


def changed(path: str, value) -> dict:
    """The little job with one value put at a dotted path."""
    document = copy.deepcopy(LITTLE)
    where = document
    *way, leaf = path.split(".")
    for part in way:
        where = where[int(part)] if part.isdigit() else where.setdefault(part, {})
    where[leaf] = value
    return document


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "nas/demo.yaml"], ids=lambda path: path.stem
)
def test_a_job_survives_its_own_json(path):
    job = read_job(path)
    assert job_from_json(json.loads(json.dumps(job_to_json(job)))) == job


def test_everything_a_job_can_say_survives_its_own_json():
    document = copy.deepcopy(LITTLE) | {"seed": 5}
    document["data"] |= {"classes": list("abcdefghij"), "skip_bad": True, "name": "x", "validation_fraction": 0.3}
    document["devices"] = [
        {"name": "odd", "provider_options": [["a", "1"]], "threads": 2, "graph_optimization": "basic"}
    ]
    document["search"] |= {
        "constraints": ["latency_ms@odd <= 3", "macs>=1e5"],
        "sampler": "random",
        "ray_address": "h:1",
    }
    document["export"] = {"picks": ["knee", "macs <= 2M", "0123456789ab"], "license": "mit", "pair": True}
    document["export"] |= {"opset": 18, "ir_version": 9, "dynamic_batch": False}
    job = job_from_json(document)
    assert job_from_json(json.loads(json.dumps(job_to_json(job)))) == job
    assert job.devices == (Device("odd", provider_options=(("a", "1"),), threads=2, graph_optimization="basic"),)
    assert job.search.constraints == ("latency_ms@odd <= 3", "macs>=1e5")
    assert job.train.seed == 5


def test_provider_options_may_be_a_mapping():
    document = copy.deepcopy(LITTLE)
    document["devices"] = [{"name": "odd", "provider_options": {"arena": "kSameAsRequested", "device_id": 1}}]
    job = job_from_json(document)
    assert job.devices[0].provider_options == (("arena", "kSameAsRequested"), ("device_id", "1"))
    assert job_from_json(json.loads(json.dumps(job_to_json(job)))) == job


def test_the_demo_is_the_digits_example_under_another_name():
    demo, digits = (job_to_json(read_job(path)) for path in (ROOT / "nas/demo.yaml", ROOT / "examples/digits.yaml"))
    assert demo.pop("name") == "demo"
    assert digits.pop("name") == "digits"
    assert demo == digits


def test_what_is_left_out_takes_its_default():
    job = job_from_json({"name": "bare", "data": {"kind": "digits"}, "space": {"family": "tiny"}})
    assert job.devices == local_devices()
    assert (job.seed, job.search.sampler, job.export.opset) == (0, "guided", 17)
    assert {field.name for field in fields(Job)} == set(job_to_json(job))


def test_a_section_may_be_empty():
    document = yaml.safe_load("name: bare\ndata: {kind: digits}\nspace: {family: tiny}\ntrain:\nsearch:\n")
    assert job_from_json(document) == job_from_json({key: document[key] for key in ("name", "data", "space")})


def test_the_names_of_picks_and_samplers_are_those_that_exist():
    assert tuple(PICKS) == OF_PICKS
    assert get_args(Sampler) == tuple(SAMPLERS)


def test_the_names_of_proxies_are_those_that_exist():
    assert tuple(PROXIES) == OF_JOBS


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ("", "trian", "train"),
        ("data", "chanels", "channels"),
        ("space", "depth", "depths"),
        ("train", "epoch", "epochs"),
        ("train.augment", "shift", "shift_px"),
        ("devices.1", "thread", "threads"),
        ("profile", "network", "networks"),
        ("search", "evaluation", "evaluations"),
        ("export", "pick", "picks"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_near_miss(path, key, near):
    message = refused(changed(f"{path}.{key}".strip("."), 1))
    assert message.startswith(path.partition(".")[0] or key)
    assert key in message
    assert f"did you mean {near!r}?" in message
    if path != "space":
        assert message.startswith(f"{path}.{key}: unknown key".strip("."))


def test_an_unknown_key_like_no_other_is_refused_with_the_known_ones():
    assert refused(changed("profile.zzz", 1)) == "profile.zzz: unknown key; known are networks, budget_s, precision"


def test_a_misspelt_key_that_is_required_is_called_misspelt_not_missing():
    document = {**LITTLE, "dta": LITTLE["data"]}
    del document["data"]
    assert refused(document) == "dta: unknown key; did you mean 'data'?"


def test_what_the_pipeline_works_out_itself_cannot_be_said():
    assert refused(changed("data.size", 32)).startswith("data.size: unknown key")
    assert refused(changed("train.seed", 1)).startswith("train.seed: unknown key")
    assert refused(changed("space.num_classes", 5)).startswith("space.num_classes")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", 5, "name: input should be a valid string, not 5"),
        ("name", "a/b", "name must be letters"),
        ("name", ".hidden", "name must be letters"),
        ("seed", -1, "seed must be from 0"),
        ("seed", 10**400, "seed must be from 0"),
        ("data.kind", "fodler", "did you mean 'folder'"),
        ("data", {"kind": "folder"}, "needs 'path'"),
        ("data", {}, "data.kind: is required"),
        ("data.channels", 2, "channels must be 1 (grey) or 3 (colour), not 2"),
        ("space", ["tiny"], "space: input should be a valid"),
        ("space.family", "big", f"space.family must be one of {FAMILY_NAMES}, not 'big'"),
        ("space.family", ["tiny"], "space.family must be one of"),
        ("space.widths", [1.0, 0.5], "space: widths must be an ascending list"),
        ("train.epochs", "ten", "train.epochs: input should be a valid integer"),
        ("train.epochs", 2.5, "not 2.5"),
        ("train.epochs", 0, "train.epochs must be from 1"),
        ("train.learning_rate", float("nan"), "train.learning_rate must be from"),
        ("train.recipe", "sandwhich", "unknown recipe 'sandwhich'"),
        ("train.layout", "fp16", "unknown layout"),
        ("devices", {"name": "one"}, "devices: input should be a valid tuple"),
        ("devices.0.threads", "many", "devices.0.threads: input should be a valid integer"),
        ("devices.0.threads", 0, "device one: threads must be a whole number from 1"),
        ("devices.0.precision", "int4", "device one: precision must be one of fp32, fp16, int8"),
        ("devices.0.precision", "int8", "device one: what a job's networks compute in is a matter of its space"),
        ("devices.1.name", "one", "devices must have different names, got one, one"),
        ("devices.1.name", "Übel", "a device's name"),
        ("profile.networks", 3, "profile.networks must be from 12"),
        ("profile.budget_s", float("inf"), "profile.budget_s must be from"),
        (
            "search.sampler",
            "nsga4",
            "'tpe', 'gp', 'random' or 'nested', not 'nsga4'",
        ),
        ("search.objectives", ["accuracy", "latency"], "unknown quantity 'latency'; did you mean 'latency_ms'?"),
        ("search.objectives", [], "search.objectives must name different quantities, at least one, not []"),
        ("search.proxies", ["synflo"], "search: unknown proxy 'synflo'; known are grad_norm, snip"),
        ("search.first_images", 0, "search.first_images must be from 1 to"),
        ("search.constraints", "macs <= 5", "search.constraints: input should be a valid tuple"),
        ("search.constraints", ["mac <= 5"], "did you mean 'macs'?"),
        ("search.constraints", ["latency_ms@two <= 5"], "names a device that the job does not have: one, four"),
        ("export.picks", [], "export.picks must name at least one"),
        ("export.picks", ["slowest"], "'slowest' is none of fastest, knee, most-accurate, no limit such as"),
        (
            "export.picks",
            ["latency <= 3"],
            "export.picks: constraint 'latency <= 3': unknown quantity 'latency'; did you",
        ),
        ("export.picks", ["latency_ms@two <= 3"], "names a device that the job does not have: one, four"),
        (
            "export.license",
            "all mine",
            "export.license must be the name of a licence, as mit, apache-2.0 or other, not",
        ),
        ("export.dynamic_batch", "maybe", "export.dynamic_batch: input should be a valid boolean"),
    ],
)
def test_a_wrong_value_is_refused_with_what_came(path, value, said):
    message = refused(changed(path, value))
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("document", [None, [], "x", 5, {}, {1: 2}, {"name": "a"}])
def test_what_is_no_job_at_all_is_refused(document):
    refused(document)


def test_a_constraint_on_a_device_of_this_machine_needs_no_devices_in_the_job():
    document = {key: LITTLE[key] for key in ("name", "data", "space")}
    job_from_json({**document, "search": {"constraints": ["latency_ms@cpu_t1 <= 5"]}})
    message = refused({**document, "search": {"constraints": ["latency_ms@cpu_t99 <= 5"]}})
    assert "cpu_t99" in message


def test_paths_in_a_file_are_relative_to_it_and_absolute_from_then_on(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    data = {"kind": "folder", "path": "images", "test_path": "/elsewhere"}
    write_job(tmp_path / "jobs/job.yaml", data=data, train={"start": "net.safetensors"})
    monkeypatch.chdir(tmp_path)
    job = read_job(Path("jobs/job.yaml"))
    assert job.train.start == str(tmp_path / "jobs/net.safetensors")
    assert (job.data.path, job.data.test_path) == (str(tmp_path / "jobs/images"), "/elsewhere")


def test_paths_in_an_override_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    write_job(tmp_path / "jobs/job.yaml", data={"kind": "folder"})
    monkeypatch.chdir(tmp_path)
    job = read_job(Path("jobs/job.yaml"), ["data.path=images", "train.start=net.safetensors"])
    assert job.data.path == str(tmp_path / "images")
    assert job.train.start == str(tmp_path / "net.safetensors")


def test_the_home_of_nobody_is_refused(tmp_path):
    path = write_job(tmp_path / "job.yaml", data={"kind": "folder", "path": "~nobody-of-this-name/x"})
    with pytest.raises(JobError, match="~nobody-of-this-name/x: Could not determine home directory"):
        read_job(path)


def test_overrides_win_in_their_order_and_may_open_a_section(tmp_path):
    path = write_job(tmp_path / "job.yaml", export=None)
    job = read_job(
        path, ["train.epochs=3", "train.epochs=4", "export.picks=[knee]", "seed=7", "train.augment.shift_px=1"]
    )
    assert (job.train.epochs, job.export.picks, job.seed, job.train.augment.shift_px) == (4, ("knee",), 7, 1)
    assert job.train.augment.mirror is False


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "is not of the form key.sub=value"),
        ("=5", "is not of the form"),
        ("train.=5", "is not of the form"),
        ("train.epochs=[", "not valid YAML"),
        ("train.epochs=2024-13-45", "not valid YAML"),
        ("train.epochs.max=5", "train.epochs has no keys of its own"),
        ("devices.0.threads=2", "devices.0 has no keys of its own"),
        ("trian.epochs=5", "trian: unknown key; did you mean 'train'?"),
        ("train.epohcs=5", "train.epohcs: unknown key; did you mean 'epochs'?"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path, override, said):
    with pytest.raises(JobError) as caught:
        read_job(write_job(tmp_path / "job.yaml"), [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: 2024-13-45",
        "seed: " + "9" * 5000,
        "a: !!python/object:os.system {}",
        "? [1]\n: 2",
        "[" * 3000,
        "\x00",
        "- a\n- b",
        "",
        "name: &x [*x]",
    ],
)
def test_a_file_that_is_no_job_gives_one_line_with_its_name(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as caught:
        read_job(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(JobError, match="no such job file"):
        read_job(tmp_path / "absent.yaml")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path / "latin.yaml")


KEYS = st.sampled_from(
    [*LITTLE, *(key for value in LITTLE.values() if isinstance(value, dict) for key in value), "constraints", "size"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["digits", "folder", "tiny", "mobilenet_v3", "nsga2", "knee", "macs <= 5", "~x"]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
PLACES = [f"{key}.{inner}" for key, value in LITTLE.items() if isinstance(value, dict) for inner in value]


@settings(max_examples=150, deadline=None)
@given(JUNK)
@example({"name": "a", "data": {"kind": "digits"}, "space": {"family": {}}})
def test_junk_is_refused_as_a_job_and_never_in_another_way(document):
    with suppress(JobError):
        job_from_json(document, relative_to=Path("/x"))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*LITTLE, *PLACES]), JUNK)
def test_a_job_with_junk_in_one_place_is_refused_or_can_be_written_down(path, value):
    with suppress(JobError):
        job = job_from_json(changed(path, value), relative_to=Path("/x"))
        assert job_from_json(json.loads(json.dumps(job_to_json(job), allow_nan=False))) == job


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abename: []{}&*!-?\n\t'\"|>%@,0", max_size=40))
def test_junk_text_is_refused_as_a_job_and_never_in_another_way(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(text)
    with pytest.raises(JobError):
        read_job(path)
