"""Accuracies of architectures: from the store where they are known, else from the runner, and then in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nas.searching.runners import Runner
from nas.searching.store import Evaluation, TrialStore
from search_spaces import Arch, Space, float_arch, precision_of

OnScore = Callable[[Arch, float, int], None]
"""Called with an architecture, its accuracy, and how many of those asked for have one."""


class Evaluations:
    """What is known under one `context`: a digest of all that accuracies depend on beside the architecture.

    What is in fp32 is known as what it is in `space` without precision, so that searches with and without share it.
    """

    def __init__(self, store: TrialStore, context: str, runner: Runner, space: Space) -> None:
        self._store, self._context, self._runner, self._space = store, context, runner, space
        self._known = {key: found.accuracy for key, found in store.evaluations(context).items()}

    def score(
        self, archs: Sequence[Arch], images: int, scored: OnScore = lambda arch, accuracy, done: None
    ) -> dict[Arch, float]:
        """The accuracy of each on the first `images` validation images, in the order of `archs`.

        `scored` is told of each that is evaluated for it, with how many have an accuracy then; it is in the store.
        """
        own = {arch: float_arch(self._space, arch) if precision_of(arch) == "fp32" else arch for arch in archs}
        known = {arch: self._known[own[arch].id, images] for arch in archs if (own[arch].id, images) in self._known}
        for arch, score in self._runner.scores([arch for arch in archs if arch not in known], images):
            stored = own[arch]
            self._store.add(self._context, stored, Evaluation(stored.id, images, score.val_accuracy, score.seconds))
            self._known[stored.id, images] = known[arch] = score.val_accuracy
            scored(arch, score.val_accuracy, len(known))
        return {arch: known[arch] for arch in archs}
