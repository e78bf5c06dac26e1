"""How well few measurements carry other devices' latencies over to a new one, on published latencies.

    python benchmarks/latency_transfer.py FILE.npz [--samples 10 20 50] [--seeds 5] [--choose both] [--out RESULT.json]

FILE has, for each space S: S_codes (n, choices), S_features (n, k), S_latency_ms (n, devices), S_devices (names), S_targets
(those to be treated as new; all others are known). Of a target, only the latencies of the sampled architectures are used,
and all to score. Beside our method stand, on the same samples: ridge on the known devices' log latencies, its penalty
learned by letting known devices play the new one; and a Gaussian process on the features, their relevance learned on the
known devices, its covariance on these and the samples.

Protocols: `full` samples from the first --pool architectures and scores on all others; `help` samples from their central 80% by
the target's latency and scores on the central 80% of the next 1,000 (as HELP, Lee et al., NeurIPS 2021).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ratio import print_result

from latency_tables.predicting.carry import carry, choose
from latency_tables.predicting.kernels import Posterior, radial
from latency_tables.predicting.known import KnownDevices
from latency_tables.predicting.metrics import mape, spearman, within

F64 = NDArray[np.float64]
Index = NDArray[np.int64]

SCORED = 1000
CENTRAL = 0.8
CEILING_SAMPLES = 900
COVERAGE = 0.9
PENALTIES: F64 = 10.0 ** np.arange(-2.0, 3.1, 0.5)
# Architectures of a known device on which a penalty is tried.
TRIED = 500
# Linear kernel, radial kernel, noise.
GP_SETTINGS: F64 = np.array(list(product([0.0, 0.03, 0.3, 3.0], [0.03, 0.3, 3.0], [0.003, 0.01, 0.03, 0.1, 0.3])))
# Deviations on either side of the mean that hold 90% of a normal distribution.
NORMAL_90 = 1.6449
FIGURES = ("spearman", "mape", "median_error", "within_5", "within_10", "coverage")


class InputError(ValueError):
    """The file or an option is not usable; the message names it."""


@dataclass(frozen=True, slots=True)
class Published:
    """One space of the file."""

    space: str
    codes: NDArray[np.integer]
    features: F64
    latency_ms: F64
    devices: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def known(self) -> Index:
        return np.array([i for i, name in enumerate(self.devices) if name not in self.targets])


@dataclass(frozen=True, slots=True)
class Task:
    """One target under one protocol."""

    known: KnownDevices
    log_ms: F64
    pool: Index
    scored: Index


@dataclass(frozen=True, slots=True)
class Guess:
    """Log latencies of the scored architectures and half the width of their 90% interval."""

    log_ms: F64
    half: F64 | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one target, at one number of samples; the mean over its draws. None where there is no such figure."""

    space: str
    protocol: str
    choose: str
    samples: int
    device: str
    method: str
    spearman: float | None
    mape: float
    median_error: float
    within_5: float
    within_10: float
    coverage: float | None


