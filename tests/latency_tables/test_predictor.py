"""Files of predictors: every kind, golden files, and whatever can be wrong with them."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables import LatencyError, load_predictor
from latency_tables.predicting.blend import Blend
from latency_tables.predicting.conformal import Conformal
from latency_tables.predicting.documents import PREDICTOR_FORMAT, write_document
from latency_tables.predicting.learned import LearnedPredictor
from latency_tables.predicting.predictor import PREDICTORS, predictor_from_json
from latency_tables.predicting.select import BLEND, KINDS
from tests.latency_tables.latencies import MOBILE, SPACE, latencies, planned

GOLDEN = sorted((Path(__file__).parent / "golden").glob("predictor_*.json"))
relaxed = settings(deadline=None, max_examples=60)
SCORES = Conformal(np.array([-0.04, -0.02, -0.01, 0.0, 0.005, 0.01, 0.03, 0.05]))


@cache
def predictor_of(kind):
    """A small one of each kind with the same scores."""
    codes = planned(n=16)
    if kind == BLEND:
        return Blend(SPACE, (predictor_of("additive"), predictor_of("gp")), np.array([0.75, 0.25]), SCORES)
    return KINDS[kind](SPACE, codes, latencies(SPACE, codes)).with_conformal(SCORES)


def written(document, path):
    """The document as a file with a digest that is right, so that what is refused is the content."""
    try:
        write_document(path, document)
    except ValueError:  # we never write NaN
        path.write_text(json.dumps(document))


def test_every_kind_that_select_knows_can_be_read():
    assert [*KINDS, BLEND] == list(PREDICTORS)[: len(KINDS) + 1]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_file_written_by_an_earlier_version_predicts_what_it_predicted(path, tmp_path):
    golden = json.loads(path.read_bytes())
    (tmp_path / "p.json").write_text(golden["file"])
    predictor, codes = load_predictor(tmp_path / "p.json"), np.array(golden["codes"], dtype=np.int16)
    np.testing.assert_allclose(predictor.predict(codes), golden["predicted_ms"], rtol=1e-6)
    low, high = predictor.interval(codes, 0.7)
    np.testing.assert_allclose([low, high, predictor.upper(codes, 0.8)], golden["bounds_ms"], rtol=1e-6)


def test_every_kind_has_a_golden_file():
    assert {path.stem for path in GOLDEN} == {f"predictor_{kind}" for kind in PREDICTORS}


# What is refused


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("additive", lambda d: d.update(format="nas.latency_predictor/1"), "format: wanted .*; make the file anew"),
        ("additive", lambda d: d.update(kind="oracle"), "kind: wanted one of additive, .*, found 'oracle'"),
        ("additive", lambda d: d.update(kind=["additive"]), "kind: wanted"),
        ("additive", lambda d: d.update(space={}), "space: not a space definition"),
        ("additive", lambda d: d.pop("tables_ms"), "tables_ms: missing"),
        ("additive", lambda d: d["tables_ms"].pop(), "tables_ms: wanted a list of"),
        ("additive", lambda d: d["tables_ms"][0].append(1.0), r"tables_ms\[0\]: wanted 1 numbers, found 2"),
        ("additive", lambda d: d["tables_ms"].__setitem__(1, [[1.0], [2.0, 3.0]]), r"tables_ms\[1\]: .* unequal"),
        ("additive", lambda d: d.update(constant_ms=-1.0), "constant_ms: wanted finite numbers of 0 or more, found -1"),
        ("additive", lambda d: d.update(constant_ms="1"), "constant_ms: wanted numbers, found '1'"),
        ("additive", lambda d: d.update(constant_ms=float("nan")), "constant_ms: wanted finite .*, found nan"),
        ("additive", lambda d: d.update(scores=[0.1, float("inf")]), "scores: wanted finite numbers, found inf"),
        ("additive", lambda d: d.update(scores=[0.1, 0.0]), "scores: wanted numbers in ascending order"),
        ("additive", lambda d: d.update(scores=None), "scores: wanted numbers, found None"),
        ("ridge", lambda d: d.pop("model"), "model: missing"),
        ("ridge", lambda d: d.update(model=[]), "model: wanted an object, found list"),
        (
            "ridge",
            lambda d: d["feature_names"].reverse(),
            "feature_names: wanted macs.dense, .*; fit the predictor anew",
        ),
        ("ridge", lambda d: d["model"]["coefficients"].pop(), "model: coefficients: wanted .* numbers, found"),
        ("gp", lambda d: d["model"].update(noise=0.0), "model: noise: wanted finite numbers of 1e-12 or more, found 0"),
        ("gp", lambda d: d["model"]["log_latency"].pop(), "model: log_latency: wanted 16 numbers, found 15"),
        ("gp", lambda d: d["model"].update(inputs=[]), "model: inputs: wanted any x .* numbers, found 0"),
        ("trees", lambda d: d["model"]["features"][0].__setitem__(0, 999), "model: features: wanted .* whole numbers"),
        ("trees", lambda d: d["model"]["features"][0].__setitem__(0, 0.5), "model: features: wanted .* whole numbers"),
        ("trees", lambda d: d["model"]["leaves"].pop(), "model: leaves: wanted 150 x 8 numbers, found 149 x 8"),
        ("trees", lambda d: d["model"].update(ridge=3), "model: ridge: wanted an object"),
        ("blend", lambda d: d.update(members=[]), "members: wanted a list of at least one predictor"),
        ("blend", lambda d: d.update(members=[1]), r"members\[0\]: wanted a JSON object, found int"),
        ("blend", lambda d: d["weights"].pop(), "weights: wanted 2 numbers, found 1"),
        ("blend", lambda d: d["weights"].__setitem__(0, -0.1), "weights: wanted finite numbers of 0 or more"),
        ("blend", lambda d: d["members"][1].update(kind="?"), r"members\[1\]: kind: wanted"),
        ("blend", lambda d: d["members"][1]["model"].pop("mean"), r"members\[1\]: model: mean: missing"),
    ],
)
def test_a_file_that_is_no_predictor_is_refused_by_its_field(tmp_path, kind, change, message):
    document = copy.deepcopy(predictor_of(kind).to_json())
    change(document)
    written(document, tmp_path / "p.json")
    with pytest.raises(LatencyError, match=message) as caught:
        load_predictor(tmp_path / "p.json")
    assert str(caught.value).startswith(f"{tmp_path / 'p.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_predictor_of_another_space_or_no_file_is_refused(tmp_path):
    predictor_of("additive").save(tmp_path / "p.json")
    with pytest.raises(LatencyError, match=r"p\.json: space: the predictor is of .*; fit one for it"):
        load_predictor(tmp_path / "p.json", space=MOBILE)
    with pytest.raises(LatencyError, match="cannot be read"):
        load_predictor(tmp_path / "q.json")
    for content in (b"\xff", b"", b"[]", b"[" * 100_000):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(LatencyError, match=r"r\.json: (not a whole JSON document|wanted a JSON object)"):
            load_predictor(tmp_path / "r.json")


def test_members_of_another_space_are_refused():
    codes = planned(MOBILE, 16)
    stranger = LearnedPredictor.fit(MOBILE, codes, latencies(MOBILE, codes), "ridge")
    mixed = Blend(SPACE, (predictor_of("additive"), stranger), np.array([0.5, 0.5]), SCORES)
    with pytest.raises(LatencyError, match=rf"members\[1\]: space: wanted {SPACE.id}, found {MOBILE.id}"):
        predictor_from_json(mixed.to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of every kind; Hypothesis and a folder for each test do not go together."""
    found = tmp_path_factory.mktemp("predictors")
    for kind in (*KINDS, BLEND):
        predictor_of(kind).save(found / f"{kind}.json")
    return found


