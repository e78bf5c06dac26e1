"""How good the supernets are that recipes train with equally many images passed forward and backward, over all sub-networks.

    python benchmarks/recipes.py [JOB.yaml] [--set KEY=VALUE] [--recipes sandwich alpha ...] [--seeds 3] [--passes 90]

Data, space and settings come from a job file, the demo's by default. Of each recipe, sub-networks are judged on validation
images, which no training sees, each with statistics of its own: the ends, the one of median MACs, and the hypervolume of the
front (accuracy, MACs) of 60 networks spread over MACs, the same for all. Recipes and seeds that are in the folder `--out`
are not trained again; one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ratio import print_result

from nas.errors import JobError
from nas.job import read_job
from nas.searching.fronts import hypervolume
from search_spaces import Arch, Space, costs, digest
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import accuracy, calibrate
from supernets.dataset import Dataset, load
from supernets.errors import SupernetError
from supernets.recipes import RECIPES
from supernets.settings import TrainSettings
from supernets.supernet import Supernet
from supernets.train import train

ROOT = Path(__file__).parents[1]
POOL, NETWORKS = 6000, 60
# What the default recipe has to beat in every seed.
BASELINE = "progressive_shrinking"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one training. Accuracies are shares of validation images, `mean` over all networks; `passes`: how often each
    training image went forward and backward."""

    smallest: float
    median: float
    largest: float
    mean: float
    hypervolume: float
    passes: float
    steps: int
    seconds: float


def main() -> None:
    options = _options()
    job = read_job(options.job, options.overrides)
    dataset = load(job.source, options.out / "images")
    space = job.space_for(len(dataset.classes))
    archs = spread(space)
    passes = options.passes or passes_of(job.train.recipe) * job.train.epochs
    if options.minutes:
        passes = affordable(space, dataset, job.train, options.minutes * 60)
    print(f"{len(dataset.train)} training, {len(dataset.validation)} validation images, {passes:.1f} passes each")
    found: dict[str, list[Outcome]] = {name: [] for name in options.recipes}
    for seed in range(options.seeds):
        for name in options.recipes:
            epochs = max(1, round(passes / passes_of(name)))
            settings = replace(job.train, recipe=name, epochs=epochs, seed=seed, evaluations=1)
            found[name].append(outcome(space, dataset, archs, settings, options.images, options.out))
            print(f"seed {seed}  {line(name, found[name][-1:])}", flush=True)
    table(found)
    rows = {name: [asdict(each) for each in outcomes] for name, outcomes in found.items()}
    wins = {name: wins_of(found, name) for name in options.recipes}
    print_result("recipes", {"job": job.name, "passes": passes, "recipes": rows, "wins": wins})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", nargs="?", type=Path, default=ROOT / "nas" / "demo.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=float, help="of the training images; left out, what the job's recipe takes")
    parser.add_argument("--minutes", type=float, help="as many passes as the job's recipe makes in this time")
    parser.add_argument(
        "--images", type=int, default=5000, help="validation images that sub-networks are judged on at most"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "recipes")
    return parser.parse_args()


def passes_of(recipe: str) -> float:
    """How many times an epoch passes each training image forward and backward."""
    return sum(phase.share * phase.passes for phase in RECIPES[recipe])


def affordable(space: Space, dataset: Dataset, settings: TrainSettings, seconds: float) -> float:
    """Passes that the recipe makes in so long, by one epoch of it."""
    once = train(space, dataset, replace(settings, epochs=1, evaluations=1))
    return max(1.0, passes_of(settings.recipe) * seconds / once.seconds)


def spread(space: Space) -> list[Arch]:
    """The smallest, the largest and random networks evenly spread over the logarithm of MACs, in the order of MACs."""
    codes = np.unique(space.sample(np.random.default_rng(0), POOL), axis=0)
    log_macs = np.log(costs(space, codes, "macs"))
    nearest = [int(np.abs(log_macs - each).argmin()) for each in np.linspace(log_macs.min(), log_macs.max(), NETWORKS)]
    archs = {space.smallest(): None, space.largest(): None} | dict.fromkeys(space.decode(codes[sorted(set(nearest))]))
    return sorted(archs, key=lambda arch: int(_macs(space, [arch])[0]))


