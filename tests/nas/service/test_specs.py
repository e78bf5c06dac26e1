"""Specs: what is asked of the service, refused in one line where it cannot be meant."""

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import JobError
from nas.job import Job, job_from_json
from nas.service.specs import (
    DEEPEST,
    MOST_BYTES,
    Effort,
    Model,
    Next,
    Whole,
    changed,
    check_spec,
    read_spec,
    spec_schema,
)
from tests.nas.fakes import LITTLE

RUN = {"kind": "run", "job": LITTLE}
SEARCH = {"kind": "search", "from": "j1", "set": {"search.evaluations": 20}, "devices": [{"name": "one"}]}
MEASURE = {"kind": "profile", "model": "u1", "device": {"name": "one"}, "shapes": {"input": [1, 3, 8, 8], "n": [2]}}
ALL = [RUN, {**RUN, "kind": "train", "priority": 5}, SEARCH, {"kind": "export", "from": "j1"}, MEASURE]


def job(**sections) -> dict:
    """A run whose job has these sections changed."""
    return {**RUN, "job": {**LITTLE, **sections}}


def complaint(document: object) -> str:
    with pytest.raises(JobError) as found:
        check_spec(document)
    message = str(found.value)
    assert "\n" not in message
    assert 0 < len(message) <= 500
    return message


def test_a_whole_job_is_read_as_a_job_file_is():
    spec = check_spec(RUN)
    assert spec.asked == Whole(job_from_json(LITTLE))
    assert (spec.kind, spec.priority, spec.parent, spec.uploads, spec.document) == ("run", 0, None, (), RUN)


def test_a_stage_of_an_earlier_job_changes_keys_and_devices():
    spec = check_spec({**SEARCH, "priority": -3})
    assert isinstance(spec.asked, Next)
    assert (spec.parent, spec.asked.changes, spec.priority) == ("j1", {"search.evaluations": 20}, -3)
    found = changed(job_from_json(LITTLE), spec.asked)
    assert (found.search.evaluations, [device.name for device in found.devices]) == (20, ["one"])
    assert found.train == job_from_json(LITTLE).train


def test_an_uploaded_model_is_measured_on_a_device():
    spec = check_spec({**MEASURE, "effort": {"budget_s": 5}})
    assert isinstance(spec.asked, Model)
    assert (spec.asked.upload, spec.asked.device.name, spec.uploads) == ("u1", "one", ("u1",))
    assert spec.asked.shapes == {"input": (1, 3, 8, 8), "n": (2,)}
    assert spec.asked.effort == Effort(budget_s=5)


@pytest.mark.parametrize("document", ALL)
def test_yaml_and_json_say_the_same(document):
    assert read_spec(yaml.safe_dump(document)) == read_spec(json.dumps(document)) == check_spec(document)