@relaxed
@given(st.sampled_from([*KINDS, BLEND]), st.data())
def test_a_truncated_file_is_refused(folder, kind, data):
    raw = (folder / f"{kind}.json").read_bytes()
    (folder / "cut.json").write_bytes(raw[: data.draw(st.integers(0, len(raw) - 2))])
    with pytest.raises(LatencyError, match=r"cut\.json: "):
        load_predictor(folder / "cut.json")


@relaxed
@given(st.sampled_from([*KINDS, BLEND]), st.data())
def test_an_edited_file_is_refused(folder, kind, data):
    """Any one character, of the content or of the digest."""
    raw = (folder / f"{kind}.json").read_text()
    place = data.draw(st.integers(0, len(raw) - 2))
    new = data.draw(st.sampled_from([c for c in '0123456789.-e"{}[],:ax ' if c != raw[place]]))
    edited = raw[:place] + new + raw[place + 1 :]
    (folder / "edit.json").write_text(edited)
    if readable(edited) == json.loads(raw):  # as 1e-05 and 1E-05, or a space between
        load_predictor(folder / "edit.json")
        return
    with pytest.raises(LatencyError, match=r"edit\.json: ") as caught:
        load_predictor(folder / "edit.json")
    assert "\n" not in str(caught.value)


def readable(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


@relaxed
@given(st.sampled_from([*KINDS, BLEND]), st.data())
def test_a_number_that_is_none_is_refused_by_its_field(folder, kind, data):
    """NaN or infinity in the place of any number of the predictor itself; the file names the field."""
    document = copy.deepcopy(predictor_of(kind).to_json())
    holder, key, field = data.draw(st.sampled_from(list(numbers(document, ""))))
    holder[key] = data.draw(st.sampled_from([float("nan"), float("inf"), None, "7", [1.0]]))
    written(document, folder / "nan.json")
    with pytest.raises(LatencyError) as caught:
        load_predictor(folder / "nan.json")
    assert field in str(caught.value)


def numbers(node, field):
    """(holder, key, name of the field) of every number in a document, spaces left out."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        name = key if isinstance(key, str) else field
        if isinstance(value, dict | list) and key != "space":
            yield from numbers(value, name)
        elif isinstance(value, float):
            yield node, key, name


def test_the_format_is_the_one_that_is_documented():
    assert PREDICTOR_FORMAT == "nas.latency_predictor/2"
