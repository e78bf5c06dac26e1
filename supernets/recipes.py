"""Recipes: which sub-networks a training step takes, what they learn from, and how the learning rate runs. All data.

Whatever sets one published training apart from another is a field of `Phase`; the one loop (`supernets.train`) knows no recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from search_spaces import Space
from supernets.errors import SupernetError

Pick = Literal["largest", "smallest", "random", "nested", "best", "worst"]
"""Of `PICKS` in `supernets.picks`, but for `random`."""
Teacher = Literal["none", "inplace", "frozen"]
Distillation = Literal["cross_entropy", "alpha"]
"""Of `DISTILLATIONS` in `supernets.losses`."""
Exits = Literal["none", "all", "heads"]

# Networks of a nested chain, where it is not said how many.
LEVELS = 5


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training.

    share: of all steps. subnets: trained one after the other in each step, their gradients added. open: kind of choice ->
    how many of its largest values random sub-networks may take (kinds not named: all of them). teacher: what all but the
    largest sub-network learn from: labels alone, the largest sub-network in the same step (in place), or a frozen copy of
    it from before the first phase with a frozen teacher. distillation: how far from the teacher. label_weight: of the label
    loss beside a teacher. weight: of the gradients of all but the largest, from the first to the last step of the phase.
    images: share of the batch that each of these sees, each its own where the batch has enough. candidates: networks of about
    the same MACs that `best` and `worst` choose from. levels: length of the chain that `nested` draws from.
    sort_channels: at the start, the most important channels first, so that narrow layers begin with the best. momentum_gap:
    gradients of distillation are carried on with so much more momentum, those of labels with so much less. peak: learning
    rate, relative to the setting's. restart: warm up and decay anew from here on. exits: whether early exits are trained with
    the rest, or they alone while the rest stays as it is on average so far.
    """

    name: str
    share: float
    subnets: tuple[Pick, ...]
    open: Mapping[str, int] = field(default_factory=dict)
    teacher: Teacher = "inplace"
    label_weight: float = 0.0
    peak: float = 1.0
    restart: bool = False
    distillation: Distillation = "cross_entropy"
    weight: tuple[float, float] = (1.0, 1.0)
    images: float = 1.0
    candidates: int = 8
    levels: int = LEVELS
    sort_channels: bool = False
    momentum_gap: float = 0.0
    exits: Exits = "none"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not self.subnets:
            raise SupernetError(f"phase {self.name!r} needs a share in (0, 1] and at least one sub-network")
        if self.attentive and self.subnets[0] != "largest":
            raise SupernetError(f"phase {self.name!r} compares with the largest sub-network, so it must be the first")
        if self.teacher == "inplace" and self.subnets[0] != "largest":
            raise SupernetError(f"phase {self.name!r} distils in place, so its first sub-network must be the largest")
        for kind, largest in self.open.items():
            if largest < 1:
                raise SupernetError(f"phase {self.name!r} must open at least 1 value of {kind}, not {largest}")
        for name, value, low, high in (
            ("images", self.images, 0.01, 1.0),
            ("weight", min(self.weight), 0.0, 1.0),
            ("candidates", self.candidates, 2, 1000),
            ("levels", self.levels, 2, 1000),
            ("momentum_gap", self.momentum_gap, 0.0, 0.5),
        ):
            if not low <= value <= high:
                raise SupernetError(f"phase {self.name!r}: {name} must be from {low} to {high}, not {value}")

    @property
    def attentive(self) -> bool:
        """Whether predictions choose sub-networks."""
        return "best" in self.subnets or "worst" in self.subnets

    @property
    def passes(self) -> float:
        """How many times a step passes its batch forward and backward, over all sub-networks."""
        return sum(1.0 if pick == "largest" else self.images for pick in self.subnets)

    def allowed(self, space: Space) -> dict[str, range]:
        """Indices that each choice may take, for `Space.sample`."""
        return {
            choice.name: range(max(0, len(choice.values) - self.open[choice.kind]), len(choice.values))
            for choice in space.choices
            if choice.kind in self.open
        }


Recipe = tuple[Phase, ...]

_WIDEST = {"expand": 1, "heads": 1, "width": 1}

