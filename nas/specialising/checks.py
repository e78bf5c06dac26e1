"""What a deployed network is worth on the test images: from its bytes, in ONNX Runtime, against torch and the largest network.

Shapes: B images of a batch, N of all, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from nas.deployed import PORTION, answers_of, as_given, open_model
from nas.errors import JobError
from nas.searching.evaluator import THREADS
from nas.specialising.specialise import LAYOUT, Specialised, Tuning, supernet_weights
from search_spaces import Arch, precision_of
from supernets.batches import Batches
from supernets.evaluation import Evaluation, judged
from supernets.side_by_side import side_by_side
from supernets.supernet import Supernet
from supernets.tasks import agreeing, task_of

MAX_ABS_DIFF = 1e-4

Labelled = Batches | Sequence[tuple[Tensor, Tensor]]
"""Batches of normalised images (B, C, H, W) with their labels."""

Answered = TypeVar("Answered")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of labelled images, in their order: logits (N, K)."""

    logits_NK: Tensor
    labels: Tensor

    @property
    def right_N(self) -> Tensor:
        """Whether all that is said of an image is so: its class, or its whole set of classes."""
        same = task_of(self.labels).decided(self.logits_NK) == self.labels
        return same.view(len(same), -1).all(1)

    def evaluated(self) -> Evaluation:
        return judged([(self.logits_NK, self.labels)])


@dataclass(frozen=True, slots=True)
class Parity:
    """ONNX Runtime against torch, which computes in fp32: the largest difference of a logit, the share of images of which both
    say the same, and the score of torch."""

    max_abs_diff: float
    top1_agreement: float
    in_fp32: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A network against the largest of its space, on the same images; changes are this one's less the largest's.

    `disagreement`: the share of images of which the two say different things. `forgotten` and `gained`: images that the
    largest gets right and this one wrong, and the other way round, which hide behind equal accuracies (Hooker et al., "What
    Do Compressed Deep Neural Networks Forget?", 2019). `change_by_class`: None where a class has no image;
    `forgotten_by_class`: an image with several classes counts for each.
    """

    accuracy: float
    """Of the largest network."""
    change: float
    change_by_class: tuple[float | None, ...]
    disagreement: float
    forgotten: int
    gained: int
    forgotten_by_class: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Checked:
    """One architecture as an ONNX model, with what that is worth on the test images."""

    arch: Arch
    model: bytes
    answers: Answers
    evaluation: Evaluation
    parity: Parity
    compared: Compared
    tunings: tuple[Tuning, ...]

    @property
    def test_accuracy(self) -> float:
        return self.evaluation.accuracy


def check(made: Specialised, test: Labelled, largest: Answers) -> Checked:
    """Run the model on the test images. `largest`: what the largest network says of the same ones, in the same order.

    `JobError` if ONNX Runtime and torch do not agree on what a network in fp32 computes.
    """
    found, parity = deployed_answers(made, test)
    evaluation = found.evaluated()
    return Checked(made.arch, made.model, found, evaluation, parity, compare(found, evaluation, largest), made.tunings)


def supernet_answers(net: Supernet, arch: Arch, calibration: Sequence[Tensor], batches: Labelled) -> Answers:
    """What an architecture says with the weights of the supernet, its batch norm calibrated on these images."""
    weights = supernet_weights(net, net.space, arch, calibration)
    return model_answers(weights.deployed.model(arch).SerializeToString(), arch, batches)


def model_answers(model: bytes, arch: Arch, batches: Labelled) -> Answers:
    """What a model says in ONNX Runtime."""
    session = open_model(model, arch.id)

    def answer(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x_BCHW, y_B = batch
        return answers_of(session, as_given(x_BCHW, arch).numpy()), y_B

    return _joined(batch_by_batch(answer, batches))


def deployed_answers(made: Specialised, batches: Labelled) -> tuple[Answers, Parity]:
    """What the model says in ONNX Runtime, and how far that is from torch."""
    session = open_model(made.model, made.arch.id)

    def answer(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW, y_B = batch
        sized = as_given(x_BCHW, made.arch)
        with torch.no_grad():
            wanted = torch.cat([made.plain(x.contiguous(memory_format=LAYOUT)) for x in torch.split(sized, PORTION)])
        return answers_of(session, sized.numpy()), y_B, wanted

    answered = batch_by_batch(answer, batches)
    found, wanted_NK = _joined([each[:2] for each in answered]), torch.cat([wanted for _, _, wanted in answered])
    largest_difference = float((wanted_NK - found.logits_NK).abs().max())
    if precision_of(made.arch) == "fp32" and not largest_difference <= MAX_ABS_DIFF:  # nor where it is not a number
        raise JobError(
            f"the ONNX model of {made.arch.id} differs from torch by {largest_difference:.2g} (at most {MAX_ABS_DIFF:g} is "
            "allowed)"
        )
    task = task_of(found.labels)
    agreement = agreeing(task, wanted_NK, found.logits_NK) / len(found.labels)
    return found, Parity(largest_difference, agreement, task.score(task.kept(wanted_NK, found.labels)))


def batch_by_batch(answer: Callable[[tuple[Tensor, Tensor]], Answered], batches: Labelled) -> list[Answered]:
    """Each batch made and answered by one thread, as rounding may depend on how many there are, and batches side by side."""
    threads, begin = torch.get_num_threads(), partial(torch.set_num_threads, THREADS)
    return list(side_by_side(lambda number: answer(batches[number]), range(len(batches)), threads, begin))


def _joined(answered: Iterable[tuple[Tensor, Tensor]]) -> Answers:
    logits, labels = zip(*answered, strict=True)
    return Answers(torch.cat(logits), torch.cat(labels))


def compare(found: Answers, evaluation: Evaluation, largest: Answers) -> Compared:
    """A network's answers against the largest's; `evaluation` is of the former."""
    best, task = largest.evaluated(), task_of(found.labels)
    lost_N, classes = largest.right_N & ~found.right_N, found.logits_NK.shape[1]
    has_NK = found.labels if found.labels.dim() == 2 else torch.nn.functional.one_hot(found.labels, classes)
    return Compared(
        accuracy=best.accuracy,
        change=evaluation.accuracy - best.accuracy,
        change_by_class=tuple(
            None if mine is None or its is None else mine - its
            for mine, its in zip(evaluation.by_class, best.by_class, strict=True)
        ),
        disagreement=1 - agreeing(task, found.logits_NK, largest.logits_NK) / evaluation.images,
        forgotten=int(lost_N.sum()),
        gained=int((found.right_N & ~largest.right_N).sum()),
        forgotten_by_class=tuple(has_NK[lost_N].long().sum(0).tolist()),
    )