def published(path: Path) -> dict[str, Published]:
    """All spaces of the file; `InputError` names the file and the key that is wrong."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as NPZ without pickles: {error}") from error
    spaces = sorted(key.removesuffix("_latency_ms") for key in arrays if key.endswith("_latency_ms"))
    if not spaces:
        raise InputError(f"{path}: no key ends in _latency_ms, so there is no space")
    return {space: _published(path, space, arrays) for space in spaces}


def _published(path: Path, space: str, arrays: Mapping[str, NDArray[np.generic]]) -> Published:
    def wanted(part: str, dimensions: int, kinds: str) -> NDArray[np.generic]:
        key = f"{space}_{part}"
        if key not in arrays:
            raise InputError(f"{path}: {key}: missing")
        array = arrays[key]
        if array.ndim != dimensions or array.dtype.kind not in kinds or not array.size:
            raise InputError(f"{path}: {key}: wanted {dimensions} dimensions, got {array.dtype} {array.shape}")
        return array

    latency = wanted("latency_ms", 2, "fiu").astype(np.float64)
    features, codes = wanted("features", 2, "fiu").astype(np.float64), wanted("codes", 2, "iu")
    devices, targets = (tuple(map(str, wanted(part, 1, "U"))) for part in ("devices", "targets"))
    for part, length, rows in (
        ("codes", len(codes), len(latency)),
        ("features", len(features), len(latency)),
        ("devices", len(devices), latency.shape[1]),
    ):
        if length != rows:
            raise InputError(f"{path}: {space}_{part}: wanted {rows} entries as in {space}_latency_ms, got {length}")
    if not np.isfinite(features).all():
        raise InputError(f"{path}: {space}_features: a number is NaN or infinite")
    if not (np.isfinite(latency) & (latency > 0)).all():
        raise InputError(f"{path}: {space}_latency_ms: a latency is NaN, infinite or not above 0")
    if len(set(devices)) != len(devices):
        raise InputError(f"{path}: {space}_devices: a name stands there twice")
    for name in targets:
        if name not in devices:
            raise InputError(f"{path}: {space}_targets: {name!r} is not in {space}_devices")
    found = Published(space, codes.astype(np.int64), features, latency, devices, targets)
    if len(found.known) < 2:
        raise InputError(f"{path}: {space}_targets: leaves {len(found.known)} known devices, wanted 2 or more")
    return found


def pool_size(n: int) -> int:
    """How many of the first architectures may be sampled: 900 of a large space, else all but 1,000 to be scored."""
    return 900 if n >= 10_000 else max(n - SCORED, n // 2)


def full(latency_ms: F64, pool: int) -> tuple[Index, Index]:
    return np.arange(pool), np.arange(pool, len(latency_ms))


def central(latency_ms: F64, pool: int) -> tuple[Index, Index]:
    ends = (0, pool), (pool, min(pool + SCORED, len(latency_ms)))
    first, then = (_middle(np.arange(*end), latency_ms) for end in ends)
    return first, then


def _middle(index: Index, latency_ms: F64) -> Index:
    ordered = index[np.argsort(latency_ms[index], kind="stable")]
    cut = (1 - CENTRAL) / 2 * len(ordered)
    return ordered[round(cut) : len(ordered) - round(cut)]


PROTOCOLS: dict[str, Callable[[F64, int], tuple[Index, Index]]] = {"full": full, "help": central}


def transfer(task: Task, sampled: Index) -> Guess:
    carried = carry(task.known, sampled, np.exp(task.log_ms[sampled]))
    low, high = carried.interval(task.known.rows[task.scored], COVERAGE)
    return Guess(np.log(low * high) / 2, np.log(high / low) / 2)


def ceiling(task: Task, sampled: Index) -> Guess:
    """Our method without intervals, which take a fit for each known device."""
    posterior = Posterior.of(task.known.rows[sampled], task.log_ms[sampled], task.known.usual_spread)
    return Guess(posterior.mean(task.known.rows[task.scored]))


def ridge(task: Task, sampled: Index) -> Guess:
    known = task.known.log_ms_nd
    tried, rng = np.zeros(len(PENALTIES)), np.random.default_rng(0)
    count = len(sampled)
    for device in range(known.shape[1]):
        rest, y = np.delete(known, device, 1), known[:, device]
        for _ in range(3):
            drawn = rng.permutation(task.pool)[: count + TRIED]
            guesses = (_ridge(rest[drawn], np.arange(count), y[drawn[:count]], penalty) for penalty in PENALTIES)
            tried += [np.abs(guess[count:] - y[drawn[count:]]).mean() for guess in guesses]
    return Guess(_ridge(known, sampled, task.log_ms[sampled], PENALTIES[tried.argmin()])[task.scored])


def _ridge(inputs: F64, sampled: Index, y: F64, penalty: float) -> F64:
    columns = (inputs - inputs.mean(axis=0)) / np.maximum(inputs.std(axis=0), 1e-12)
    middle, level = columns[sampled].mean(axis=0), y.mean()
    x = columns[sampled] - middle
    weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(y)), y - level)
    predicted: F64 = level + (columns - middle) @ weights
    return predicted


def gaussian_process(task: Task, sampled: Index) -> Guess:
    features = _weighted(task.known)
    similar = _similar(features[sampled], features[sampled])
    known = task.known.log_ms_nd[sampled]
    evidence = np.zeros(len(GP_SETTINGS))
    for y, weight in [(column, 1 / known.shape[1]) for column in known.T] + [(task.log_ms[sampled], 1.0)]:
        evidence += [weight * _gp(setting, similar, y)[0] for setting in GP_SETTINGS]
    best = GP_SETTINGS[evidence.argmax()]
    y = task.log_ms[sampled]
    _, inverse, scale = _gp(best, similar, y)
    cross = np.tensordot(best[:2], _similar(features[task.scored], features[sampled]), 1) + 25.0
    own = best[0] * (features[task.scored] ** 2).mean(axis=1) + best[1] + 25.0 + best[2]
    variance = scale * np.maximum(own - ((cross @ inverse) * cross).sum(axis=1), best[2])
    return Guess(np.median(y) + cross @ inverse @ (y - np.median(y)), NORMAL_90 * np.sqrt(variance))


def _weighted(known: KnownDevices) -> F64:
    """Features, each as wide as its coefficients are in linear fits to the known devices; 1 on average."""
    features = known.rows.features_nk
    gram = features.T @ features + 0.01 * len(features) * np.eye(features.shape[1])
    targets = (known.log_ms_nd - np.median(known.log_ms_nd, axis=0)) / known.spread_d
    relevance = (np.linalg.solve(gram, features.T @ np.clip(targets, -4, 4)) ** 2).mean(axis=1)
    weighted: F64 = features * np.sqrt(relevance / relevance.mean())
    return weighted


def _similar(a: F64, b: F64) -> F64:
    return np.stack([a @ b.T / a.shape[1], radial(a, b)])


def _gp(setting: F64, similar: F64, y: F64) -> tuple[float, F64, float]:
    """Log evidence with the scale at its best, the inverse covariance, and that scale."""
    inverse = np.linalg.inv(np.tensordot(setting[:2], similar, 1) + 25.0 + setting[2] * np.eye(len(y)))
    centred = y - np.median(y)
    scale = float(centred @ inverse @ centred) / len(y) + 1e-12
    return 0.5 * float(np.linalg.slogdet(inverse)[1]) - 0.5 * len(y) * np.log(scale), inverse, scale


METHODS: dict[str, Callable[[Task, Index], Guess]] = {
    "transfer": transfer,
    "ridge": ridge,
    "gaussian_process": gaussian_process,
}


def figures(guess: Guess, measured_ms: F64) -> tuple[float, ...]:
    """In the order of `FIGURES`; NaN for what there is not."""
    predicted, off = np.exp(guess.log_ms), guess.log_ms - np.log(measured_ms)
    relative = np.abs(predicted / measured_ms - 1)
    held = float("nan") if guess.half is None else float(np.mean(np.abs(off) <= guess.half))
    shares = within(predicted, measured_ms, 0.05), within(predicted, measured_ms, 0.10)
    return spearman(predicted, measured_ms), mape(predicted, measured_ms), float(np.median(relative)), *shares, held


def samples_of(task: Task, count: int, how: str, seeds: int, device: int) -> Iterator[Index]:
    """Random ones for each seed; chosen ones, which do not depend on a seed, once."""
    if how == "active":
        yield choose(task.known, count, task.pool)
        return
    for seed in range(seeds):
        yield np.random.default_rng([seed, device, count]).choice(task.pool, count, replace=False)


def scores(data: Published, options: argparse.Namespace) -> Iterator[Score]:
    known = KnownDevices.of(data.features, data.latency_ms[:, data.known], data.codes)
    pool = options.pool or pool_size(len(data.codes))
    for protocol, device in product(options.protocols, _wanted(data, options.devices)):
        column = data.devices.index(device)
        y = data.latency_ms[:, column]
        task = Task(known, np.log(y), *PROTOCOLS[protocol](y, pool))
        runs = [(count, how, METHODS) for count, how in product(options.samples, options.choose)]
        if options.ceiling:
            runs.append((min(CEILING_SAMPLES, len(task.pool)), "random", {"transfer": ceiling}))
        for count, how, methods in runs:
            seeds = 1 if methods is not METHODS else options.seeds
            drawn = list(samples_of(task, count, how, seeds, column))
            for method, guess in methods.items():
                found = np.mean([figures(guess(task, sampled), y[task.scored]) for sampled in drawn], axis=0)
                shown = [None if np.isnan(value) else float(value) for value in found]
                yield Score(data.space, protocol, how, count, device, method, *shown)


def _wanted(data: Published, names: Sequence[str] | None) -> tuple[str, ...]:
    return data.targets if names is None else tuple(name for name in data.targets if name in names)


def check(options: argparse.Namespace, spaces: Mapping[str, Published]) -> None:
    """`InputError` for what cannot be run, before anything runs."""
    for name in options.spaces or ():
        if name not in spaces:
            raise InputError(f"{options.file}: no space {name!r}; it has {', '.join(spaces)}")
    chosen = [spaces[name] for name in options.spaces or spaces]
    targets = {name for data in chosen for name in data.targets}
    for name in options.devices or ():
        if name not in targets:
            raise InputError(f"{options.file}: no target {name!r}; it has {', '.join(sorted(targets))}")
    if min(options.samples) < 3 or options.seeds < 1:
        raise InputError("--samples must be 3 or more, --seeds 1 or more")
    for data in chosen:
        n, pool = len(data.codes), options.pool or pool_size(len(data.codes))
        if not 0 < pool < n:
            raise InputError(f"{options.file}: {data.space}: --pool must be below its {n} architectures, not {pool}")
        if max(options.samples) > CENTRAL * pool:
            raise InputError(
                f"{options.file}: {data.space}: {max(options.samples)} samples are too many for a pool of {pool}"
            )


def means(found: Sequence[Score]) -> list[dict[str, object]]:
    """Over the targets, for each space, protocol, way of choosing, count and method."""
    groups: dict[tuple[str, str, str, int, str], list[Score]] = {}
    for score in found:
        key = score.space, score.protocol, score.choose, score.samples, score.method
        groups.setdefault(key, []).append(score)
    result = []
    for (space, protocol, how, samples, method), group in groups.items():
        row: dict[str, object] = {"space": space, "protocol": protocol, "choose": how, "samples": samples}
        row |= {"method": method, "devices": len(group)}
        for figure in FIGURES:
            values = [value for score in group if (value := getattr(score, figure)) is not None]
            row[figure] = float(np.mean(values)) if values else None
        held = [score.coverage for score in group if score.coverage is not None]
        row["coverage_range"] = [min(held), max(held)] if held else None
        result.append(row)
    return result


def line(*names: object, row: Mapping[str, object]) -> str:
    shown = [row[figure] for figure in FIGURES]
    numbers = "".join("       -" if value is None else f"{value:8.3f}" for value in shown)
    return "".join(f"{name!s:<17}" for name in names) + numbers


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--seeds", type=int, default=5, help="random draws of samples for each target")
    parser.add_argument("--choose", choices=("random", "active", "both"), default="both")
    parser.add_argument("--spaces", nargs="+", help="by default all of the file")
    parser.add_argument("--protocols", nargs="+", choices=tuple(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--devices", nargs="+", help="targets; by default all")
    parser.add_argument("--pool", type=int, help="how many of the first architectures may be sampled")
    parser.add_argument("--ceiling", action="store_true", help=f"our method with {CEILING_SAMPLES} samples too; slow")
    parser.add_argument("--out", type=Path, help="write the JSON of the last line there as well")
    options = parser.parse_args(argv)
    options.choose = ("random", "active") if options.choose == "both" else (options.choose,)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    start = time.perf_counter()
    try:
        spaces = published(options.file)
        check(options, spaces)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    header = "".join(f"{name:>8}" for name in ("rho", "mape", "median", "in 5%", "in 10%", "held"))
    found: list[Score] = []
    for name in options.spaces or spaces:
        print("".join(f"{word:<17}" for word in ("space protocol", "device", "samples", "method")) + header)
        for score in scores(spaces[name], options):
            found.append(score)
            where, label = f"{name[:11]} {score.protocol}", f"{score.samples} {score.choose}"
            print(line(where, score.device, label, score.method, row=asdict(score)), flush=True)
    rows = means(found)
    print(
        "\nMeans over targets\n" + "".join(f"{word:<17}" for word in ("space protocol", "samples", "method")) + header
    )
    for row in rows:
        where, label = f"{str(row['space'])[:11]} {row['protocol']}", f"{row['samples']} {row['choose']}"
        print(line(where, label, row["method"], row=row))
    result = {"file": options.file.name, "means": rows, "devices": [asdict(score) for score in found]}
    if options.out is not None:
        options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print_result("latency_transfer", {**result, "seconds": time.perf_counter() - start})
    return 0


if __name__ == "__main__":
    sys.exit(main())
