"""How far accuracies in a supernet can be trusted: some networks are trained from scratch, each alone, and the orders compared.

Weight sharing may order networks otherwise than trainings of their own do (Yu et al., "Evaluating the Search Phase of Neural
Architecture Search", ICLR 2020). A study draws networks spread over MACs, trains every one for as many epochs as the budget
allows, and some for a tenth of what the supernet cost. It is kept in a file that is replaced after every training: a study that
was killed goes on there, with the plan that it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.plan import plan as spread_over_macs
from nas.errors import JobError
from nas.folder import RunFolder
from nas.progress import Display, Progress
from nas.searching.evaluator import Evaluator
from nas.searching.warmup import correlation
from nas.tables import duration
from nas.trained import Trained
from search_spaces import Arch, Space, arch_cost
from supernets.proxies import only
from supernets.recipes import RECIPES
from supernets.settings import TrainSettings
from supernets.train import train

F64 = NDArray[np.float64]
Json = Any

FORMAT = "nas.study/1"
FILE = "study.json"
TIMED_STEPS = 6
# Of the budget, for the trainings at a tenth of the supernet's cost; and how many networks they are at most.
TENTH_SHARE, TENTH_NETWORKS = 0.5, 4
RESAMPLES, COVERAGE = 1000, 0.95


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained: all `archs` for `epochs`, and those of `tenth` for `tenth_epochs`, a tenth of the supernet's cost.

    Costs are image passes: an epoch of a network passes every training image forward and backward once, an epoch of a supernet
    once for each sub-network of a step.
    """

    archs: tuple[Arch, ...]
    epochs: int
    tenth: tuple[Arch, ...]
    tenth_epochs: int

    @property
    def trainings(self) -> tuple[tuple[Arch, int], ...]:
        """Every network with its epochs, each pair once."""
        return tuple(
            dict.fromkeys([(a, self.epochs) for a in self.archs] + [(a, self.tenth_epochs) for a in self.tenth])
        )

    def to_json(self) -> dict[str, Json]:
        archs, tenth = ([arch.values for arch in each] for each in (self.archs, self.tenth))
        return {"archs": archs, "epochs": self.epochs, "tenth": tenth, "tenth_epochs": self.tenth_epochs}

    @staticmethod
    def from_json(space: Space, document: Mapping[str, Json]) -> Plan:
        archs, tenth = (tuple(map(space.arch, document[key])) for key in ("archs", "tenth"))
        return Plan(archs, document["epochs"], tenth, document["tenth_epochs"])


def study(trained: Trained, out: Path, networks: int, budget_s: float, seed: int, display: Display) -> dict[str, Json]:
    """The finished study in the folder `out`, begun or gone on with there; `JobError` where the budget is too small, or where
    the folder has a study of something else."""
    inputs, begun = _inputs(trained, networks, budget_s, seed), None
    if not (out / FILE).exists():
        with display.stage("plan") as progress:
            plan = planned(trained, networks, budget_s, seed, progress)
        begun = {"format": FORMAT, "inputs": inputs, "plan": plan.to_json(), "trained": {}, "result": None}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{out}: the folder cannot be made: {error.strerror}; name another with --out") from error
    folder = RunFolder(out)
    with folder.held():
        if begun is not None and not (out / FILE).exists():
            folder.write_json(FILE, begun)
        document = _of(inputs, folder.read_json(FILE), out)
        if document["result"] is None:
            _train_all(trained, Plan.from_json(trained.space, document["plan"]), seed, folder, document, display)
    return document


def planned(trained: Trained, networks: int, budget_s: float, seed: int, progress: Progress) -> Plan:
    """As many epochs as fit into the budget, by the time that a few steps of every network take here."""
    archs = spread_over_macs(trained.space, networks, seed)
    if len(archs) < 3:
        raise JobError(f"a study compares 3 networks or more; this space has {len(archs)}")
    epoch_s = []
    for i, arch in enumerate(archs):
        progress(i, len(archs), f"timing {arch.id}")
        epoch_s.append(_epoch_seconds(trained, arch, seed))
    progress(len(archs), len(archs), f"an epoch of all takes {duration(sum(epoch_s))}")
    return fitted(archs, epoch_s, supernet_passes(trained.job.train), budget_s)


