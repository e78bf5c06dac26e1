"""Laws of choices, spaces and architectures."""

import json

import numpy as np
import pytest
from hypothesis import given

from search_spaces import Arch, Choice, Space, SpaceError, When, define_space, digest
from tests.search_spaces.spaces import ENUMERABLE, all_codes, enumerable, families, spaces, spaces_and_codes

NESTED = Space(
    "none",
    {},
    (
        Choice("depth", (1, 2, 3)),
        Choice("wide", ("no", "yes"), When("depth", (2, 3))),
        Choice("width", (0.5, 0.75, 1.0), When("wide", ("yes",))),
        Choice("kernel", (3, 5)),
    ),
)


@pytest.fixture(params=families())
def space(request: pytest.FixtureRequest) -> Space:
    return families()[request.param]


@given(spaces_and_codes())
def test_decoding_what_was_encoded_gives_the_canonical_codes(case):
    space, codes = case
    np.testing.assert_array_equal(space.encode(space.decode(codes)), space.canonical(codes))


@given(spaces_and_codes())
def test_decoding_does_not_depend_on_inactive_entries(case):
    space, codes = case
    assert space.decode(space.canonical(codes)) == space.decode(codes)


@given(spaces_and_codes())
def test_canonical_is_idempotent_and_keeps_active_entries(case):
    space, codes = case
    canonical = space.canonical(codes)
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    np.testing.assert_array_equal(space.active(canonical), space.active(codes))
    np.testing.assert_array_equal(canonical[space.active(codes)], codes[space.active(codes)])
    assert not canonical[~space.active(codes)].any()


@given(spaces_and_codes())
def test_an_arch_survives_its_json(case):
    space, codes = case
    for arch in space.decode(codes):
        assert space.arch_from_json(json.loads(json.dumps(arch.to_json()))) == arch
        assert space.arch(arch.values) == arch


@given(spaces())
def test_the_size_is_what_enumeration_counts(space):
    assert space.size == len(all_codes(space))


@given(spaces())
def test_a_space_survives_its_json(space):
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert again.choices == space.choices


def test_the_size_of_conditions_inside_conditions():
    # depth 1 alone, or two depths each with a narrow and three wide ones; times two kernels.
    assert NESTED.size == 2 * (1 + 2 * (1 + 3)) == len(all_codes(NESTED))


@pytest.mark.parametrize("name", ENUMERABLE)
def test_the_size_of_a_family_is_what_enumeration_counts(name):
    assert enumerable(name).size == len(all_codes(enumerable(name)))


def test_mobilenet_v3_at_one_resolution_is_as_large_as_published():
    # Cai et al., section 3.1: ((3x3)^2 + (3x3)^3 + (3x3)^4)^5, about 2 x 10^19.
    assert define_space("mobilenet_v3").size == 7371**5
    assert define_space("mobilenet_v3", resolutions=[128, 160, 192, 224]).size == 4 * 7371**5


def test_a_family_survives_its_json(space):
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_spaces_of_different_settings_differ(space):
    assert len({other.id for other in families().values()}) == len(families())
    assert space != space.id


def test_sampling_is_canonical_in_range_and_seeded(space):
    codes = space.sample(np.random.default_rng(3), 200)
    assert codes.dtype == np.int16
    assert ((codes >= 0) & (codes < space.cardinalities)).all()
    np.testing.assert_array_equal(space.canonical(codes), codes)
    np.testing.assert_array_equal(space.sample(np.random.default_rng(3), 200), codes)
    assert (space.sample(np.random.default_rng(4), 200) != codes).any()


def test_sampling_reaches_every_value(space):
    codes = space.sample(np.random.default_rng(0), 2000)
    for j, choice in enumerate(space.choices):
        assert set(codes[:, j]) == set(range(len(choice.values))), choice.name


def test_sampling_keeps_to_the_values_that_are_allowed(space):
    codes = space.sample(np.random.default_rng(0), 200, allowed={"s1.depth": [1], "s1.b0.expand": [0, 2]})
    assert set(codes[:, space.columns["s1.depth"]]) == {1}
    assert set(codes[:, space.columns["s1.b0.expand"]]) == {0, 2}


def test_smallest_and_largest_take_the_first_and_last_values():
    assert NESTED.smallest().items == (("depth", 1), ("kernel", 3))
    assert NESTED.largest().items == (("depth", 3), ("wide", "yes"), ("width", 1.0), ("kernel", 5))


def test_an_arch_drops_the_values_of_inactive_choices():
    assert NESTED.arch({"depth": 1, "wide": "yes", "width": 1.0, "kernel": 3}) == NESTED.smallest()


def test_no_architectures_encode_to_no_rows():
    assert NESTED.encode([]).shape == (0, 4)
    assert NESTED.decode(NESTED.encode([])) == []


def test_ids_stay_what_they_are():
    # Files and tables refer to these: a change here orphans every one of them.
    assert NESTED.id == "dfd63d4fc5ac"
    assert NESTED.largest().id == "bcebca2f92f5"
    assert define_space("tiny").id == "04087cdacbcd"
    assert define_space("tiny").largest().id == "96a0c3f2e3b0"
    assert define_space("mobilenet_v3").id == "272e5e865ae1"
    assert define_space("mobilenet_v3").largest().id == "65d2f555ab3a"