def outcome(
    space: Space, dataset: Dataset, archs: Sequence[Arch], settings: TrainSettings, images: int, out: Path
) -> Outcome:
    """Train and judge, or read what came of it before."""
    key = digest([asdict(settings), dataset.id, images, [arch.id for arch in archs]])
    path = out / f"{settings.recipe}-{settings.seed}-{key}.json"
    if path.exists():
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = path.with_suffix(".safetensors")
    state = train(space, dataset, settings, path=checkpoint)
    start = time.perf_counter()
    accuracies = judged(state.average, dataset, settings, archs, images)
    macs = _macs(space, archs)
    ends = {"smallest": archs.index(space.smallest()), "largest": archs.index(space.largest())}
    found = Outcome(
        **{name: float(accuracies[i]) for name, i in ends.items()},
        median=float(accuracies[len(archs) // 2]),
        mean=float(accuracies.mean()),
        hypervolume=hypervolume(accuracies, macs, float(macs.max())),
        passes=passes_of(settings.recipe) * settings.epochs,
        steps=state.step,
        seconds=state.seconds,
    )
    path.write_text(json.dumps(asdict(found)), encoding="utf-8")
    checkpoint.unlink()
    print(f"judged {len(archs)} networks in {time.perf_counter() - start:.0f} s")
    return found


def judged(
    net: Supernet, dataset: Dataset, settings: TrainSettings, archs: Sequence[Arch], images: int
) -> NDArray[np.float64]:
    """Validation accuracy of each architecture, with statistics of its own."""
    calibration = calibration_batches(dataset, settings.augment, settings.seed)
    batches = Batches.of(dataset.validation, dataset, images)
    return np.array([accuracy(net, arch, calibrate(net, arch, calibration), batches) for arch in archs])


def _macs(space: Space, archs: Sequence[Arch]) -> NDArray[np.float64]:
    return costs(space, space.encode(archs), "macs").astype(np.float64)


def wins_of(found: Mapping[str, Sequence[Outcome]], name: str) -> str | None:
    """In how many seeds a recipe has the larger hypervolume than the baseline."""
    if BASELINE not in found or name == BASELINE:
        return None
    pairs = zip(found[name], found[BASELINE], strict=True)
    return f"{sum(ours.hypervolume > theirs.hypervolume for ours, theirs in pairs)} of {len(found[name])}"


def table(found: Mapping[str, Sequence[Outcome]]) -> None:
    print(f"\nsmallest / median / largest / mean over the front's networks; ahead of {BASELINE} in hypervolume")
    for name, outcomes in sorted(found.items(), key=lambda item: -_mean(item[1], "hypervolume")):
        print(f"{line(name, outcomes)}  ahead in {wins_of(found, name) or '-'}")


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    accuracies = " / ".join(f"{100 * _mean(outcomes, each):4.1f}" for each in ("smallest", "median", "largest", "mean"))
    volumes = [each.hypervolume for each in outcomes]
    return (
        f"{name:22} {accuracies}%  hypervolume {np.mean(volumes):.4f} ({min(volumes):.4f}-{max(volumes):.4f})  "
        f"{_mean(outcomes, 'passes'):5.1f} passes, {_mean(outcomes, 'steps'):.0f} steps, {_mean(outcomes, 'seconds'):.0f} s"
    )


def _mean(outcomes: Sequence[Outcome], name: str) -> float:
    return float(np.mean([getattr(each, name) for each in outcomes]))


if __name__ == "__main__":
    try:
        main()
    except (JobError, SupernetError) as error:
        raise SystemExit(f"recipes: {error}") from error
