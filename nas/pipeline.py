"""The pipeline, read from top to bottom: train, profile, search, export. One function a stage, named like its command.

Each stage reads what the one before left in the run's folder and leaves its own. A finished stage is not repeated; one that
was interrupted goes on where it was: training from its checkpoint, profiling from its table, searching from its store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device
from latency_tables.measuring.machine import Here, Machine
from nas.folder import STAGES, RunFolder, space_json
from nas.job import Job
from nas.model_lab import LOCK_TIMEOUT_S
from nas.profiling import measured_front, needs_of, profiled
from nas.progress import Display
from nas.report import evaluations_csv, front_csv, render
from nas.searching.campaign import Campaign, Extent, campaign
from nas.searching.constraints import Reach
from nas.searching.document import device_json, search_json
from nas.searching.engine import Plan
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Evaluator
from nas.searching.inputs import context_of, identity_of, images_of, problem_of, warm_start
from nas.searching.mixing import Mixer
from nas.searching.runners import make_runner
from nas.searching.sensitivity import Sensitivity
from nas.searching.store import TrialStore
from nas.searching.studies import Aids
from nas.searching.truth import with_measured
from nas.searching.warmup import correlations
from nas.searching.watch import UNWATCHED, Watch
from nas.specialising.exports import exported
from nas.specialising.folders import check_free
from nas.specialising.specialise import check_versions
from nas.summary import summarise
from nas.trained import Trained
from nas.training import train_on_ray
from search_spaces import Arch, Codes, Space, digest, float_arch, float_space, precision_columns
from supernets.augment import Normalisation
from supernets.batches import Batches, batch_of, calibration_batches
from supernets.calibrate import accuracy, calibrate
from supernets.checkpoint import load_supernet, save_supernet
from supernets.dataset import Dataset, load
from supernets.proxies import proxy_scores
from supernets.supernet import Supernet
from supernets.train import train as train_supernet

# Training images that proxies look at, and evaluated networks that they are compared on.
PROXY_IMAGES, PROXY_NETWORKS = 32, 100


def here(device: Device) -> Machine:
    """The machine at hand, whatever the device."""
    return Here(LOCK_TIMEOUT_S)


@dataclass(frozen=True)
class Run:
    """One run: its folder and job, how many evaluators may work side by side, and where progress is shown.

    `machine` gives the machine that measures a device, `trials` opens the store of evaluations in place of that of the job,
    `warm_start` finds what searches that the job names have evaluated, `watch` is told what the search finds.
    """

    folder: RunFolder
    job: Job
    jobs: int
    display: Display
    anew: bool = False
    """Search from the first proposal, whatever was proposed before; evaluations stay."""
    machine: Callable[[Device], Machine] = here
    trials: Callable[[], TrialStore] | None = None
    warm_start: Callable[[Sequence[str], Space, Mapping[str, str], int], dict[Arch, float]] = warm_start
    watch: Watch = UNWATCHED


def run(context: Run) -> dict[str, Any]:
    """All stages that are not finished, in order; the summary."""
    needs = () if "profile" in context.folder.stages() else needs_of(context.job)
    for device in context.job.devices:  # one that this machine lacks is refused before the training, not after
        context.machine(device).check(device, needs)
    for name in STAGES:
        run_stage(context, name)
    return context.folder.read_json(context.folder.summary.name)


def run_stage(context: Run, name: str) -> None:
    """One stage, unless it is finished, and what is measured after it; the stages before it must be."""
    finish_stage(context, name)
    if name == "search":
        measure_fronts(context)


def finish_stage(context: Run, name: str) -> None:
    """One stage, unless it is finished; the stages before it must be."""
    done = context.folder.stages()
    for earlier in STAGES[: STAGES.index(name)]:
        context.folder.result(earlier)
    if name in done:
        context.display.note(name, "finished before")
    else:
        start = time.perf_counter()
        result = PIPELINE[name](context)
        context.folder.finish(name, time.perf_counter() - start, result)
    if name == "export" and not context.folder.summary.exists():
        _report(context.folder)


def train(context: Run) -> dict[str, Any]:
    """Images -> a trained supernet: `space.json`, `supernet.safetensors`."""
    folder, job = context.folder, context.job
    check_versions(job.export)
    with context.display.stage("data") as progress:
        # Decoded once, and from then on read from the run's cache.
        dataset = load(job.source, folder.cache, lambda done, total: progress(done, total, "images"))
    folder.write_json("space.json", job.space_for(len(dataset.classes)).to_json())
    space = float_space(folder.space)
    with context.display.stage("train") as progress:
        trainer = train_supernet
        if job.train.workers > 1:
            trainer = partial(train_on_ray, address=job.search.ray_address)
        state = trainer(space, dataset, job.train, path=folder.checkpoint, progress=progress)
    notes = {"data": dataset.id, "classes": list(dataset.classes), "mean": list(dataset.mean), "std": list(dataset.std)}
    save_supernet(folder.supernet, state.average, notes)
    ends = {"largest": space.largest(), "smallest": space.smallest()}
    calibration = calibration_batches(dataset, job.train.augment, job.seed)
    test = Batches.of(dataset.test, dataset)
    tested = {
        f"{name}_test_accuracy": accuracy(state.average, arch, calibrate(state.average, arch, calibration), test)
        for name, arch in ends.items()
    }
    return {
        "supernet": {
            **tested,
            "train_seconds": state.seconds,
            "params": sum(p.numel() for p in state.average.parameters()),
            "recipe": job.train.recipe,
            "layout": state.layout,
            "history": state.history,
        },
        "space": space_json(space),
        "data": {
            "name": dataset.name,
            "id": dataset.id,
            "task": dataset.task,
            "classes": list(dataset.classes),
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "skipped": len(dataset.skipped),
        },
    }


def profile(context: Run) -> dict[str, Any]:
    """Measure whole networks on every device and fit its predictor: `tables/`, `predictors/`."""
    found = []
    for device in context.job.devices:
        with context.display.stage(f"profile {device.name}") as progress:
            machine = context.machine(device)
            found.append(profiled(context.folder, context.job, context.folder.space, device, machine, progress))
    return {"devices": found}


def search(context: Run) -> dict[str, Any]:
    """Evaluate what the samplers propose, for all devices at once: `evaluations.sqlite`; the fronts are in the result."""
    folder, job, settings = context.folder, context.job, context.job.search
    started = time.perf_counter()
    dataset, space = load(job.source, folder.cache), folder.space
    net, _ = load_supernet(folder.supernet, float_space(space))
    problem = dataclasses.replace(problem_of(folder, job, space), labels=dataset.validation.labels_an_image)
    images = images_of(settings, len(dataset.validation))
    accuracies = context_of(_weights_digest(net), dataset.id, job)
    warm = context.warm_start(settings.warm_start, space, accuracies, images[-1])
    identity = identity_of(job, space, problem.targets, images, accuracies, warm)
    scores_of = partial(_proxy_scores, space, dataset, job.seed)
    warm_up = settings.warm_up
    prefer = (lambda codes: scores_of([warm_up], codes)[warm_up]) if warm_up else None
    calibration = calibration_batches(dataset, job.train.augment, job.seed, settings.calibration_batches)
    mix = Mixer(Sensitivity(net, space, dataset.task, calibration)) if len(precision_columns(space)) else None
    aids = Aids(prefer, mix)
    plan = Plan(settings.sampler, settings.evaluations, images, settings.population, settings.patience, job.seed, aids)
    evaluator = Evaluator(net, space, calibration, Batches.of(dataset.validation, dataset))
    with (
        context.display.stage("search") as progress,
        context.trials() if context.trials else TrialStore(settings.store or folder.evaluations) as store,
        make_runner(evaluator, context.jobs, settings.ray_address) as runner,
    ):
        if context.anew:
            store.forget(identity.search)
        evaluations = Evaluations(store, digest(accuracies), runner, space)
        found = campaign(
            problem,
            plan,
            Extent(settings.seeds, settings.controls, len(dataset.validation)),
            store,
            evaluations,
            identity,
            warm=warm,
            progress=progress,
            reached=partial(_tell_reach, context),
            watch=context.watch,
        )
    _tell_infeasible(context, found)
    return {
        "search": {
            **search_json(found, time.perf_counter() - started),
            "sampler": settings.sampler,
            "images": list(images),
            "proxies": _proxies(space, dataset, job, found),
        },
        "devices": [device_json(found, target) for target in problem.targets],
    }


def measure_fronts(context: Run) -> None:
    """Where the job asks for it, every network of the fronts, measured on its device, into what the search stage wrote.

    Apart from that stage, which may run at a low priority; nothing that measures should.
    """
    if not context.job.search.measure_front:
        return
    folder, found = context.folder, context.folder.result("search")
    for device, result in zip(context.job.devices, found["devices"], strict=True):
        if any(row["latency_ms_measured"] is None for row in result["front"]):
            _measure_front(context, folder.space, device, result["front"])
            folder.write_json("search.json", found)


def export(context: Run) -> dict[str, Any]:
    """Make the picks of each front deployable, check and re-measure them: `models/`, and numbers for every front."""
    found = exported(_trained(context), context.folder.models, context.machine, context.display)
    return {"devices": found}


def export_into(context: Run, out: Path, force: bool) -> list[dict[str, Any]]:
    """As `export`, into another folder, of which the run knows nothing afterwards; `force` replaces exports that lie there."""
    allowed = partial(check_free, force=force)
    return exported(_trained(context), out.absolute(), context.machine, context.display, allowed, fronts=False)


PIPELINE: dict[str, Callable[[Run], dict[str, Any]]] = {
    "train": train,
    "profile": profile,
    "search": search,
    "export": export,
}


def _trained(context: Run) -> Trained:
    folder, job = context.folder, context.job
    net, _ = load_supernet(folder.supernet, float_space(folder.space))
    return Trained(folder.supernet, folder, job, net, load(job.source, folder.cache))


def _weights_digest(net: Supernet) -> str:
    """Of the numbers, not of the file: safetensors writes the keys of its header in a random order."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _proxy_scores(
    space: Space, dataset: Dataset, seed: int, names: Sequence[str], codes: Codes
) -> dict[str, NDArray[np.float64]]:
    """The scores of zero-cost proxies, on the first images of the training set's first epoch."""
    images, labels = batch_of(dataset.train, min(PROXY_IMAGES, len(dataset.train)), 0, seed)
    normalised = Normalisation(dataset.mean, dataset.std)(images)
    archs = [float_arch(space, arch) for arch in space.decode(codes)]
    return proxy_scores(float_space(space), archs, normalised, labels, names, seed=seed)


