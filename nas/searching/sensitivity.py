"""How much a network's answers change where one part of it computes in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nas.deployed import Deployed, answers_of, open_model
from search_spaces import Arch, Space, float_arch, lifted, precision_columns
from supernets.calibrate import calibrate
from supernets.datasource import TaskName
from supernets.supernet import Supernet
from supernets.tasks import TASKS

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The divergence of the answers of a network with one part in int8 from those in fp32, on the training images that the
    ranges of integers are seen on."""

    net: Supernet
    space: Space
    task: TaskName
    calibration: Sequence[Tensor]

    def __call__(self, arch: Arch) -> F64:
        """For each choice of precision of the space, in order; 0 where the architecture does not have it."""
        plain, task = float_arch(self.space, arch), TASKS[self.task]
        graphs = Deployed.of(self.net, self.space, arch, calibrate(self.net, plain, self.calibration), self.calibration)
        in_fp32 = lifted(self.space, plain)

        def answers(of: Arch) -> Tensor:
            return answers_of(open_model(graphs.model(of).SerializeToString(), of.id), graphs.images.numpy())

        wanted = answers(in_fp32)
        taught, cross_entropy = task.probabilities(wanted), task.distillations["cross_entropy"]
        entropy = cross_entropy(wanted, taught)
        losses = np.zeros(len(precision_columns(self.space)))
        for p, column in enumerate(precision_columns(self.space)):
            name = self.space.choices[column].name
            if name in in_fp32.values:
                found = answers(self.space.arch({**in_fp32.values, name: "int8"}))
                # Less the entropy of the answers in fp32, a cross-entropy is the divergence.
                losses[p] = float(cross_entropy(found, taught) - entropy)
        return losses
