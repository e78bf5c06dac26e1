"""What it brings to search over architecture and precision together, at equally many evaluations. A part of `deploy.py`.

`--run RUN` is the folder of a run whose space has precisions and whose devices are profiled. Each seed searches four times:
over networks in fp32 alone; the same with a fifth of the evaluations kept for the networks of its front in int8; and over both
together, without and with candidates from integer programming (`nas.searching.mixing`). All are judged by the same predictor,
of the run's first device, and on the same validation images, by the hypervolume of accuracy and latency: higher than the first
two is wanted in 8 of 10 seeds.
Evaluations are kept in RUN/precision_search.sqlite, so that an interrupted comparison goes on.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.predictor import LatencyPredictor, load_predictor
from nas.folder import RunFolder
from nas.searching.engine import Identity, Plan, search
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Evaluator
from nas.searching.mixing import Mixer
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.runners import make_runner
from nas.searching.samplers import Mix
from nas.searching.sensitivity import Sensitivity
from nas.searching.store import TrialStore
from nas.searching.studies import Aids
from search_spaces import Arch, Codes, Space, float_arch, float_space, lifted
from supernets.batches import Batches, calibration_batches
from supernets.checkpoint import load_supernet
from supernets.dataset import load

F64 = NDArray[np.float64]
EVALUATIONS, IMAGES = 100, 1000
KEPT = 5
"""One evaluation in so many is kept for integers where they come after the search."""


@dataclass(frozen=True, eq=False)
class InFp32:
    """A predictor of a space with precision, for the same space without."""

    space: Space
    of: LatencyPredictor

    def predict(self, codes: Codes) -> F64:
        return self.of.predict(self.of.space.encode(lifted(self.of.space, arch) for arch in self.space.decode(codes)))


@dataclass(frozen=True, eq=False)
class Bench:
    joint: Problem
    plain: Problem
    evaluations: Evaluations
    plain_evaluations: Evaluations
    mix: Mix
    images: int

    def worth(self, scores: dict[Arch, float]) -> float:
        codes, accuracy = self.joint.space.encode(scores), np.array(list(scores.values()))
        return self.joint.hypervolume(self.joint.targets[0], codes, accuracy)

    def floats(self, n: int, seed: int) -> dict[Arch, float]:
        """A search in fp32, as architectures of the space with precision."""
        found = self._search(self.plain, self.plain_evaluations, n, seed)
        return {lifted(self.joint.space, arch): accuracy for arch, accuracy in found.items()}

    def afterwards(self, n: int, seed: int) -> dict[Arch, float]:
        """A shorter search in fp32, then its front in int8: evenly over it where it has more networks than are left."""
        found = self.floats(n - n // KEPT, seed)
        archs, accuracy = list(found), np.array(list(found.values()))
        front = self.joint.front(self.joint.targets[0], self.joint.space.encode(archs), accuracy)
        if len(front) > n // KEPT:
            front = front[np.linspace(0, len(front) - 1, n // KEPT).round().astype(int)]
        space = self.joint.space
        integers = [lifted(space, float_arch(space, archs[i]), "int8") for i in front]
        return found | self.evaluations.score(integers, self.images)

    def unmixed(self, n: int, seed: int) -> dict[Arch, float]:
        return self._search(self.joint, self.evaluations, n, seed)

    def together(self, n: int, seed: int) -> dict[Arch, float]:
        return self._search(self.joint, self.evaluations, n, seed, self.mix)

    def _search(
        self, problem: Problem, evaluations: Evaluations, n: int, seed: int, mix: Mix | None = None
    ) -> dict[Arch, float]:
        with TrialStore("sqlite://") as proposals:
            plan = Plan("guided_mixed" if mix else "guided", n, (self.images,), seed=seed, aids=Aids(mix=mix))
            found = search(problem, plan, Identity("search"), proposals, evaluations)
        return dict(zip(problem.space.decode(found.codes), found.accuracy.tolist(), strict=True))


METHODS: dict[str, Callable[[Bench, int, int], dict[Arch, float]]] = {
    "fp32": Bench.floats,
    "int8 afterwards": Bench.afterwards,
    "without mixing": Bench.unmixed,
    "with mixing": Bench.together,
}


def part(families: Mapping[str, Space], options: Namespace) -> dict[str, object]:
    seeds = 1 if options.quick else options.seeds
    folder = RunFolder.open(options.run)
    job, space = folder.job, folder.space
    plain = float_space(space)
    dataset = load(job.source, folder.cache)
    net, _ = load_supernet(folder.supernet, plain)
    calibration = calibration_batches(dataset, job.train.augment, job.seed)
    predictor = load_predictor(folder.predictor(job.devices[0].name), space=space)
    validation = Batches.of(dataset.validation, dataset, IMAGES)
    with (
        TrialStore(options.run / "precision_search.sqlite") as store,
        make_runner(Evaluator(net, space, calibration, validation), 1, None) as both,
        make_runner(Evaluator(net, plain, calibration, validation), 1, None) as floats,
    ):
        bench = Bench(
            Problem(space, (Target("device", space, 1, {"latency_ms": predictor}),)),
            Problem(plain, (Target("device", plain, 1, {"latency_ms": InFp32(plain, predictor)}),)),
            Evaluations(store, "precision_search", both, space),
            Evaluations(store, "precision_search", floats, plain),
            Mixer(Sensitivity(net, space, dataset.task, calibration)),
            IMAGES,
        )
        rows: list[dict[str, float]] = []
        for seed in range(seeds):
            rows.append({name: bench.worth(of(bench, EVALUATIONS, seed)) for name, of in METHODS.items()})
            print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in rows[-1].items()), flush=True)
    ahead = {
        name: sum(row["without mixing"] > row[name] for row in rows) for name in METHODS if name != "without mixing"
    }
    shown = ", ".join(f"{name} in {n} of {len(rows)}" for name, n in ahead.items())
    print(f"together without mixing is ahead of {shown} seeds")
    return {"evaluations": EVALUATIONS, "hypervolumes": rows, "ahead": ahead}
