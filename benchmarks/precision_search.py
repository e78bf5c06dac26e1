"""What it brings to search over architecture and precision together, at equally many evaluations.

    python benchmarks/precision_search.py RUN [--seeds 10] [--evaluations 100] [--images 1000] [--device cpu_t1]

RUN is the folder of a run whose space has precisions and whose devices are profiled. Each seed searches four times: over
networks in fp32 alone; the same with a fifth of the evaluations kept for the networks of its front in int8; and over both
together, without and with candidates from integer programming (`nas.searching.mixing`). All are judged by the same predictor
and on the same validation images, by the hypervolume of accuracy and latency.
Evaluations are kept in RUN/precision_search.sqlite, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ratio import print_result

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
    "together": Bench.together,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--device", default="cpu_t1")
    options = parser.parse_args(arguments)
    folder = RunFolder.open(options.run)
    job, space = folder.job, folder.space
    plain = float_space(space)
    dataset = load(job.source, folder.cache)
    net, _ = load_supernet(folder.supernet, plain)
    calibration = calibration_batches(dataset, job.train.augment, job.seed)
    predictor = load_predictor(folder.predictor(options.device), space=space)
    validation = Batches.of(dataset.validation, dataset, options.images)
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
            options.images,
        )
        rows: list[dict[str, float]] = []
        for seed in range(options.seeds):
            rows.append({name: bench.worth(of(bench, options.evaluations, seed)) for name, of in METHODS.items()})
            print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in rows[-1].items()), flush=True)
    ahead = {name: sum(row["together"] > row[name] for row in rows) for name in METHODS if name != "together"}
    print(f"together is ahead of {', '.join(f'{name} in {n} of {len(rows)}' for name, n in ahead.items())} seeds")
    print_result("precision_search", {"evaluations": options.evaluations, "hypervolumes": rows, "ahead": ahead})


if __name__ == "__main__":
    main()
