"""Early exits of a space: where they stand, and what they leave as it is."""

import pytest

from search_spaces import FAMILIES, SpaceError, costs, define_space, exits, float_arch, float_space, network
from tests.contracts.space_contract import check_exits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_them_after_its_stages(family):
    space, plain = define_space(family, exits=["s1", "s2"]), define_space(family)
    assert space != plain
    assert space.choices == plain.choices
    for end in ("smallest", "largest"):
        arch, same = getattr(space, end)(), getattr(plain, end)()
        check_exits(space, arch)
        assert network(space, arch) == network(plain, same)
        assert not exits(plain, same)
    rows = space.encode([space.smallest(), space.largest()])
    assert costs(space, rows, "macs").tolist() == costs(plain, rows, "macs").tolist()


def test_none_is_the_space_as_it_was():
    assert define_space("tiny", exits=[]).id == define_space("tiny").id


def test_they_stay_where_precision_is_left_out():
    space = define_space("tiny", exits=["s2"], precisions=["int8", "fp32"])
    assert float_space(space) == define_space("tiny", exits=["s2"])
    arch = space.smallest()
    (found,) = exits(space, arch)
    assert found == exits(float_space(space), float_arch(space, arch))[0], "exits compute in floats"


@pytest.mark.parametrize("given", [["s3"], ["s2", "s1"], ["s1", "s1"], ["head"], ["s1.b0"], "s1", 1, [1], None])
def test_what_is_no_list_of_stages_is_refused(given):
    with pytest.raises(SpaceError, match="exits must list stages of s1, s2, in this order, not "):
        define_space("tiny", exits=given)
