"""How to train, as plain data: a job is read, checked and shown without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces import Space
from search_spaces.exits import SETTING
from supernets.errors import SupernetError
from supernets.recipes import EXIT_TRAININGS, RECIPES, Recipe

LAYOUTS = ("fp32", "fp32_channels_last", "bf16_channels_last", "fp16_channels_last")
"""Of `supernets.layout`."""
DEVICES = ("auto", "cpu", "cuda")
CLASS_WEIGHTS = ("none", "balanced")
OPTIMISERS = ("auto", "muon", "sgd")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random shift by up to `shift_px` (edges reflected), horizontal mirror, and a grey square of `cutout_px` a side."""

    shift_px: int = 4
    mirror: bool = True
    cutout_px: int = 0

    def __post_init__(self) -> None:
        if self.shift_px < 0 or self.cutout_px < 0:
            raise SupernetError(f"shift_px and cutout_px must not be negative, got {self.shift_px}, {self.cutout_px}")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train. `learning_rate` is the peak; `warmup` a share of the steps; `layout` a name of `LAYOUTS` or `auto`;
    `device` where, `auto` being a GPU where torch finds one; `start` a file of weights of the largest network. With `balanced`
    class weights, all classes count for the same in the loss on labels, however many images each of them has.

    `optimiser`: `sgd` is Nesterov momentum for all weights, `muon` that of Muon for those that mix channels; `auto` is `muon`,
    but `sgd` for recipes that keep momenta apart.

    `workers` is how many processes share the images of each step, on Ray; the result is that of one but for rounding.
    `threads` is how many each computes with, 0 for as many as there are cores; small networks lose nothing with one, and a
    busy machine slows two down far more than one. `evaluations` is how often the largest and smallest sub-networks are
    scored on validation images on the way. `exits`: how early exits are trained where the space has them, a name of
    `EXIT_TRAININGS`; None for `joint`.
    """

    recipe: str = "sandwich"
    epochs: int = 10
    batch: int = 256
    optimiser: str = "auto"
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    label_smoothing: float = 0.1
    class_weights: str = "none"
    ema_decay: float = 0.99
    augment: Augmentation = field(default_factory=Augmentation)
    layout: str = "auto"
    device: str = "auto"
    start: str | None = None
    workers: int = 1
    threads: int = 0
    evaluations: int = 8
    exits: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise SupernetError(f"unknown recipe {self.recipe!r}; known are {', '.join(RECIPES)}")
        if self.layout not in ("auto", *LAYOUTS):
            raise SupernetError(f"unknown layout {self.layout!r}; known are auto, {', '.join(LAYOUTS)}")
        if self.class_weights not in CLASS_WEIGHTS:
            raise SupernetError(
                f"train.class_weights must be one of {', '.join(CLASS_WEIGHTS)}, not {self.class_weights!r}"
            )
        if self.optimiser not in OPTIMISERS:
            raise SupernetError(f"train.optimiser must be one of {', '.join(OPTIMISERS)}, not {self.optimiser!r}")
        if self.device not in DEVICES:
            raise SupernetError(f"train.device must be one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.exits is not None and self.exits not in EXIT_TRAININGS:
            raise SupernetError(f"train.exits must be one of {', '.join(EXIT_TRAININGS)}, not {self.exits!r}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SupernetError(f"train.{name} must be from {low} to {high}, not {value}")
        gap = self._momentum_gap
        if gap and self.optimiser == "muon":
            raise SupernetError(
                f"the recipe {self.recipe} keeps momenta apart, which muon does not; set train.optimiser to sgd or auto"
            )
        if not gap <= self.momentum < 1.0 - gap:
            raise SupernetError(
                f"train.momentum must be from {gap} to less than {1.0 - gap} for the recipe {self.recipe}, not {self.momentum}"
            )

    def recipe_for(self, space: Space) -> Recipe:
        """The phases of a training on this space."""
        recipe = RECIPES[self.recipe]
        return EXIT_TRAININGS[self.exits or "joint"](recipe) if SETTING in space.settings else recipe

    @property
    def muon(self) -> bool:
        """Whether Muon moves the weights that mix channels."""
        return self.optimiser == "muon" or (self.optimiser == "auto" and not self._momentum_gap)

    @property
    def _momentum_gap(self) -> float:
        return max(phase.momentum_gap for phase in RECIPES[self.recipe])


_RANGES = (
    ("epochs", 1, 100_000),
    ("batch", 2, 65_536),
    ("learning_rate", 1e-8, 100.0),
    ("momentum", 0.0, 0.9999),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 0.9),
    ("label_smoothing", 0.0, 0.9),
    ("ema_decay", 0.0, 0.99999),
    ("workers", 1, 1024),
    ("threads", 0, 1024),
    ("evaluations", 1, 1000),
)
