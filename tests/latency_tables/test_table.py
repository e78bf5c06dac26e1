"""Table files: what is written comes back, and nothing else is read."""

import json
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_tables import Device, Entry, LatencyError, LatencyTable, TableError, load
from latency_tables.table import journal_entry
from search_spaces import canonical_json, define_space
from tests.latency_tables.fakes import HERE, measurement, table, tiny_space

SPACE = tiny_space()
ARCHS = SPACE.decode(np.unique(SPACE.sample(np.random.default_rng(0), 20), axis=0))
in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

entries = st.lists(st.sampled_from(ARCHS), unique=True, max_size=4).flatmap(
    lambda archs: st.tuples(
        *(
            st.builds(
                lambda arch, rounds, load_average: Entry(
                    arch,
                    measurement(arch.id, samples_us=rounds, load_average=load_average),
                ),
                st.just(arch),
                st.lists(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=4), min_size=1, max_size=3),
                st.none() | st.floats(0, 100),
            )
            for arch in archs
        )
    )
)


@pytest.fixture
def path(tmp_path):
    """A table's file."""
    table(SPACE, ARCHS[:3]).save(tmp_path / "cpu.json")
    return tmp_path / "cpu.json"


def rewritten(path, change):
    """The file with its document changed, and a digest that fits."""
    document = json.loads(path.read_text())
    del document["digest"]
    change(document)
    path.write_text(json.dumps({**document, "digest": sha256(canonical_json(document).encode()).hexdigest()}))
    return path


@in_tmp
@given(entries)
def test_a_table_equals_its_own_file(tmp_path, rows):
    written = LatencyTable(SPACE, Device("pi4", threads=4), HERE, 1, rows, 12.5 if rows else None)
    written.save(tmp_path / "table.json")
    assert load(tmp_path / "table.json", space=SPACE, device=written.device, protocol=1) == written


@in_tmp
@given(st.data())
def test_a_file_with_one_character_changed_is_refused_or_says_the_same(path, data):
    text = path.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = path.with_name("changed.json")
    changed.write_text(text[:at] + data.draw(st.sampled_from('0159."{}[],: ne-')) + text[at + 1 :])
    try:
        found = load(changed)
    except TableError:
        return
    assert found == load(path)


@in_tmp
@given(st.data())
def test_a_file_that_was_cut_off_is_refused(path, data):
    text = path.read_text()
    cut = path.with_name("cut.json")
    cut.write_text(text[: data.draw(st.integers(0, len(text) - 2))])
    with pytest.raises(TableError, match=r"cut\.json"):
        load(cut)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="nas.latency_table/9"), "format: wanted 'nas.latency_table/2', found"),
        (lambda d: d.pop("format"), "format: wanted .* found None"),
        (lambda d: d.update(protocol="1"), "protocol: wanted int, found str"),
        (lambda d: d.update(peak_gmacs_per_s="1"), "peak_gmacs_per_s: wanted a number, found str"),
        (lambda d: d.update(peak_gmacs_per_s=0), "peak_gmacs_per_s: wanted a positive number, found 0"),
        (lambda d: d.pop("space"), "space: wanted dict, found NoneType"),
        (lambda d: d["space"].update(family="none"), "belongs to space|entries"),
        (lambda d: d["device"].update(threads=0), "device cpu.*: threads|device fake: threads"),
        (lambda d: d["device"].update(color="red"), "device: unknown field 'color'"),
        (lambda d: d["fingerprint"].pop("cpu"), "fingerprint: no field 'cpu'"),
        (lambda d: d.update(entries={}), "entries: wanted list"),
        (lambda d: d["entries"].append(3), r"entries\[3\]: wanted an object"),
        (lambda d: d["entries"].append(d["entries"][0]), "stands twice"),
        (lambda d: d["entries"][1]["choices"].update(nothing=1), r"entries\[1\]: the space has no choice"),
        (lambda d: d["entries"][1]["measurement"].update(key="x"), r"entries\[1\]: the measurement x is not of"),
        (
            lambda d: d["entries"][2]["measurement"]["rounds"]["samples_us"][0].append(0),
            r"entries\[2\]: .*positive number",
        ),
        (
            lambda d: d["entries"][2]["measurement"]["rounds"]["samples_us"][0].append(-1.5),
            r"entries\[2\]: .*positive number",
        ),
        (
            lambda d: d["entries"][2]["measurement"]["rounds"]["samples_us"][0].append("1"),
            r"entries\[2\]: .*wanted a number",
        ),
    ],
)
def test_a_document_that_is_no_table_is_refused_by_file_and_field(path, change, message):
    with pytest.raises(TableError, match=message) as caught:
        load(rewritten(path, change))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_time_that_is_nan_is_refused(path):
    text = path.read_text()
    path.write_text(text.replace("[[", "[[NaN,", 1))
    with pytest.raises(TableError, match="NaN or infinite"):
        load(path)