def test_an_id_is_the_digest_of_the_canonical_json():
    arch = NESTED.largest()
    assert arch.id == digest(arch.to_json()) == digest(json.loads(json.dumps(arch.to_json())))
    assert len({a.id for a in NESTED.decode(all_codes(NESTED))}) == NESTED.size


def test_the_kind_of_a_choice_is_the_last_part_of_its_name():
    assert Choice("s1.b0.kernel", (3,)).kind == "kernel"
    assert Choice("resolution", (3,)).kind == "resolution"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Choice("", (1,)), "needs a name and at least one value"),
        (lambda: Choice("a", ()), "needs a name and at least one value"),
        (lambda: Choice("a", (1, 1)), r"'a' repeats a value in \[1, 1\]"),
        (lambda: When("a", ()), "waits for no value of 'a'"),
        (lambda: When("a", (1, 1)), r"'a' repeats a value in \[1, 1\]"),
        (lambda: Space("x", {}, (Choice("a", (1,)), Choice("a", (2,)))), "two choices named 'a'"),
        (lambda: Space("x", {}, (Choice("a", (1,), When("b", (1,))),)), "'a' depends on 'b', which is not before it"),
        (
            lambda: Space("x", {}, (Choice("b", (1,)), Choice("a", (1,), When("b", (2,))))),
            "'a' waits for a value that 'b' never takes",
        ),
    ],
)
def test_a_broken_space_is_refused(build, message):
    with pytest.raises(SpaceError, match=message):
        build()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depht": 1, "kernel": 3}, "no choice named 'depht'; it has depth, wide, width, kernel"),
        ({"depth": 4, "kernel": 3}, r"depth cannot be 4; it is one of \[1, 2, 3\]"),
        ({"depth": 1, "kernel": "3"}, r"kernel cannot be '3'; it is one of \[3, 5\]"),
        ({"depth": 1, "kernel": [3]}, r"kernel cannot be \[3\]"),
        ({"depth": 1, "kernel": None}, "kernel cannot be None"),
        ({"depth": 2, "kernel": 3}, "gives no value for 'wide'"),
        ({"kernel": 3}, "gives no value for 'depth'"),
    ],
)
def test_a_broken_arch_is_refused(values, message):
    with pytest.raises(SpaceError, match=message):
        NESTED.arch_from_json({"space": NESTED.id, "choices": values})


@pytest.mark.parametrize("document", [None, [], "arch", {}, {"space": NESTED.id}, {"space": NESTED.id, "choices": []}])
def test_what_is_no_arch_document_is_refused(document):
    with pytest.raises(SpaceError, match="not an architecture: wanted an object with 'space' and 'choices'"):
        NESTED.arch_from_json(document)


def test_an_arch_of_another_space_is_refused():
    other = define_space("tiny")
    with pytest.raises(SpaceError, match=f"belongs to space {other.id}, not to {NESTED.id}"):
        NESTED.arch_from_json(other.largest().to_json())
    with pytest.raises(SpaceError, match=f"belongs to space {other.id}, not to {NESTED.id}"):
        NESTED.encode([other.largest()])


def test_an_arch_of_a_value_that_is_not_there_is_not_encoded():
    with pytest.raises(SpaceError, match="depth cannot be 9"):
        NESTED.encode([Arch(NESTED.id, (("depth", 9), ("kernel", 3)))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "nas.space/99"}, "wanted format 'nas.space/1', found 'nas.space/99'"),
        ({"format": None}, "found None"),
        ({"choices": None}, "broken space definition: TypeError"),
        ({"choices": [{"values": [1]}]}, "broken space definition: KeyError 'name'"),
        ({"choices": ["depth"]}, "broken space definition: AttributeError"),
        ({"choices": [{"name": "a", "values": [[1]]}]}, "broken space definition: TypeError"),
        ({"choices": [{"name": "a", "values": []}]}, "needs a name and at least one value"),
        ({"settings": 3}, "settings must be an object, not int"),
        ({"family": ["tiny"]}, "family must be a name, not list"),
    ],
)
def test_a_broken_space_document_is_refused(change, message):
    with pytest.raises(SpaceError, match=message):
        Space.from_json({**NESTED.to_json(), **change})


@pytest.mark.parametrize("document", [None, [], "space", {}])
def test_what_is_no_space_document_is_refused(document):
    with pytest.raises(SpaceError, match="not a space definition"):
        Space.from_json(document)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 3), dtype=np.int16), r"wanted codes of shape \(n, 4\), got \(2, 3\)"),
        (np.zeros(4, dtype=np.int16), r"wanted codes of shape \(n, 4\), got \(4,\)"),
        (np.full((1, 4), -1, dtype=np.int16), "outside the values"),
        (np.full((1, 4), 2, dtype=np.int16), "outside the values"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
    with pytest.raises(SpaceError, match=message):
        NESTED.decode(codes)
    with pytest.raises(SpaceError, match=message):
        NESTED.canonical(codes)
