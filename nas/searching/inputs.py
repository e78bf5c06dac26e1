"""What a run's search begins with: its targets, the digests of all that it depends on, and evaluations of other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latency_tables.device import Device
from latency_tables.measuring.measure import PROTOCOL
from latency_tables.predicting.judge import fitted
from latency_tables.predicting.predictor import LatencyPredictor, load_predictor
from latency_tables.statistic import MEDIAN
from latency_tables.table import load as load_table
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import Job, SearchSettings
from nas.searching.constraints import parse_constraint
from nas.searching.engine import Identity
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import Arch, Space, digest, float_space, lifted


def target_of(folder: RunFolder, job: Job, space: Space, device: Device) -> Target:
    """A device with its predictor of the median latency, and others that the job asks for, fitted to the device's table."""
    if not folder.table(device.name).is_file():
        raise JobError(f"device {device.name} has no latency table; `nas profile {folder.root} --again` measures it")
    table = load_table(folder.table(device.name), space=space, device=device, protocol=PROTOCOL)
    predictors: dict[str, LatencyPredictor] = {MEDIAN: load_predictor(folder.predictor(device.name), space=space)}
    for statistic in job.search.statistics:
        if statistic not in predictors:
            predictors[statistic] = fitted(table, seed=job.seed, statistic=statistic)
    return Target(device.name, space, device.batch, predictors)


def problem_of(folder: RunFolder, job: Job, space: Space) -> Problem:
    """What a job searches for, on all of its devices."""
    targets = tuple(target_of(folder, job, space, device) for device in job.devices)
    return Problem(space, targets, job.search.objectives, tuple(map(parse_constraint, job.search.constraints)))


CONTEXT = ("supernet", "data", "calibration")
"""What accuracies depend on beside the architecture."""


def context_of(supernet: str, data: str, job: Job) -> dict[str, str]:
    """By name the digests of what accuracies depend on."""
    calibration = digest([job.search.calibration_batches, asdict(job.train.augment), job.seed])
    return dict(zip(CONTEXT, (supernet, data, calibration), strict=True))


def identity_of(
    job: Job,
    space: Space,
    targets: Sequence[Target],
    images: Sequence[int],
    context: Mapping[str, str],
    warm: Mapping[Arch, float],
) -> Identity:
    """The search of these settings, and by name the digests of what it begins with."""
    predictors = {
        f"predictor of {statistic} on {target.name}": digest(predictor.to_json())
        for target in targets
        for statistic, predictor in target.predictors.items()
    }
    others = {"warm start": digest(sorted([arch.id, accuracy] for arch, accuracy in warm.items()))} if warm else {}
    return Identity(name_of(job, space, targets, images), {**context, **predictors, **others})


def name_of(job: Job, space: Space, targets: Sequence[Target], images: Sequence[int]) -> str:
    """The name in the store of a search of these settings: a digest of those that its proposals depend on."""
    settings = job.search
    return digest(
        {
            "space": space.id,
            "objectives": list(settings.objectives),
            "constraints": list(settings.constraints),
            "sampler": settings.sampler,
            "population": settings.population,
            "warm_up": settings.warm_up,
            "images": list(images),
            "devices": sorted(target.name for target in targets),
        }
    )


def images_of(settings: SearchSettings, there_are: int) -> tuple[int, ...]:
    """How many validation images an evaluation reads: all or so many, or first some and then these."""
    most = min(settings.validation_images or there_are, there_are)
    first = settings.first_images
    if first is None:
        return (most,)
    if first >= most:
        raise JobError(f"search.first_images must be fewer than the {most} images of an evaluation, not {first}")
    return (first, most)


def warm_start(paths: Sequence[str], space: Space, context: Mapping[str, str], images: int) -> dict[Arch, float]:
    """Accuracies that other runs evaluated with the same supernet, data and calibration, on as many images."""
    found: dict[Arch, float] = {}
    for path in paths:
        file = RunFolder.open(Path(path)).evaluations
        if not file.is_file():
            raise JobError(f"search.warm_start: {path} has no evaluations yet; run `nas search {path}` first")
        with TrialStore(file) as store:
            check_context(path, store, context)
            name = digest(dict(context))
            archs, evaluations = store.archs(name), store.evaluations(name)
        own = {
            _arch(space, archs[arch_id]): evaluation.accuracy
            for (arch_id, read), evaluation in evaluations.items()
            if read == images
        }
        found |= checked_start(path, own, images)
    return found


def _arch(space: Space, document: Mapping[str, Any]) -> Arch:
    """An architecture of a store, of this space or of the same without precision."""
    plain = float_space(space)
    if document.get("space") == plain.id:
        return lifted(space, plain.arch_from_json(document))
    return space.arch_from_json(document)


def checked_start(name: str, found: dict[Arch, float], images: int) -> dict[Arch, float]:
    """What was found of an earlier search; a `JobError` where it is nothing."""
    if not found:
        raise JobError(
            f"search.warm_start: {name} has no accuracies on {images} images; set search.validation_images to the number "
            "that it used"
        )
    return found


def check_context(path: str, store: TrialStore, context: Mapping[str, str]) -> None:
    """Refuse evaluations of another supernet, other data or another calibration, naming which."""
    searches = list(store.searches().values())
    if searches and not any(all(inputs.get(name) == value for name, value in context.items()) for inputs in searches):
        other = [name for name, value in context.items() if searches[-1].get(name) != value]
        name = other[0]
        raise JobError(
            f"search.warm_start: {path}: its {name} is another ({searches[-1].get(name)}, here {context[name]}), so its "
            "accuracies do not hold here"
        )