RECIPES: dict[str, Recipe] = {
    # Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, and the sandwich rule
    # of Yu and Huang, "Universally Slimmable Networks", ICCV 2019, with what short trainings want. The largest sub-network
    # knows nothing at first: distilling from it at once gave 59 / 58% (largest / smallest; CIFAR-10 at 16 px, 640 steps),
    # labels alone 62 / 60%, labels first and then labels with distillation 62 / 61%. And steps matter more than sub-networks
    # a step: in equal time (CIFAR-10, 334 to 427 steps) four of them reached 57 / 54%, two and then three 64 / 59%.
    "sandwich": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "random", "smallest"), label_weight=1.0),
    ),
    # Cai et al., "Once-for-All", ICLR 2020, section 3.3 and appendix B: the largest first; then kernel, depth and width
    # open one after the other, the sub-networks learning from the trained largest one and the labels.
    "progressive_shrinking": (
        Phase("largest", 0.4, ("largest",), teacher="none"),
        Phase("kernel", 0.2, ("random",), {"depth": 1, **_WIDEST}, "frozen", 1.0, 0.4, restart=True),
        Phase("depth-1", 0.05, ("random",) * 2, {"depth": 2, **_WIDEST}, "frozen", 1.0, 0.1, restart=True),
        Phase("depth-2", 0.15, ("random",) * 2, _WIDEST, "frozen", 1.0, 0.3, restart=True),
        # Sorted once: by the second width phase, narrow networks rely on the order that the first one trained.
        Phase(
            "width-1",
            0.05,
            ("random",) * 4,
            {"expand": 2, "heads": 2, "width": 2},
            "frozen",
            1.0,
            0.1,
            restart=True,
            sort_channels=True,
        ),
        Phase("width-2", 0.15, ("random",) * 4, {}, "frozen", 1.0, 0.3, restart=True),
    ),
    # Annavajjala et al., "DepS: Delayed Epsilon-Shrinking for Faster Once-For-All Training", ECCV 2024: the largest alone
    # for half of the training; then smaller ones beside it, whose gradients grow from next to nothing to their full weight.
    "delayed_shrinking": (
        Phase("largest", 0.5, ("largest",), teacher="none"),
        Phase("shrink", 0.2, ("largest", "random", "smallest"), label_weight=1.0, weight=(0.01, 1.0)),
        Phase("all", 0.3, ("largest", "random", "smallest"), label_weight=1.0),
    ),
    # Valipour et al., "SortedNet: A Scalable and Generalized Framework for Training Modular Deep Neural Networks", 2023:
    # networks of one nested chain on labels. These can be picked without a search; others of the space are hardly trained.
    "sorted": (Phase("nested", 1.0, ("nested", "nested"), teacher="none"),),
    # Wang et al., "AlphaNet: Improved Training of Supernets with Alpha-Divergence", ICML 2021: the sandwich, its sub-networks
    # held neither to miss nor to exaggerate what the largest one is unsure of.
    "alpha": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "random", "smallest"), label_weight=1.0, distillation="alpha"),
    ),
    # Wang et al., "AttentiveNAS: Improving Neural Architecture Search via Attentive Sampling", CVPR 2021: the sandwich, with
    # the network that seems best (for a better front) or worst (for the sake of all others) of several like it in MACs.
    "attentive_best": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "best", "smallest"), label_weight=1.0),
    ),
    "attentive_worst": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "worst", "smallest"), label_weight=1.0),
    ),
    # Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023: the sandwich with momenta of their own for labels and
    # for distillation. Each of these is another backward pass.
    "dot": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "random", "smallest"), label_weight=1.0, momentum_gap=0.075),
    ),
    # The largest alone, as what is no supernet is trained: to compare with (`nas supernets study`), or to start from.
    "alone": (Phase("largest", 1.0, ("largest",), teacher="none"),),
}


def _joint(recipe: Recipe) -> Recipe:
    """Everything at once, from the first step on."""
    return tuple(replace(phase, exits="all") for phase in recipe)


def _disjoint(recipe: Recipe) -> Recipe:
    """The exits after the network, which they leave as it is."""
    return _longer(
        recipe, replace(recipe[-1], name="exits", exits="heads", restart=True, peak=1.0, sort_channels=False)
    )


def _mixed(recipe: Recipe) -> Recipe:
    """The network first, then everything at once."""
    return _longer(recipe, replace(recipe[-1], name="exits", exits="all", restart=True, peak=0.4, sort_channels=False))


def _longer(recipe: Recipe, last: Phase) -> Recipe:
    """The recipe in less time, and another phase in what is left."""
    rest = 1.0 - EXITS_SHARE
    return (*(replace(phase, share=rest * phase.share) for phase in recipe), replace(last, share=EXITS_SHARE))


# Of all steps, where exits are trained after the network.
EXITS_SHARE = 0.2

EXIT_TRAININGS: dict[str, Callable[[Recipe], Recipe]] = {"joint": _joint, "disjoint": _disjoint, "mixed": _mixed}
"""How early exits are trained: from a recipe to that which trains them, too (Kubaty et al., "How to Train Your Multi-Exit
Model? Analyzing the Impact of Training Strategies", 2024). In equal steps on CIFAR-10, two exits and the end of six networks of
`tiny`: 68.4, 73.9, 74.4% joint, 63.5, 71.6, 73.3% disjoint, 63.2, 71.5, 73.3% mixed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where one step stands: its phase, whether it is the first of it, the learning rate relative to the peak, and the weight
    of the gradients of all but the largest sub-network."""

    phase: Phase
    first: bool
    learning_rate: float
    weight: float


def schedule(recipe: Recipe, steps: int, warmup: float) -> list[Moment]:
    """One `Moment` a step. Each run of phases up to the next restart warms up linearly over the first `warmup` of its
    steps, then decays to zero on a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017)."""
    if abs(sum(phase.share for phase in recipe) - 1.0) > 1e-6:
        raise SupernetError("the shares of a recipe's phases must add up to 1")
    ends = [round(steps * sum(phase.share for phase in recipe[:i])) for i in range(len(recipe) + 1)]
    moments: list[Moment] = []
    for i, phase in enumerate(recipe):
        run_start = ends[max(j for j in range(i + 1) if j == 0 or recipe[j].restart)]
        run_end = ends[next((j for j in range(i + 1, len(recipe)) if recipe[j].restart), len(recipe))]
        for step in range(ends[i], ends[i + 1]):
            progress = (step + 0.5 - run_start) / (run_end - run_start)
            within = (step + 0.5 - ends[i]) / (ends[i + 1] - ends[i])
            weight = phase.weight[0] + within * (phase.weight[1] - phase.weight[0])
            moments.append(Moment(phase, step == ends[i], phase.peak * _rate(progress, warmup), weight))
    return moments


def _rate(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))
