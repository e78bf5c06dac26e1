"""What others do with the same evaluations: search methods of public tools, under the settings that these publish.

A peer gives the architectures that it evaluates, in order. One that it proposes twice counts twice, as in the tool, which
would evaluate it again; no tool masks inactive choices, so the same network may come under several names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
from landscape import Surface, fittest
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.problems.static import StaticProblem
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVR

from latency_tables.predicting.predictor import LatencyPredictor
from search_spaces import Codes, Space

F64 = NDArray[np.float64]

POPULATION = 50
# DyNAS-T's inner search on predictions, for spaces of the size of MobileNetV3's; 5,000 for its ResNet-50.
LINAS_INNER = 20_000


Peer = Callable[[Surface, LatencyPredictor, int, int], Codes]
"""(surface, predictor, evaluations, seed) -> the evaluated rows in order, canonical, repeats included."""


def random(surface: Surface, predictor: LatencyPredictor, evaluations: int, seed: int) -> Codes:
    """Each choice uniform over its values. Keeps no record, so an architecture may come again."""
    return surface.space.sample(np.random.default_rng(seed), evaluations)


def of_optuna(sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Peer:
    """A study that asks for one trial after the other. No sampler of Optuna avoids repeats."""

    def search(surface: Surface, predictor: LatencyPredictor, evaluations: int, seed: int) -> Codes:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = surface.space
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(seed))
        rows = np.empty((evaluations, len(space.choices)), dtype=np.int16)
        for i in range(evaluations):
            trial = study.ask()
            asked = [trial.suggest_int(choice.name, 0, len(choice.values) - 1) for choice in space.choices]
            rows[i : i + 1] = row = space.canonical(np.array([asked]))
            study.tell(trial, (float(surface.accuracy(row)[0]), float(predictor.predict(row)[0])))
        return rows

    return search


def gaussian_process(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed)


def dynas_nsga2(surface: Surface, predictor: LatencyPredictor, evaluations: int, seed: int) -> Codes:
    """pymoo's NSGA-II as DyNAS-T sets it up. An offspring that is in the population under the same name is bred anew; one
    that was there before, or is the same network under another name, is evaluated again."""
    return breed(surface.space, lambda codes: _both(surface.accuracy(codes), predictor, codes), evaluations, seed)


def breed(space: Space, objectives: Callable[[Codes], F64], evaluations: int, seed: int) -> Codes:
    """NSGA-II with the numbers in DyNAS-T 1.x, `search/evolutionary.py`: population 50, simulated binary crossover with
    probability 0.9 and index 15, polynomial mutation with probability 0.02 and index 20, both rounded.

    The objectives of canonical rows, `(m, 2)`, are to be small. Gives fewer rows where breeding finds nothing new.
    """
    width = len(space.choices)
    problem = Problem(n_var=width, n_obj=2, xl=np.zeros(width), xu=space.cardinalities - 1.0, vtype=int)
    rounded: dict[str, Any] = {"vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, **rounded),
        mutation=PM(prob=0.02, eta=20, **rounded),
        eliminate_duplicates=True,
    )
    algorithm.setup(problem, seed=seed, verbose=False)
    rows = np.empty((0, width), dtype=np.int16)
    while len(rows) < evaluations:
        asked = algorithm.ask()
        if asked is None or not len(asked):
            break
        codes = space.canonical(asked.get("X").astype(np.int16))
        rows = np.concatenate([rows, codes])
        Evaluator().eval(StaticProblem(problem, F=objectives(codes)), asked)
        algorithm.tell(infills=asked)
    return rows[:evaluations]


def of_linas(inner: int = LINAS_INNER) -> Peer:
    """LINAS (Cummings et al., "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities",
    2022): 50 random ones; then, in turn, fit a predictor of accuracy to all evaluated ones, breed `inner` on
    predictions, and evaluate the best 50.

    In three ways better off than the tool: it never evaluates again what it has bred, inactive choices are masked in
    what it fits to, and latencies need not be learned.
    """

    def search(surface: Surface, predictor: LatencyPredictor, evaluations: int, seed: int) -> Codes:
        space, rng = surface.space, np.random.default_rng(seed)
        rows = space.sample(rng, min(POPULATION, evaluations))
        accuracy = surface.accuracy(rows)
        while len(rows) < evaluations:
            model = learned(one_hot(space, rows), 100 * accuracy)
            predicted = partial(_predicted, model, space, predictor)
            bred = np.unique(breed(space, predicted, inner, int(rng.integers(2**31))), axis=0)
            new = bred[~(bred[:, None] == rows).all(axis=2).any(axis=1)]
            if not len(new):
                break
            best = new[fittest(predicted(new), min(POPULATION, evaluations - len(rows)))]
            rows, accuracy = np.concatenate([rows, best]), np.concatenate([accuracy, surface.accuracy(best)])
        return rows

    return search


def _predicted(model: Any, space: Space, predictor: LatencyPredictor, codes: Codes) -> F64:
    return _both(model.predict(one_hot(space, codes)) / 100, predictor, codes)


def learned(x: F64, percent: F64) -> Any:
    """What DyNAS-T's predictor chooses by cross-validation: ridge, or support vectors with a radial kernel. Its grids are
    ten times as fine, over the same ranges."""
    grids = [
        (Ridge(), {"alpha": np.geomspace(0.1, 10.0, 10)}),
        (SVR(kernel="rbf", gamma="auto", epsilon=0.0), {"C": np.geomspace(1.0, 100.0, 10)}),
    ]
    searches = [
        GridSearchCV(model, grid, scoring="neg_mean_absolute_percentage_error").fit(x, percent) for model, grid in grids
    ]
    return max(searches, key=lambda search: float(search.best_score_))


def one_hot(space: Space, codes: Codes) -> F64:
    """`(m, values of all choices)`; 0 where a choice is inactive."""
    active = space.active(codes)
    columns = [active[:, [j]] & (codes[:, [j]] == np.arange(k)) for j, k in enumerate(space.cardinalities)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _both(accuracy: F64, predictor: LatencyPredictor, codes: Codes) -> F64:
    return np.stack([1 - accuracy, predictor.predict(codes)], axis=1)


PEERS: dict[str, Peer] = {
    "random": random,
    # Optuna's own population is 50; at few evaluations a smaller one gets through more generations.
    "optuna_nsga2": of_optuna(lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "optuna_nsga2_20": of_optuna(lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20)),
    "optuna_tpe": of_optuna(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "optuna_gp": of_optuna(gaussian_process),
    "dynas_nsga2": dynas_nsga2,
    "linas": of_linas(),
}
