"""Architectures as pictures: one box a slot, and one line a network."""

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.diagram import blocks, box_height, box_width, choice_axes, diagram, parallel_plot
from search_spaces import arch_cost, network, slots
from tests.nas.made_up_run import EVIL, example
from tests.search_spaces.spaces import families

FAMILIES = families()


class Drawing(HTMLParser):
    """The boxes of a drawing and the texts in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.boxes: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        if tag == "rect":
            self.boxes.append(dict(attrs))

    def handle_data(self, data) -> None:
        self.text += data + "\n"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_drawing_has_a_box_for_each_slot_and_an_outline_for_each_that_is_skipped(name, seed):
    space = FAMILIES[name]
    (arch,) = space.decode(space.sample(np.random.default_rng(seed), 1))
    found = blocks(space, arch)
    assert [block["name"] for block in found] == [slot.name for slot in slots(space)]
    layers = network(space, arch)
    assert sum(block["layers"] for block in found) == len(layers)
    assert sum(block["macs"] for block in found) == arch_cost(space, arch).macs
    assert found[-1]["channels"] == layers[-1].out_shape[0]
    drawn = Drawing(diagram("x", "title", found))
    assert len(drawn.boxes) == len(found)
    skipped = [box.get("class") == "skipped" for box in drawn.boxes]
    assert skipped == [block["layers"] == 0 for block in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_boxes_tell_their_own_choices_and_sizes(name):
    space = FAMILIES[name]
    arch = space.largest()
    found = blocks(space, arch)
    chosen = {f"{block['name']}.{kind}": value for block in found for kind, value in block["choices"].items()}
    assert chosen.items() <= arch.values.items()
    own = {key for key in arch.values if any(key.startswith(f"{block['name']}.") for block in found)}
    assert own == chosen.keys()
    assert own >= {key for key in arch.values if key.count(".") == 2}
    text = Drawing(diagram("x", "title", found)).text
    block = next(block for block in found if block["choices"])
    assert f"{block['name']}: channels {block['channels']}, size px {block['size_px']}, MACs" in text


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=2, unique=True))
def test_a_box_is_wider_with_more_channels_and_higher_with_more_pixels(sizes):
    less, more = sorted(sizes)
    assert 0 < box_width(less) <= box_width(more)
    assert box_width(less) < box_width(more) or less <= 8
    assert 0 < box_height(less) < box_height(more)


def test_a_drawing_names_itself_and_lets_no_name_out():
    found = [{"name": EVIL, "layers": 1, "channels": 8, "size_px": 4, "macs": 10, "choices": {EVIL: EVIL}}]
    html = diagram("x", EVIL, found)
    assert "<script" not in html
    drawn = Drawing(html)
    assert drawn.tags <= {"div", "svg", "title", "desc", "text", "line", "g", "rect"}
    for part in ('role="img"', 'aria-labelledby="x-title"', 'aria-describedby="x-desc"', '<title id="x-title">'):
        assert part in html


def test_lines_run_over_what_varies_then_cost_and_accuracy_from_the_least_to_the_most():
    front = example(devices=1)["devices"][0]["front"]
    costs = [one["latency_ms_predicted"] for one in front]
    drawn = parallel_plot(front, costs, "Latency (ms)", "accuracy")
    assert drawn is not None
    labels = drawn["layout"]["xaxis"]["ticktext"]
    assert labels[-2:] == ["Latency (ms)", "accuracy (%)"]
    assert len(drawn["data"]) == len(front)
    for trace, row in zip(drawn["data"], sorted(front, key=lambda one: one["val_accuracy"]), strict=True):
        assert trace["name"] == row["arch_id"]
        share = (row["latency_ms_predicted"] - min(costs)) / (max(costs) - min(costs))
        assert trace["y"][-2] == pytest.approx(share)
        assert all(y is None or 0 <= y <= 1 for y in trace["y"])
        assert trace["line"]["width"] == (3 if row["picks"] else 1.5)
    colors = [trace["line"]["color"] for trace in drawn["data"]]
    assert colors == sorted(colors)
    assert (colors[0], colors[-1]) == ("@rank-0", "@rank-4")
    assert len(drawn["layout"]["annotations"]) == 2 * len(labels)


def test_a_front_of_one_network_or_of_equal_ones_has_no_lines():
    front = example(devices=1)["devices"][0]["front"]
    assert parallel_plot(front[:1], [1.0], "x", "accuracy") is None
    assert parallel_plot([front[0], front[0]], [1.0, 1.0], "x", "accuracy") is None


def test_choices_are_averaged_over_stages_or_over_the_network_where_axes_are_many():
    few = [{"r": 8, "s1.b0.k": 1, "s1.b1.k": 3, "s2.b0.k": 3}, {"r": 8, "s1.b0.k": 1, "s2.b0.k": 5}]
    assert choice_axes(few) == {"s1 k": [2.0, 1.0], "s2 k": [3.0, 5.0]}
    many = [{f"s{stage}.b0.k": stage * seed for stage in range(9)} for seed in (1, 2)]
    assert choice_axes(many) == {"k": [4.0, 8.0]}
    assert choice_axes([{"a": 1, "b": "x"}, {"b": "y", "a": 2}]) == {"a": [1.0, 2.0]}


def test_a_choice_that_a_network_does_not_make_leaves_a_gap():
    assert choice_axes([{"d": 1}, {"d": 2, "s1.b1.k": 3}, {"d": 2, "s1.b1.k": 5}]) == {
        "d": [1.0, 2.0, 2.0],
        "s1 k": [None, 3.0, 5.0],
    }
