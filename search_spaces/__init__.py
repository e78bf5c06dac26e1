"""Search spaces: choices, architectures, the layers that they build and what these cost."""

from search_spaces.cost import COSTS, Cost, arch_cost, costs, slot_costs
from search_spaces.errors import SpaceError
from search_spaces.evolve import crossover, mutate
from search_spaces.exits import Exit
from search_spaces.family import (
    FAMILIES,
    FAMILY_NAMES,
    define_space,
    exits,
    fixed_space,
    is_family,
    network,
    network_by_slot,
    slot_configs,
    slot_index,
    slot_sizes,
    slot_values,
    slots,
    with_exits,
)
from search_spaces.layers import NETWORK_INPUT, Layer
from search_spaces.precision import (
    float_arch,
    float_codes,
    float_space,
    fused_with_clip,
    in_precision,
    lifted,
    precision_columns,
    precision_of,
    quantised,
)
from search_spaces.slots import Slot
from search_spaces.space import Arch, Choice, Codes, Space, When, canonical_json, digest, first_rows, row_keys

__all__ = [
    "COSTS",
    "FAMILIES",
    "FAMILY_NAMES",
    "NETWORK_INPUT",
    "Arch",
    "Choice",
    "Codes",
    "Cost",
    "Exit",
    "Layer",
    "Slot",
    "Space",
    "SpaceError",
    "When",
    "arch_cost",
    "canonical_json",
    "costs",
    "crossover",
    "define_space",
    "digest",
    "exits",
    "first_rows",
    "fixed_space",
    "float_arch",
    "float_codes",
    "float_space",
    "fused_with_clip",
    "in_precision",
    "is_family",
    "lifted",
    "mutate",
    "network",
    "network_by_slot",
    "precision_columns",
    "precision_of",
    "quantised",
    "row_keys",
    "slot_configs",
    "slot_costs",
    "slot_index",
    "slot_sizes",
    "slot_values",
    "slots",
    "with_exits",
]