def _proxies(space: Space, dataset: Dataset, job: Job, found: Campaign) -> dict[str, Any] | None:
    """How far each proxy, and size, orders evaluated networks as accuracy does."""
    if not job.search.proxies:
        return None
    rows = np.flatnonzero(found.final)[:PROXY_NETWORKS]
    scores = _proxy_scores(space, dataset, job.seed, job.search.proxies, found.codes[rows])
    ranked = correlations(space, found.codes[rows], found.accuracy[rows], scores)
    return {"n": len(rows), "rows": [dataclasses.asdict(each) for each in ranked]}


def _tell_reach(context: Run, reach: Mapping[str, tuple[Reach, ...]]) -> None:
    for device, rows in reach.items():
        for row in rows:
            context.display.note(
                "search",
                f"{device}: {row.text}: the space has {row.low:.4g} to {row.high:.4g}, median {row.median:.4g}; "
                f"{row.share or 0:.0%} of random architectures meet it",
            )


def _tell_infeasible(context: Run, found: Campaign) -> None:
    for device, missed in found.searches[0].infeasible.items():
        (closest,) = found.problem.space.decode(missed.closest)
        values = "; ".join(f"{text!r}: it has {value:.4g}" for text, value in missed.missed)
        context.display.note(
            "search", f"no architecture meets the constraints on {device}; closest is {closest.id} ({values})"
        )


def _measure_front(context: Run, space: Space, device: Device, front: list[dict[str, Any]]) -> None:
    """Every network of a front, measured on its device; into its rows."""
    with context.display.stage(f"measure {device.name}") as progress:
        waiting = partial(progress, 0, len(front))
        rows = dict(enumerate(front))
        found = measured_front(context.job, space, device, context.machine(device), rows, {}, waiting)
        for index, measured in found.items():
            front[index] = with_measured(front[index], measured)
            context.watch.measured(device.name, front[index]["arch_id"], measured.median_us / 1e3)
        progress(len(front), len(front), "networks of the front")


def _report(folder: RunFolder) -> None:
    """`summary.json`, a CSV a front, `evaluations.csv` and `report.html`, from what the stages wrote."""
    summary = summarise(folder)
    for device in summary["devices"]:
        folder.write_text(str(folder.front(device["name"]).relative_to(folder.root)), front_csv(device))
    folder.write_text("evaluations.csv", evaluations_csv(summary))
    folder.write_text(folder.report.name, render(summary))
    folder.write_json(folder.summary.name, summary)
