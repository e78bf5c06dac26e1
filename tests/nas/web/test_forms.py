"""The form of a submission: made from the schema, it shows and reads every job that the service takes."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.job import ExportSettings, SearchSettings, job_from_json, job_to_json
from nas.service.specs import check_spec
from nas.web.drafts import HIDDEN, USUAL, example, new_form, next_form
from nas.web.forms import Field, fault_places, value_at
from nas.web.rendering import yaml_text
from nas.web.schema_help import help_of

OPTIONAL = {
    "search.population": st.integers(4, 100_000),
    "search.evaluations": st.integers(4, 10_000_000),
    "search.patience": st.integers(1, 10**6),
    "search.sampler": st.sampled_from(["guided", "nsga2", "random"]),
    "search.controls": st.booleans(),
    "search.constraints": st.lists(
        st.sampled_from(["macs <= 20M", "latency_ms <= 5", "latency_ms <= 5 with 90%"]), unique=True
    ),
    "export.picks": st.lists(st.sampled_from(["fastest", "knee", "most-accurate"]), min_size=1, unique=True),
    "train.epochs": st.integers(1, 1000),
    "train.learning_rate": st.floats(1e-6, 10.0),
    "train.augment.mirror": st.booleans(),
    "profile.precision": st.floats(1e-4, 1.0),
    "devices": st.lists(st.sampled_from(["pi", "pc"]), unique=True, min_size=1).map(
        lambda names: [{"name": name} for name in names]
    ),
    "space.kernels": st.sampled_from([[1], [1, 3], [3, 5]]),
    "data.channels": st.sampled_from([1, 3]),
    "seed": st.integers(0, 2**32 - 1),
}
drafts = st.fixed_dictionaries({}, optional=OPTIONAL)


def document_of(changes) -> dict:
    job = example()["job"]
    for path, value in changes.items():
        *parts, leaf = path.split(".")
        inner = job
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    return job


def posted(form, draft) -> dict[str, str]:
    values = form.values(draft)
    return {field.path: field.shown(value_at(values, field.path)) for field in form.fields}


@settings(max_examples=30, deadline=None)
@given(drafts)
def test_what_the_form_shows_it_reads_back(changes) -> None:
    form, draft = new_form("run"), {"kind": "run", "job": document_of(changes)}
    again, faults = form.draft(posted(form, draft))
    assert faults == []
    assert check_spec(again).asked == check_spec(draft).asked
    assert check_spec(yaml.safe_load(yaml_text(again))).asked == check_spec(draft).asked


@settings(max_examples=20, deadline=None)
@given(drafts, drafts)
def test_the_form_of_a_stage_says_what_differs_from_the_job_before_and_nothing_else(before, after) -> None:
    base = job_to_json(job_from_json(document_of(before)))
    wanted = job_to_json(job_from_json(document_of(after)))
    form = next_form("search", "j0", "before", base)
    same, faults = form.draft(posted(form, {"kind": "search", "from": "j0"}))
    assert (same, faults) == ({"kind": "search", "from": "j0"}, [])
    target = {"kind": "search", "from": "j0", "set": {
        f"{section}.{key}": wanted[section].get(key)
        for section in ("search", "profile")
        for key in {*wanted[section], *base[section]}
        if wanted[section].get(key) != base[section].get(key)
    }}  # fmt: skip
    found, faults = form.draft(posted(form, target))
    assert faults == []
    assert found.get("set", {}) == target["set"]


def test_every_key_of_a_job_has_its_field() -> None:
    paths = {field.path for field in new_form("run").fields}
    document = job_to_json(job_from_json(example()["job"]))
    keys = {f"{name}.{key}" for name in ("data", "train", "profile", "search", "export") for key in document[name]}
    missing = keys - paths - {"train.augment"} - set(HIDDEN)
    assert missing == set()
    assert set(USUAL) <= paths


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("job: search.evaluations must be from 4 to 10,000,000, not 1", "search.evaluations"),
        ("job.data.kind: the service takes no 'folder'", "data.kind"),
        ("job: space: kernels must be odd, not [2]", "space.settings"),
        ("set.search.seeds: input should be a valid integer", "search.seeds"),
        ("train.epochs: must be a number, not 'x'", "train.epochs"),
        ("job.name: is required", "name"),
    ],
)
def test_a_fault_stands_at_the_field_that_it_names(fault, path) -> None:
    placed, others = fault_places([fault], new_form("run").fields)
    assert list(placed) == [path]
    assert others == []


def test_a_fault_of_no_field_stands_above_the_form() -> None:
    placed, others = fault_places(
        ["you have 1,000 jobs waiting", "kind must be one of run, train"], new_form("run").fields
    )
    assert placed == {}
    assert len(others) == 2


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("train.epochs", "many"),
        ("devices", "[{"),
        ("devices", "[&a [x], *a]"),
        ("devices", "[" * 5000),
        ("search.constraints", "x" * 20_000),
        ("priority", "--5"),
    ],
)
def test_a_text_that_is_no_value_is_refused_by_its_path(path, text) -> None:
    _, faults = new_form("run").draft({path: text})
    assert [fault.partition(":")[0] for fault in faults] == [path]


@given(
    st.dictionaries(
        st.sampled_from([field.path for field in new_form("run").fields] + ["priority"]), st.text(max_size=80)
    )
)
def test_whatever_is_posted_is_a_draft_or_a_fault(posted) -> None:
    draft, faults = new_form("run").draft(posted)
    assert draft["kind"] == "run"
    assert all(isinstance(fault, str) for fault in faults)
    assert isinstance(yaml_text(draft), str)


def test_help_comes_from_the_docstrings() -> None:
    assert help_of(ExportSettings)["picks"].startswith("Of each device's front")
    assert help_of(SearchSettings)["patience"] == "Generations without growth that end a search."
    assert Field("search.warm_up", "text").label == "warm up"
