"""Early exits: small classifiers that read what a stage puts out, so that an easy image need not go through the whole network.

Teerapittayanon et al., "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks", ICPR 2016. Any family's space
can have them, by one setting: `exits` lists the stages after which one stands. They are no choice and no part of `network`:
what is searched, costed, measured and predicted is the whole way through, which an image that is hard takes. What an exit saves
depends on the images, so it is told where thresholds are chosen, at export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from search_spaces.errors import SpaceError
from search_spaces.layers import SLOT_INPUT, Layer, Shape, Stack
from search_spaces.slots import Slot
from search_spaces.space import Json

SETTING = "exits"
PREFIX = "exit."
# Channels of an exit's convolution for each that it reads. Pooling and a linear layer alone take next to no time, but then the
# stage itself has to tell classes apart. `tiny` on CIFAR-10, trained jointly, exits after s1, s2 and the end: 72.2, 79.0, 79.4%
# so, and 76.3, 80.2, 80.9 with a convolution (largest network); 60.7, 71.0, 72.5 and 68.4, 73.9, 74.4 (mean of six).
WIDER = 2


@dataclass(frozen=True, slots=True)
class Exit:
    """A classifier after a stage: its layers, the first of which reads the layer `reads` of the network."""

    stage: str
    reads: str
    layers: tuple[Layer, ...]

    @property
    def output(self) -> str:
        """The layer that puts out its logits."""
        return self.layers[-1].name


def split_exits(given: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Settings of a family, and that of exits; none where there are none."""
    others = {name: value for name, value in given.items() if name != SETTING}
    return others, {SETTING: given[SETTING]} if given.get(SETTING, []) != [] else {}


def check_exits(settings: Mapping[str, Json], slots: Sequence[Slot]) -> None:
    """`SpaceError` where exits are not a list of stages, each once and in the order of the network. After the last stage
    comes the head of the network, which is its exit."""
    wanted, stages = settings.get(SETTING, []), stages_of(slots)[:-1]
    if not isinstance(wanted, list) or wanted != [stage for stage in stages if stage in wanted]:
        raise SpaceError(f"exits must list stages of {', '.join(stages)}, in this order, not {wanted!r}")


def stages_of(slots: Sequence[Slot]) -> tuple[str, ...]:
    """The stages of a family's networks, by the names that their choices begin with."""
    return tuple(dict.fromkeys(stage_of(slot.name) for slot in slots if "." in slot.name))


def stage_of(name: str) -> str:
    """Of a slot or a layer."""
    return name.partition(".")[0]


def head(settings: Mapping[str, Json], stage: str, shape: Shape) -> tuple[Layer, ...]:
    """The layers of the exit after a stage that puts out this shape; the first reads `SLOT_INPUT`."""
    stack = Stack(f"{PREFIX}{stage}", shape)
    stack.conv("conv", WIDER * shape[0], kernel=3, stride=2)
    stack.unary("act", "relu")
    stack.pool("pool")
    stack.linear("logits", settings["num_classes"])
    return tuple(stack.layers)


def exits_after(settings: Mapping[str, Json], layers: Sequence[Layer]) -> tuple[Exit, ...]:
    """The exits of a network with these layers, in order."""
    last = {stage_of(layer.name): layer for layer in layers}
    return tuple(_exit(settings, stage, last[stage]) for stage in settings.get(SETTING, ()))


def _exit(settings: Mapping[str, Json], stage: str, before: Layer) -> Exit:
    built = head(settings, stage, before.out_shape)
    layers = (
        replace(layer, inputs=tuple(before.name if name == SLOT_INPUT else name for name in layer.inputs))
        for layer in built
    )
    return Exit(stage, before.name, tuple(layers))