def fitted(archs: Sequence[Arch], epoch_s: Sequence[float], supernet_cost: float, budget_s: float) -> Plan:
    """The trainings that a budget pays for, the supernet's cost being in passes of all training images.

    First an epoch of every network; of what is left up to a half for the ends and a few between them at a tenth of that cost;
    all the rest for more epochs of every network, up to the supernet's own.
    """
    whole_s = sum(epoch_s)
    if whole_s > budget_s:
        raise JobError(
            f"one epoch of each of {len(archs)} networks takes {duration(whole_s)}, more than the budget of "
            f"{duration(budget_s)}; give a --budget of that or more, or fewer --archs"
        )
    tenth_epochs = max(1, math.ceil(supernet_cost / 10))
    tenth: list[Arch] = []
    left_s = budget_s - whole_s
    # The smallest, the largest, the middle: the order in which networks spread over MACs come.
    for arch, seconds in list(zip(archs, epoch_s, strict=True))[:TENTH_NETWORKS]:
        if tenth_epochs * seconds > left_s - (1 - TENTH_SHARE) * (budget_s - whole_s):
            break
        left_s -= tenth_epochs * seconds
        tenth.append(arch)
    epochs = 1 + math.floor(left_s / whole_s)
    return Plan(tuple(archs), min(epochs, max(1, math.ceil(supernet_cost))), tuple(tenth), tenth_epochs)


def supernet_passes(settings: TrainSettings) -> float:
    """How many times a training passes its images forward and backward, over all sub-networks."""
    return settings.epochs * sum(phase.share * phase.passes for phase in RECIPES[settings.recipe])


def result_of(trained: Trained, plan: Plan, accuracies: Mapping[str, float]) -> dict[str, Json]:
    """The networks with their accuracies, and how far both orders agree. `accuracies`: of trainings, by `_key`."""
    evaluator = Evaluator(trained.net, trained.space, trained.calibration(), trained.images("validation"))
    rows: list[dict[str, Json]] = [
        {
            "arch_id": arch.id,
            "arch": arch.values,
            "macs": arch_cost(trained.space, arch).macs,
            "supernet_accuracy": evaluator.score(arch).val_accuracy,
            "alone_accuracy": accuracies[_key(arch, plan.epochs)],
            "tenth_accuracy": accuracies.get(_key(arch, plan.tenth_epochs)),
        }
        for arch in plan.archs
    ]
    alone = np.array([row["alone_accuracy"] for row in rows])
    ahead = [row["supernet_accuracy"] - row["tenth_accuracy"] for row in rows if row["tenth_accuracy"] is not None]
    return {
        "images": len(trained.dataset.validation),
        "task": trained.dataset.task,
        "supernet_passes": supernet_passes(trained.job.train),
        "alone_passes": plan.epochs,
        "tenth_passes": plan.tenth_epochs,
        "networks": rows,
        "ahead_of_tenth": fmean(ahead) if ahead else None,
        "rank": {
            name: ranked(np.array([float(row[key]) for row in rows]), alone)
            for name, key in (("supernet", "supernet_accuracy"), ("macs", "macs"))
        },
    }


def ranked(score: F64, accuracy: F64) -> dict[str, Json]:
    """Kendall's tau-b and Spearman's correlation with percentile bootstrap intervals over networks (Efron, 1979).

    None where a side is constant, also an interval where this is so in half of the resamples.
    """
    whole = correlation("", score, accuracy)
    draws = np.random.default_rng(0).integers(len(score), size=(RESAMPLES, len(score)))
    again = [correlation("", score[rows], accuracy[rows]) for rows in draws]
    return {
        name: {"value": getattr(whole, name), **_interval([getattr(each, name) for each in again])}
        for name in ("kendall", "spearman")
    }


def verdict(result: Mapping[str, Json]) -> str:
    """One sentence: how sure the order is."""
    found, n = result["rank"]["supernet"]["kendall"], len(result["networks"])
    if found["low"] is None:
        return f"{n} networks tell nothing: too many of them are equally good; study more, or for longer"
    sure = f"tau is {found['value']:.2f}, with {n} networks anything from {found['low']:.2f} to {found['high']:.2f} is likely"
    if found["low"] <= 0 <= found["high"]:
        return f"{sure}: too few to tell that the supernet orders networks at all"
    return f"{sure}: the supernet orders networks {'better' if found['low'] > 0 else 'worse'} than chance"


