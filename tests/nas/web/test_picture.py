"""A search as it is drawn: the same whether it is told once or twice, and the result in place of what was seen on the way."""

from hypothesis import given
from hypothesis import strategies as st

from nas.service.events import Event
from nas.web.picture import front_of, front_rows, picture_of
from tests.nas.web.house import point, searched

points = st.builds(
    lambda arch, accuracy, ms: {"arch_id": str(arch), "accuracy": accuracy, "latency_ms": ms},
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.floats(0.01, 100),
)


def events(*news) -> list[Event]:
    return [Event("j", seq, 0.0, kind, data) for seq, (kind, data) in enumerate(news, start=1)]


def volume(evaluations: int, worth: float, seed: int = 0):
    return "volume", {"device": "pi", "seed": seed, "evaluations": evaluations, "hypervolume": worth}


@given(st.lists(points, max_size=30))
def test_a_front_holds_what_nothing_beats_and_nothing_else(found) -> None:
    front = front_of(found)

    def beats(one, other) -> bool:
        as_good = one["accuracy"] >= other["accuracy"] and one["latency_ms"] <= other["latency_ms"]
        return as_good and (one["accuracy"], one["latency_ms"]) != (other["accuracy"], other["latency_ms"])

    assert all(not beats(other, one) for one in front for other in found)
    assert all(
        any((one["accuracy"], one["latency_ms"]) == (kept["accuracy"], kept["latency_ms"]) for kept in front)
        for one in found
        if not any(beats(other, one) for other in found)
    )
    assert front == sorted(front, key=lambda one: one["latency_ms"])


def test_what_is_told_twice_is_drawn_once() -> None:
    once = (
        point("pi", 1, 0.9, 4.0),
        point("pc", 2, 0.8, 1.0),
        volume(10, 0.5),
        volume(10, 0.6, seed=1),
        volume(20, 0.7),
    )
    assert picture_of(events(*once), None, None) == picture_of(events(*once, *once), None, None)
    drawn = picture_of(events(*once), None, None)
    assert drawn["devices"] == ["pi", "pc"]
    assert drawn["volumes"]["pi"] == {"0": [[10, 0.5], [20, 0.7]], "1": [[10, 0.6]]}


def test_the_result_takes_the_place_of_the_front_seen_on_the_way_and_brings_the_controls() -> None:
    seen = events(point("pi", 1, 0.99, 0.1), volume(10, 0.5))
    drawn = picture_of(seen, searched("pi"), None)
    assert [row["arch_id"] for row in front_rows(drawn)[0]["rows"]] == ["best0", "best1", "best2"]
    assert "arch0001" in drawn["points"]["pi"]
    assert drawn["volumes"]["pi"]["7"][-1] == [40, 0.8]
    assert drawn["random"]["pi"] == [[[10, 0.175], [20, 0.35], [40, 0.7]]]
    assert drawn["uniform"] == {"pi": 0.6}


def test_an_export_measures_what_the_search_predicted() -> None:
    found = searched("pi")
    exported = {"devices": [{"name": "pi", "front": [dict(row) for row in found["devices"][0]["front"]]}]}
    for row in found["devices"][0]["front"]:
        row["latency_ms_measured"] = None
    assert picture_of([], found, None)["measured"] == {"pi": {}}
    assert picture_of([], found, exported)["measured"]["pi"]["best2"] == 2.6


def test_without_any_event_there_is_nothing_to_draw() -> None:
    assert front_rows(picture_of([], None, None)) == []
