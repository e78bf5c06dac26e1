"""What agents and servers say to each other: read back as it was written, and anything else refused in one line."""

import copy
import dataclasses
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Round
from latency_tables.measuring.needs import NEEDS
from nas.agent import wire
from nas.agent.errors import AgentError
from nas.agent.reading import MAX_MESSAGE, read_json
from nas.agent.wire import About, GraphRef, Task, check_outcome, check_round, check_wire, error_json, joined, round_json
from tests.nas.agent.fakes import ABOUT, measurement

KEYS = ("a", "b")
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
EXTENTS = st.integers(1, 2**31 - 1)


def rounds(count: int, seed: int = 0) -> list[Round]:
    rng = random.Random(seed)
    return [Round((rng.uniform(1, 9), rng.uniform(1, 9)), 100.0, 1.0, steal=0.1) for _ in range(count)]


@st.composite
def graphs(draw) -> GraphRef:
    return GraphRef(
        draw(NAMES),
        draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        draw(st.integers(1, 2**31 - 1)),
        tuple(draw(st.dictionaries(NAMES, EXTENTS, max_size=3)).items()),
        tuple(
            (name, tuple(shape)) for name, shape in draw(st.dictionaries(NAMES, st.lists(EXTENTS, max_size=5))).items()
        ),
    )


@st.composite
def tasks(draw) -> Task:
    found = draw(st.lists(graphs(), min_size=1, max_size=3, unique_by=lambda graph: graph.key))
    earlier = {
        graph.key: measurement(graph.key, rounds(draw(st.integers(1, 3)))) for graph in found if draw(st.booleans())
    }
    protocol = Protocol(
        max_rounds=draw(st.integers(8, 100)),
        budget_s=draw(st.floats(0.1, 1e6) | st.just(math.inf)),
        seed=draw(st.integers(0, 9)),
    )
    needs = draw(st.lists(st.sampled_from(NEEDS), unique=True))
    device = Device("board", threads=2)
    return Task("t01", draw(st.integers(1, 99)), device, protocol, "f" * 12, tuple(found), earlier, tuple(needs))


def sent(document):
    return read_json(json.dumps(document).encode())


@given(tasks())
def test_a_task_is_read_as_it_was_written(task):
    assert Task.from_json(sent(task.to_json())) == task


def test_what_an_agent_says_of_itself_is_read_as_it_was_written():
    assert About.from_json(sent(ABOUT.to_json())) == ABOUT
    here = About.here()
    assert About.from_json(sent(here.to_json())) == here


def test_agents_of_version_1_are_understood_and_understand():
    """Which knew no needs: they say none, and refuse a task with a key that they do not know."""
    said = ABOUT.to_json()
    del said["offers"]["needs"]
    assert About.from_json(sent(said)) == dataclasses.replace(ABOUT, needs=())
    task = dataclasses.replace(TASK, needs=())
    known = {"id", "epoch", "measuring", "device", "settings", "fingerprint", "graphs", "earlier"}
    assert task.to_json().keys() == known
    assert Task.from_json(sent(task.to_json())) == task
    check_wire({"wire": 1})


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(document, at=()):
    yield at
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, inner in items:
        yield from places(inner, (*at, key))


def damaged(data, document):
    """The document with junk in one place, or without it."""
    document = copy.deepcopy(document)
    *way, last = data.draw(st.sampled_from([place for place in places(document) if place]))
    inner = document
    for key in way:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(JUNK)
    else:
        del inner[last]
    return document


ROUND = round_json(3, 7, 80, {"a": measurement("a", rounds(4)), "b": measurement("b", rounds(2))}, {"a": 3})
OUTCOME = sent({"measured": {key: measurement(key, rounds(2)).to_json() for key in KEYS}})
TASK = Task(
    "t01",
    1,
    Device("board"),
    Protocol(),
    "f" * 12,
    (GraphRef("a", "0" * 64, 5),),
    {"a": measurement("a", rounds(2))},
    NEEDS,
)
READERS = {
    "task": (TASK.to_json(), Task.from_json),
    "about": (ABOUT.to_json(), About.from_json),
    "round": (ROUND, lambda document: check_round(document, KEYS)),
    "outcome": (OUTCOME, lambda document: check_outcome(document, KEYS)),
    "error": ({"error": error_json("user", "no")}, lambda document: check_outcome(document, KEYS)),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(data=st.data())
def test_damaged_documents_are_refused_in_one_line_or_mean_something(name, data):
    document, read = READERS[name]
    read(sent(document))
    complaint = complaint_of(read, damaged(data, json.loads(json.dumps(document))))
    assert "\n" not in complaint
    assert len(complaint) <= 2 * MAX_MESSAGE


def complaint_of(read, document) -> str:
    """Empty where it could be read."""
    try:
        read(document)
    except AgentError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("body", [b"", b"[", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(AgentError):
        read_json(body)


def test_rounds_join_to_what_was_measured():
    full = {key: measurement(key, rounds(5, seed)) for seed, key in enumerate(KEYS)}
    known, written = {}, {}
    for n in (1, 2, 4, 5):
        found = {key: measurement(key, each.rounds[:n]) for key, each in full.items()}
        document = sent(round_json(n, n, 80, found, written))
        check_round(document, KEYS)
        known.update(joined(known, document["measured"]))
        written = dict.fromkeys(KEYS, n)
    assert known == full


def test_a_round_after_one_that_is_missing_is_refused():
    with pytest.raises(AgentError, match="a has 2 rounds before it, not 3"):
        joined({"a": measurement("a", rounds(2)), "b": measurement("b", rounds(1))}, ROUND["measured"])


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"wire": wire.OLDEST - 1}, "this agent is too old"),
        ({"wire": wire.WIRE + 1}, "this server is too old for the agent"),
        ({"wire": "1"}, "the version of the language"),
        ([], "the version of the language"),
    ],
)
def test_another_version_is_told_apart_in_one_line(said, complaint):
    check_wire({"wire": wire.WIRE})
    with pytest.raises(AgentError, match=complaint):
        check_wire(said)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"measuring": 1}, "measures by version 1 of the protocol"),
        ({"graphs": []}, "one graph or more"),
        ({"graphs": TASK.to_json()["graphs"] * 2}, "a key of its own"),
        ({"graphs": [{**TASK.to_json()["graphs"][0], "size_bytes": 2**31}]}, "size_bytes"),
        ({"graphs": [{**TASK.to_json()["graphs"][0], "sha256": "../../etc/passwd"}]}, "64 hexadecimal digits"),
        ({"earlier": {"z": TASK.to_json()["earlier"]["a"]}}, "no graph 'z'"),
        ({"device": {"name": "../x"}}, "a device's name"),
        ({"id": "../x"}, "an id is"),
        ({"needs": ["energy", "energy"]}, "needs: wanted some of footprint, energy, not"),
        ({"needs": ["sleep"]}, "needs: wanted some of footprint, energy, not"),
        ({"needs": "energy"}, "needs: wanted a list"),
    ],
)
def test_a_task_that_asks_for_too_much_is_refused(change, complaint):
    with pytest.raises(AgentError, match=complaint):
        Task.from_json(sent({**TASK.to_json(), **change}))


def test_an_outcome_lacks_no_graph():
    with pytest.raises(AgentError, match="graph 'b' was not measured"):
        check_outcome({"measured": {"a": OUTCOME["measured"]["a"]}}, KEYS)