def test_uploads_are_named_in_the_place_of_paths():
    data = {**LITTLE["data"], "kind": "parquet", "path": "upload:u1", "test_path": "upload:u2"}
    assert check_spec(job(data=data)).uploads == ("u1", "u2")
    assert check_spec(job(data={**data, "path": "data:photos"})).uploads == ("u2",)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "wanted a mapping with kind and job"),
        ({}, "kind must be one of run, train, profile, search, export"),
        ({"kind": ["run"]}, "kind must be one of"),
        ({"kind": "run"}, "job: is required"),
        ({**RUN, "form": "j1"}, "form: unknown key"),
        ({**RUN, "prioriti": 3}, "prioriti: unknown key; did you mean 'priority'?"),
        ({**RUN, "priority": 101}, "priority: input should be less than or equal to 100"),
        ({**RUN, "priority": "high"}, "priority: input should be a valid integer"),
        (job(trian={}), "job.trian: unknown key; did you mean 'train'?"),
        (job(train={"epoch": 1}), "job.train.epoch: unknown key; did you mean 'epochs'?"),
        (job(space={"family": "none"}), "space.family must be one of"),
        (job(search={"evaluations": 1}), "job: search.evaluations must be from 4"),
        (job(search={"store": "x.sqlite"}), "job.search.store: evaluations are kept in the service's database"),
        (job(search={"ray_address": "x:1"}), "job.search.ray_address: the service has its own Ray"),
        (job(search={"warm_start": ["j2"]}), "job.search.warm_start: of a supernet that is not trained yet nothing is"),
        (
            job(train={"start": "/etc/net.safetensors"}),
            "job.train.start: names a file, which a job of the service cannot",
        ),
        (job(data={"kind": "folder", "path": "/etc"}), "job.data.kind: the service takes no 'folder'"),
        (job(data={"kind": "huggingface", "name": "mnist"}), "the service takes no 'huggingface'"),
        (job(data={"kind": "parquet", "path": "/etc/passwd"}), "job.data.path: '/etc/passwd' is no path here"),
        (job(data={"kind": "parquet", "path": "upload:"}), "job.data.path: 'upload:' is no path here"),
        (job(name="x" * 200), "job.name: has 200 characters"),
        (job(devices=[{"name": f"d{n}"} for n in range(17)]), "17 devices; 16 are the most"),
        (
            job(devices=[{"name": "a", "provider_options": {"cache": "/tmp/x"}}]),
            "provider_options.cache: paths are not",
        ),
        ({**SEARCH, "set": {"train.epochs": 2}}, "changes search.KEY or profile.KEY alone, not 'train.epochs'"),
        ({**SEARCH, "set": {"search": {}}}, "not 'search'"),
        (
            {"kind": "export", "from": "j1", "devices": [{"name": "a"}]},
            "devices: an export is for the devices that were",
        ),
        ({**SEARCH, "devices": [{"name": "A"}]}, "a device's name is of small letters"),
        ({**SEARCH, "from": None}, "from: input should be a valid string"),
        ({**MEASURE, "device": {"nme": "a"}}, "device.nme: unknown key; did you mean 'name'?"),
        ({**MEASURE, "shapes": {"x": [0]}}, "shapes.x: wanted whole numbers from 1"),
        ({**MEASURE, "shapes": {"x": [2**20, 2**20]}}, "shapes.x: wanted"),
        ({**MEASURE, "effort": {"budget_s": 1e9}}, "effort.budget_s must be from 0.1 to 3600"),
        ({**MEASURE, "from": "j1"}, "from: unknown key"),
        ({**RUN, "priority": math.nan}, "nan is no number here"),
        ({**RUN, "priority": 2**70}, "more than 64 bits"),
        (job(name="a\0b"), "characters that are no text"),
        (job(name="\ud800"), "characters that are no text"),
        (job(name="x" * 5000), "a text of 5000 characters"),
        ({1: 2}, "keys are texts; '1' is a int"),
        (job(seed=b"x"), "is a bytes; put it in quotes"),
        (job(space={"family": "tiny", "channels": [8] * 20_000}), "10000 values at most"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(document, words):
    assert words in complaint(document)


def test_changes_are_checked_as_the_job_file_is():
    for changes, words in (
        ({"search.evalutions": 8}, "search.evalutions: unknown key; did you mean 'evaluations'?"),
        ({"search.evaluations": "many"}, "search.evaluations: input should be a valid integer"),
        ({"search.store": "x"}, "job.search.store"),
    ):
        asked = check_spec({**SEARCH, "set": changes}).asked
        with pytest.raises(JobError) as found:
            changed(job_from_json(LITTLE), asked)
        assert words in str(found.value)


def test_aliases_that_grow_to_gigabytes_are_refused_before_they_grow():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    with pytest.raises(JobError, match=r"line 2: aliases \(\*a0\) are not taken"):
        read_spec("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("kind: [", "not valid YAML"),
        ("\0", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        ("[" * 100_000, "nested deeper than 20 levels"),
        ("a" * (MOST_BYTES + 1), "256 kB at most"),
        ("kind: run\njob: 2024-01-01", "is a date; put it in quotes"),
        ("x: " + "9" * 5000, "not valid YAML"),
        ("", "wanted a mapping"),
    ],
)
def test_hostile_yaml_is_refused_in_one_line(text, words):
    with pytest.raises(JobError) as found:
        read_spec(text)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_deep_json_is_refused_without_recursion():
    document: object = 1
    for _ in range(10_000):
        document = [document]
    assert complaint({"kind": "run", "job": document}) == f"nested deeper than {DEEPEST} levels"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["kind", "job", "from", "set", "devices", "device", "model", "shapes", "effort", "priority", "x"]
)
SECTIONS = st.sampled_from(["name", "data", "space", "train", "devices", "profile", "search", "export", "seed"])


@settings(max_examples=300)
@given(st.data())
def test_any_document_is_taken_or_refused_in_one_line(data):
    document = json.loads(json.dumps(data.draw(st.sampled_from(ALL))))
    document.update(data.draw(st.dictionaries(KEYS, PLAIN, max_size=2)))
    if isinstance(document.get("job"), dict):
        document["job"].update(data.draw(st.dictionaries(SECTIONS, PLAIN, max_size=2)))
    spec, refusal = None, ""
    try:
        spec = check_spec(document)
    except JobError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert spec is None or check_spec(json.loads(json.dumps(spec.document))) == spec


@settings(max_examples=200)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_taken_or_refused_in_one_line(text):
    with pytest.raises(JobError) as found:
        read_spec(text)
    assert "\n" not in str(found.value)


def test_the_schema_describes_every_form_and_refers_to_nothing_that_is_not_there():
    schema = spec_schema()
    text = json.dumps(schema)
    referred = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert referred <= schema["$defs"].keys()
    forms = [set(form["properties"]) for form in schema["anyOf"]]
    assert forms == [
        {"kind", "job", "priority"},
        {"kind", "from", "set", "devices", "priority"},
        {"kind", "model", "device", "shapes", "effort", "priority"},
    ]
    assert {"agent", "threads"} <= schema["$defs"]["Device"]["properties"].keys()
    assert schema["$defs"]["Job"]["properties"].keys() == set(Job.__dataclass_fields__)
