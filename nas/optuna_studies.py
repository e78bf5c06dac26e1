"""A run's search as Optuna studies in any of Optuna's storages, for its plots and for optuna-dashboard."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import optuna
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import JobError
from nas.folder import RunFolder
from nas.searching.campaign import seeds_of
from nas.searching.inputs import CONTEXT, images_of, name_of, problem_of
from nas.searching.problem import Problem
from nas.searching.store import Evaluation, Proposal, TrialStore
from nas.searching.studies import Scored, trials_of
from search_spaces import digest


def write_studies(
    folder: RunFolder, storage: str | BaseStorage, trials: Callable[[], TrialStore] | None = None
) -> list[str]:
    """One study a device, `JOB DEVICE`, with a trial for each proposal that was evaluated; their names.

    `trials` opens the store of evaluations in place of that of the job. `JobError` where nothing was searched, or where a
    study of this name is there already.
    """
    job, space = folder.job, folder.space
    images = images_of(job.search, folder.result("train")["data"]["validation"])
    problem = problem_of(folder, job, space)
    with trials() if trials else TrialStore(job.search.store or folder.evaluations) as store:
        asked, known = _trials(
            store, name_of(job, space, problem.targets, images), seeds_of(job.seed, job.search.seeds)
        )
    rows = [(row, found) for row in asked if (found := _best(known, row.arch_id, images)) is not None]
    if not rows:
        raise JobError(
            f"{folder.root}: no architecture was evaluated under this job; run `nas search {folder.root}` first"
        )
    codes = np.array([row.codes for row, _ in rows], dtype=np.int16)
    accuracy = np.array([found.accuracy for _, found in rows])
    read = np.array([found.images for _, found in rows], dtype=np.int64)
    scored = Scored(space.canonical(codes), accuracy, read)
    names = []
    for target in problem.targets:
        alone = replace(problem, targets=(target,))
        study = _created(f"{job.name} {target.name}", alone, storage)
        study.add_trials(trials_of(alone, codes, scored, [{}] * len(codes)))
        names.append(study.study_name)
    return names


def _created(name: str, problem: Problem, storage: str | BaseStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=problem.directions())
    except optuna.exceptions.DuplicatedStudyError as error:
        raise JobError(f"{storage}: has a study {name!r} already; delete it or choose another storage") from error
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ValueError, ImportError) as error:
        raise JobError(f"{storage}: is no storage that Optuna can use ({str(error).splitlines()[0]})") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it has been so since version 3.2
        study.set_metric_names(list(problem.objectives))
    return study


def _trials(
    store: TrialStore, name: str, seeds: list[int]
) -> tuple[list[Proposal], Mapping[tuple[str, int], Evaluation]]:
    """What the searches of all seeds asked for, and the evaluations that they share."""
    searches = store.searches()
    names = [each for each in (f"{name}/{seed}" for seed in seeds) if each in searches]
    asked = [proposal for each in names for proposal in store.proposals(each)]
    if not asked:
        return [], {}
    inputs = searches[names[0]]
    return asked, store.evaluations(digest({part: inputs[part] for part in CONTEXT}))


def _best(known: Mapping[tuple[str, int], Evaluation], arch_id: str, images: tuple[int, ...]) -> Evaluation | None:
    """On the most images."""
    return next((known[arch_id, n] for n in reversed(images) if (arch_id, n) in known), None)