def _interval(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if 2 * len(known) <= len(values):
        return {"low": None, "high": None}
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return {"low": float(low), "high": float(high)}


def _inputs(trained: Trained, networks: int, budget_s: float, seed: int) -> dict[str, Json]:
    """All that a study depends on; JSON that is the same after a way through a file."""
    return {
        "supernet": hashlib.sha256(trained.file.read_bytes()).hexdigest(),
        "data": trained.dataset.id,
        "networks": networks,
        "budget_s": budget_s,
        "seed": seed,
        "train": asdict(_settings(trained, 1, 0)),
    }


def _of(inputs: Mapping[str, Json], document: dict[str, Json], out: Path) -> dict[str, Json]:
    """The document, where it is a study of these inputs."""
    if document.get("format") != FORMAT:
        raise JobError(f"{out / FILE}: wanted format {FORMAT!r}, found {document.get('format')!r}")
    other = [name for name, value in inputs.items() if document.get("inputs", {}).get(name) != value]
    if other:
        raise JobError(
            f"{out}: has a study with another {' and another '.join(other)}; go on with what it was begun with, or name "
            "another folder with --out"
        )
    return document


def _settings(trained: Trained, epochs: int, seed: int) -> TrainSettings:
    """As the run trained, but for the recipe, and in this process. In its layout: the fastest now may be another."""
    layout = trained.folder.result("train")["supernet"]["layout"]
    own = replace(trained.job.train, recipe="alone", epochs=epochs, seed=seed, layout=layout)
    return replace(own, start=None, evaluations=1, workers=1)


class _Timed(Exception):
    """Enough steps were timed."""


def _epoch_seconds(trained: Trained, arch: Arch, seed: int) -> float:
    """Seconds of an epoch of this network alone, by the median of a few steps."""
    times: list[float] = []

    def note(done: int, total: int, text: str) -> None:
        times.append(time.perf_counter())
        if done == TIMED_STEPS:
            raise _Timed

    settings = _settings(trained, TIMED_STEPS + 1, seed)
    with contextlib.suppress(_Timed):
        train(only(trained.space, arch), trained.dataset, settings, progress=note)
    images = len(trained.dataset.train)
    return float(median(np.diff(times))) * (images // min(settings.batch, images))


def _train_all(
    trained: Trained, plan: Plan, seed: int, folder: RunFolder, document: dict[str, Json], display: Display
) -> None:
    """Every training that the document does not have yet, and then the result; the file is replaced after each."""
    for stale in folder.root.glob("*.safetensors"):
        if stale.stem in document["trained"]:
            stale.unlink()
    for i, (arch, epochs) in enumerate(plan.trainings):
        key = _key(arch, epochs)
        if key not in document["trained"]:
            with display.stage(f"train {i + 1}/{len(plan.trainings)}") as progress:
                path = folder.root / f"{key}.safetensors"
                document["trained"][key] = _trained_alone(
                    trained, arch, _settings(trained, epochs, seed), path, progress
                )
            folder.write_json(FILE, document)
            path.unlink(missing_ok=True)
    with display.stage("compare"):
        accuracies = {key: row["accuracy"] for key, row in document["trained"].items()}
        document["result"] = result_of(trained, plan, accuracies)
    folder.write_json(FILE, document)


def _trained_alone(
    trained: Trained, arch: Arch, settings: TrainSettings, path: Path, progress: Progress
) -> dict[str, float]:
    """Validation accuracy of one network after a training of its own, from its checkpoint on where there is one."""
    state = train(only(trained.space, arch), trained.dataset, settings, path=path, progress=progress)
    evaluator = Evaluator(state.average, state.average.space, trained.calibration(), trained.images("validation"))
    return {"accuracy": evaluator.score(state.average.space.largest()).val_accuracy, "seconds": state.seconds}


def _key(arch: Arch, epochs: int) -> str:
    return f"{arch.id}-{epochs}"