def test_an_edited_file_is_refused(path):
    path.write_text(path.read_text().replace('"priority":""', '"priority":"nice 0"', 1))
    with pytest.raises(TableError, match="digest: the content was changed"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b"3", b'{"a":', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(TableError, match=r"x\.json: "):
        load(tmp_path / "x.json")


def test_a_table_of_something_else_is_refused(path):
    with pytest.raises(TableError, match="space: the table is of space"):
        load(path, space=define_space("tiny"))
    with pytest.raises(TableError, match="device: the table is of fake"):
        load(path, device=Device("jetson"))
    with pytest.raises(TableError, match="protocol: measured by version 1, wanted 2"):
        load(path, protocol=2)
    with pytest.raises(TableError, match=r"nowhere\.json: cannot be read"):
        load(path.with_name("nowhere.json"))


def test_a_full_disk_leaves_the_file_that_was_there(path):
    """The file size limit stands in for the disk."""
    before = path.read_bytes()
    script = (
        "import resource, sys; from latency_tables import load\n"
        "table = load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "table.save(sys.argv[1])"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert "cannot be written: File too large" in ran.stderr
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_named(path):
    with pytest.raises(LatencyError, match="cannot be written"):
        load(path).save(path / "below" / "table.json")


def test_codes_and_latencies_stand_in_the_order_of_the_entries(path):
    found = load(path)
    assert SPACE.decode(found.codes()) == ARCHS[:3]
    np.testing.assert_allclose(found.latency_ms() * 1e3, [e.measurement.median_us for e in found.entries])
    assert found.noise_floor == 0


def test_measured_again_replaces_and_measured_first_adds():
    before = table(SPACE, ARCHS[:2])
    after = before.with_measured(ARCHS[:3], {arch.id: measurement(arch.id, 7.0) for arch in (ARCHS[0], ARCHS[2])})
    assert [entry.arch for entry in after.entries] == ARCHS[:3]
    assert [entry.measurement.median_us == 7.0 for entry in after.entries] == [True, False, True]


def test_an_architecture_of_another_space_is_refused():
    other = define_space("tiny").smallest()
    with pytest.raises(TableError, match="is of space"):
        LatencyTable(SPACE, Device("a"), HERE, 1, (Entry(other, measurement(other.id)),))


# The journal


def with_rounds(path, seen: int):
    """A table with one network measured `seen` rounds, written round by round; what it should read as after each."""
    base = table(SPACE, ARCHS[:1])
    journal = base.save(path)
    states = [base]
    for count in range(1, seen + 1):
        found = measurement(ARCHS[1].id, rounds=count, ended="interrupted" if count < seen else "precision")
        journal.append([journal_entry(ARCHS[1], found, count - 1)])
        states.append(base.with_measured([ARCHS[1]], {ARCHS[1].id: found}))
    return journal, states


def test_rounds_in_the_journal_are_read_with_the_table(tmp_path):
    _, states = with_rounds(tmp_path / "t.json", 5)
    assert load(tmp_path / "t.json") == states[-1]


@in_tmp
@given(st.data())
def test_a_journal_that_was_cut_off_reads_as_the_rounds_before(tmp_path, data):
    journal, states = with_rounds(tmp_path / "t.json", 4)
    text = journal.path.read_text()
    cut = data.draw(st.integers(0, len(text)))
    journal.path.write_text(text[:cut])
    assert load(tmp_path / "t.json") == states[max(0, text[:cut].count("\n") - 1)]


@in_tmp
@given(st.data())
def test_a_journal_with_one_character_changed_is_refused_or_says_less(tmp_path, data):
    journal, states = with_rounds(tmp_path / "t.json", 3)
    text = journal.path.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    journal.path.write_text(text[:at] + data.draw(st.sampled_from('059a."{}[],: \ne-')) + text[at + 1 :])
    try:
        found = load(tmp_path / "t.json")
    except TableError:
        return
    assert found in states


def test_a_journal_of_the_table_before_is_not_read(tmp_path):
    journal, _ = with_rounds(tmp_path / "t.json", 3)
    stale = journal.path.read_text()
    changed = table(SPACE, ARCHS[:2])
    changed.save(tmp_path / "t.json")
    assert not journal.path.exists()
    journal.path.write_text(stale)
    assert load(tmp_path / "t.json") == changed


def test_saving_a_table_ends_its_journal(tmp_path):
    journal, states = with_rounds(tmp_path / "t.json", 3)
    load(tmp_path / "t.json").save(tmp_path / "t.json")
    assert not journal.path.exists()
    assert load(tmp_path / "t.json") == states[-1]


def test_a_table_of_the_first_format_is_read(tmp_path):
    """As version 1 wrote it."""
    times = {"rounds_us": [[10.0, 11.0], [12.0]], "canary_us": [100.0, 100.0], "cpu_shares": [1.0, 0.9]}
    facts = {"key": ARCHS[0].id, "reference_us": 99.0, "spinning": False, "load_average": None, "rejected_rounds": 3}
    first = {"converged": True, "disturbed": False, **times, **facts}
    document = {**table(SPACE, []).to_json(), "format": "nas.latency_table/1", "protocol": 1}
    document["entries"] = [{"choices": ARCHS[0].to_json()["choices"], "measurement": first}]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**document, "digest": sha256(canonical_json(document).encode()).hexdigest()}))
    (entry,) = load(path).entries
    assert (entry.measurement.median_us, entry.measurement.converged, entry.measurement.disturbed) == (
        11.0,
        True,
        False,
    )


def test_entries_measured_while_the_machine_was_another_are_named():
    found = table(SPACE, ARCHS[:3]).with_measured(
        [ARCHS[3]], {ARCHS[3].id: measurement(ARCHS[3].id, reference_us=125.0)}
    )
    assert found.canary_us == 100.0
    assert [entry.arch for entry in found.shifted] == [ARCHS[3]]
    assert found.shift(found.entries[3].measurement) == pytest.approx(0.25)
    assert table(SPACE, []).canary_us is None
