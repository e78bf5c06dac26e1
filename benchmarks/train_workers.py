"""Training by several workers on Ray beside training by one: images a second, step by step in turn.

    python benchmarks/train_workers.py --quick

Both train the same sub-networks on the same images with as many threads a worker; the workers wait while the one trains, and
the other way round. Above 1, several are faster. Where others use the machine, workers wait for whichever of them had to
wait: then the ratio of processor times says what cores of their own would give at most.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median

import numpy as np
import torch
from ratio import Ratio, arguments, print_result

from nas.service.orphans import descendants
from nas.training import train_on_ray
from search_spaces import define_space
from supernets.dataset import Dataset, Images
from supernets.settings import TrainSettings
from supernets.state import fresh_state
from supernets.train import steps

CLASSES, SIZE_PX = 10, 32
BATCHES = 4
"""In an epoch. The first step of either side is not counted: it pays for the set-up of every convolution."""


def noise(batch: int) -> Dataset:
    """Images to compute with, not to learn from."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Images:
        pixels = rng.integers(0, 256, (count, 3, SIZE_PX, SIZE_PX)).astype(np.uint8)
        return Images(pixels, np.arange(count, dtype=np.int64) % CLASSES)

    return Dataset.of(drawn(BATCHES * batch), drawn(64), drawn(64), [str(i) for i in range(CLASSES)])


@dataclass(frozen=True, slots=True)
class Step:
    """What one step took of either side. `busy_s` is processor time, of the busiest of several workers: on cores that nobody
    else uses, a step cannot take less."""

    one_s: float
    one_busy_s: float
    several_s: float
    several_busy_s: float


def compared(settings: TrainSettings) -> list[Step]:
    """All steps of a training but the first, by one and by `settings.workers`."""
    space, dataset = define_space("tiny", num_classes=CLASSES, in_channels=3), noise(settings.batch)
    alone = steps(fresh_state(space, settings), dataset, settings)
    found: list[Step] = []
    left_s, busy = time.perf_counter(), dict[int, float]()

    def take_turns(done: int, total: int, text: str) -> None:
        nonlocal left_s, busy
        several_s, now_busy = time.perf_counter() - left_s, {pid: busy_s(pid) for pid in workers()}
        count = done - len(found)
        for _ in range(count):
            start_s, start_busy_s = time.perf_counter(), time.process_time()
            next(alone)
            one_s, one_busy_s = time.perf_counter() - start_s, time.process_time() - start_busy_s
            busiest_s = max(now_busy[pid] - busy.get(pid, 0.0) for pid in now_busy)
            found.append(Step(one_s, one_busy_s, several_s / count, busiest_s / count))
            print(
                f"step {len(found)} of {total}: {one_s:.2f} s by one, {several_s / count:.2f} s by {settings.workers}",
                flush=True,
            )
        left_s, busy = time.perf_counter(), now_busy

    train_on_ray(space, dataset, settings, progress=take_turns)
    return found[1:]


def workers() -> list[int]:
    """The processes of the training's workers."""
    return [
        pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Worker")
    ]


def busy_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.set_defaults(threads=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - else they would make way for this process
    settings = TrainSettings(
        epochs=ceil((8 if given.quick else given.repetitions) / BATCHES),
        batch=given.batch,
        layout="fp32_channels_last",
        device="cpu",
        workers=given.workers,
        threads=given.threads,
        evaluations=1,
    )
    found = compared(settings)
    images_per_s = {
        "one": given.batch / median(step.one_s for step in found),
        "several": given.batch / median(step.several_s for step in found),
    }
    faster = Ratio.of([step.one_s for step in found], [step.several_s for step in found])
    at_most = Ratio.of([step.one_busy_s for step in found], [step.several_busy_s for step in found])
    print(f"one: {images_per_s['one']:.0f} images a second; {given.workers}: {images_per_s['several']:.0f}")
    print(f"{given.workers} workers are {faster} times as fast as one; by processor time, {at_most}")
    result = {"images_per_s": images_per_s, "speed_up": asdict(faster), "speed_up_by_processor_time": asdict(at_most)}
    print_result("train_workers", {"workers": given.workers, "batch": given.batch, "threads": given.threads, **result})


if __name__ == "__main__":
    main()
