"""`card.md`: one export for people, as a model card in the manner of Hugging Face (Mitchell et al., "Model Cards for Model
Reporting", FAT* 2019). All that it says comes from `numbers.json`.

Names of classes, data and devices are other people's: they are escaped where they stand in the text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from latency_tables.table import SHIFTED
from nas.job import PICKS, is_arch_id
from nas.tables import amount, duration, percent, significant, small, spread_text
from supernets.scores import CLASS_SCORES, SCORES

Numbers = Mapping[str, Any]

PRECISIONS = {
    "fp32": "in fp32",
    "int8": "in 8-bit integers",
    "mixed": "some parts in 8-bit integers, the others in fp32",
}
CLASSES_SHOWN = 10
"""Of many, those that lost most."""
_MARKED = re.compile(r"([\\`*_\[\]#|~])")


def card(numbers: Numbers) -> str:
    """The card of one network, from its numbers."""
    network = (
        f"The network `{numbers['arch_id']}` of the search `{numbers['name']}`: {amount(numbers['macs'])} "
        f"multiply-accumulates an image, {amount(numbers['params'])} parameters, {PRECISIONS[numbers['precision']]}. "
        f"{_picked(numbers)}"
    )
    return "\n\n".join(
        (
            front_matter(numbers, numbers["test"]["accuracy"], numbers["pick"]),
            f"# {plain(numbers['name'])}, {plain(numbers['pick'])}, for {plain(numbers['device']['name'])}",
            network,
            "Classify images with `python predict.py IMAGE...`, which needs `onnxruntime`, `numpy` and `pillow`. Classes "
            "and preprocessing are in the metadata of `model.onnx`, all figures of this card in `numbers.json`, the "
            f"architecture in `arch.json`.{_beside(numbers)}",
            f"## Data\n\n{data_text(numbers['data'])}",
            *([f"## Merged convolutions\n\n{_merged(numbers['merged'])}"] if numbers["merged"] else []),
            f"## Results\n\n{_results(numbers)}",
            f"## What it forgets\n\n{forgotten_text(numbers)}",
            f"## Latency\n\n{_latency(numbers)}",
            *_exits(numbers),
            f"## How it was found\n\n{found_text(numbers)}",
            f"## Limits\n\n{limits_text(numbers)}",
            f"## Licence\n\n{license_text(numbers['license'])}\n",
        )
    )


def _beside(numbers: Numbers) -> str:
    """What other files there are."""
    words = {
        "image": "takes images as decoders give them, `image` as uint8 (batch, height, width, channels) of any size",
        "fp16": "is in half precision, and takes and gives float32, for providers that compute in it",
        "ort": "is in the format of ONNX Runtime's small builds",
    }
    return "".join(
        f" `{each['name']}` {words[kind]}; it says the same as `model.onnx` of {percent(each['top1_agreement'])} of "
        f"{each['images']:,} test images."
        for kind, each in numbers["also"].items()
    )


def front_matter(numbers: Numbers, accuracy: float, name: str) -> str:
    """What Hugging Face reads of a card."""
    data, score = numbers["data"], SCORES[numbers["data"]["task"]]
    metric = {"type": score.replace(" ", "_"), "name": f"Test {score}", "value": round(accuracy, 6)}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data["name"], "type": data["name"]},
        "metrics": [metric],
    }
    document = {
        "license": numbers["license"],
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "image-classification", "neural-architecture-search", "once-for-all"],
        "metrics": [score.replace(" ", "_")],
        "model-index": [{"name": f"{numbers['name']} {name}", "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(document, sort_keys=False, allow_unicode=True)}---"


def plain(text: object) -> str:
    """Text in which nothing is Markdown or HTML."""
    return _MARKED.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right; cells are Markdown."""
    marks = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, marks, *rows))


def data_text(data: Mapping[str, Any]) -> str:
    skipped = f" {data['skipped']:,} files could not be read and were left out." if data["skipped"] else ""
    return (
        f"{plain(data['name'])} (`{data['id']}`), {len(data['classes'])} classes: {data['train']:,} images to train on, "
        f"{data['validation']:,} that the search chose by, {data['test']:,} test images, which nothing was chosen by.{skipped}"
    )


def found_text(numbers: Numbers) -> str:
    """The search, the supernet, and what chance and a width multiplier found beside."""
    search, supernet, controls = numbers["search"], numbers["supernet"], numbers["controls"]
    seeds = f"seed{'s' * (len(search['seeds']) > 1)} {', '.join(map(str, search['seeds']))}"
    limits = f" under {', '.join(f'`{text}`' for text in search['constraints'])}" if search["constraints"] else ""
    ends = [percent(supernet[f"{end}_test_accuracy"], 2) for end in ("largest", "smallest")]
    words = [
        f"A once-for-all supernet of {amount(supernet['params'])} parameters was trained for "
        f"{duration(supernet['train_seconds'])} with the recipe `{supernet['recipe']}` (`{supernet['layout']}`, seed "
        f"{numbers['seed']}); its largest network has {ends[0]} on the test images, its smallest {ends[1]}. The search "
        f"`{search['sampler']}` for {', '.join(f'`{name}`' for name in search['objectives'])}{limits} evaluated "
        f"{search['evaluations']:,} of its networks ({seeds}). {_weights_text(numbers)}"
    ]
    rivals = [f"the search {spread_text(controls['hypervolume'])}"]
    if controls["hypervolume_random"]:
        rivals.append(f"random search {spread_text(controls['hypervolume_random'])}")
    if controls["uniform_hypervolume"] is not None:
        rivals.append(f"uniform scaling {significant(controls['uniform_hypervolume'])}")
    words.append(f"Hypervolume on this device: {', '.join(rivals)}.")
    if controls["uniform_val_accuracy"] is not None:
        words.append(
            "On validation images the best uniformly scaled network that is predicted to be no slower has "
            f"{percent(controls['uniform_val_accuracy'], 2)}, this one {percent(numbers['val_accuracy'], 2)}."
        )
    return "\n\n".join(words)


def _weights_text(numbers: Numbers) -> str:
    """Whose the weights are; those of a pair are the supernet's or tuned like any other's, and it does not say which."""
    words = "Weights are the supernet's; batch norm was calibrated for each network and folded."
    for each in numbers.get("tunings", ()):
        how = "as the integers that it is deployed in" if each["integers"] else "in floats"
        epochs = f"{each['epochs']} epoch{'s' * (each['epochs'] > 1)}"
        stayed = "" if each["epoch"] else ", since no epoch was better and it stayed as it was"
        words += (
            f" Then this network was trained alone for {epochs}, {how}, with the largest one as its teacher: "
            f"{percent(each['before'], 2)} of the validation images before, {percent(each['after'], 2)} after{stayed}."
        )
    return words


def limits_text(numbers: Numbers) -> str:
    test, data = numbers["test"], numbers["data"]
    lines = [
        f"It was tested on {test['images']:,} images of the source that it was trained on, and knows nothing of others.",
        f"It always answers with some of its {len(data['classes'])} classes, also to an image of none of them.",
        f"How sure it says it is differs from how often it is right by {percent(test['calibration_error'])} on average.",
        "The latency is that of the machine named above as it was then; another runtime, load or batch has another.",
    ]
    if data["task"] == "multi_label":
        del lines[1]
    return "\n".join(f"- {line}" for line in lines)


def license_text(name: str) -> str:
    if name == "unknown":
        return (
            "Unknown: nobody named one. Whoever hands this on says it in the job (`export.license`), with a view to the "
            "licence of the images."
        )
    return f"`{name}`, as the job says."


def _picked(numbers: Numbers) -> str:
    pick, device = numbers["pick"], plain(numbers["device"]["name"])
    if numbers["merged"]:
        made_of = numbers["merged"]["made_of"]
        return f"It was made of `{made_of}`, which was picked from the front of {device} as `{plain(pick)}`."
    if pick in PICKS:
        words = {"fastest": "the fastest", "knee": "the knee", "most-accurate": "the most accurate"}
        return f"It is {words[pick]} of the front of {device}."
    if is_arch_id(pick):
        return f"It was picked by its id from the front of {device}."
    held = {True: "As measured it does.", False: "**As measured it does not.**", None: "That was not measured."}
    return f"Of the front of {device} it was picked to meet `{pick}`, by prediction. {held[numbers['as_asked']]}"


def _results(numbers: Numbers) -> str:
    test, largest, check = numbers["test"], numbers["largest"], numbers["check"]
    score = SCORES[numbers["data"]["task"]]
    integers = [] if numbers["precision"] == "fp32" else [("the same network in fp32", percent(check["in_fp32"], 2))]
    rows = [
        (f"{score}, {test['images']:,} test images", percent(test["accuracy"], 2)),
        *integers,
        ("change against the largest network of the space", _points(largest["change"])),
        (f"{score}, validation images", percent(numbers["val_accuracy"], 2)),
        ("expected calibration error (15 bins)", percent(test["calibration_error"], 2)),
        ("negative log-likelihood (nats)", significant(test["nll"])),
        ("images of which it says something else than the largest network", percent(largest["disagreement"], 2)),
        ("same answers as torch, in fp32", percent(check["top1_agreement"], 2)),
        ("largest difference of a logit to torch, in fp32", small(check["max_abs_diff"])),
    ]
    return (
        "The file itself was run on all test images, in ONNX Runtime.\n\n"
        f"{table(('figure', 'value'), rows)}\n\n{by_class_table(numbers)}"
    )


def by_class_table(numbers: Numbers) -> str:
    classes = numbers["test"]["by_class"]
    worst = sorted(classes, key=lambda each: (each["change"] is None, each["change"] or 0.0))[:CLASSES_SHOWN]
    few = "" if len(worst) == len(classes) else f", the {len(worst)} of {len(classes)} that lost most"
    rows = [
        (
            plain(each["class"]),
            f"{each['images']:,}",
            percent(each["score"]),
            _points(each["change"]),
            f"{each['forgotten']:,}",
        )
        for each in worst
    ]
    score = CLASS_SCORES[numbers["data"]["task"]]
    columns = (f"class{few}", "images", score, "change", "forgotten")
    return table(columns, rows)


def forgotten_text(numbers: Numbers) -> str:
    largest, test = numbers["largest"], numbers["test"]
    worst = max(test["by_class"], key=lambda each: each["forgotten"] / max(each["images"], 1))
    where = (
        f" Most are lost of class {plain(worst['class'])}: {worst['forgotten']:,} of {worst['images']:,}."
        if worst["forgotten"]
        else ""
    )
    return (
        f"Of {test['images']:,} test images the largest network of the space gets {largest['forgotten']:,} right "
        f"({percent(largest['forgotten_share'], 2)}) that this one gets wrong, and {largest['gained']:,} the other way "
        f'round.{where} A smaller network need not lose the same share of everything (Hooker et al., "What Do Compressed '
        'Deep Neural Networks Forget?", 2019): look at these before you rely on the mean.'
    )


def _latency(numbers: Numbers) -> str:
    told, latency_ms, device = numbers["measurement"], numbers["latency_ms"], numbers["device"]
    footprint = told["footprint"] or {}
    rows = [
        ("median", f"{_ms(told['p50'])} ± {percent(told['precision'])}"),
        ("p95", _ms(told["p95"])),
        ("p99", _ms(told["p99"])),
        ("predicted, with its 90% interval", _predicted(latency_ms)),
        ("peak memory", _bytes(footprint.get("peak_bytes"))),
        ("loading", "–" if not footprint else f"{significant(footprint['load_ms'])} ms"),
        ("file", _bytes(numbers["file"]["bytes"])),
    ]
    columns = (f"one inference of batch {device['batch']}", "value")
    return f"{_conditions(numbers)}\n\n{table(columns, rows)}"


def _predicted(latency_ms: Mapping[str, Any]) -> str:
    if latency_ms["predicted"] is None:
        return "–"
    return "{} ms ({} to {})".format(*(significant(latency_ms[part]) for part in ("predicted", "low", "high")))


def _merged(merged: Mapping[str, Any]) -> str:
    """What was made of which network, and what that brought."""
    parts, latency_ms, score = merged["segments"], merged["latency_ms"], merged["val_accuracy"]
    counts, test = merged["convolutions"], merged["test_accuracy"]
    rows = [
        (
            f"`{each['from']}` to `{each['to']}`",
            f"{each['layers']}",
            f"{each['kernel']} x {each['kernel']}, {each['channels']}",
        )
        for each in parts
    ]
    return (
        f"In the network `{merged['made_of']}` {len(parts)} part{'s' * (len(parts) != 1)} became one convolution each, so that "
        f"it has {counts['after']} instead of {counts['before']}. Measured side by side it takes {percent(merged['latency'])} "
        f"of the time ({significant(latency_ms['after'])} instead of {significant(latency_ms['before'])} ms; at most "
        f"{percent(merged['limit'])} was asked for when it was made). Validation images: {percent(score['before'], 2)} before, "
        f"{percent(score['merged'], 2)} merged, {percent(score['after'], 2)} after it was trained; test images: "
        f"{percent(test['before'], 2)} before, {percent(test['after'], 2)} after.\n\n"
        f"{table(('part', 'layers', 'convolution'), rows)}"
    )


def _exits(numbers: Numbers) -> list[str]:
    """What early exits are worth, where they were handed over."""
    if "exits" not in numbers:
        return []
    found = numbers["exits"]
    if found["kind"] == "if":
        how = (
            "goes on only where an exit is not sure: `exit` says where an image left, and `logits` what was said there"
        )
        times = "of the graph on an image that leaves there"
    else:
        how = "has an output for each exit beside `logits`; ONNX Runtime computes all of it whatever is asked of it"
        times = "of the graph cut off there"
    text = (
        f"`{found['file']['name']}` is the same network with its early exits, and {how}. An image leaves at the first exit "
        "whose largest probability is at least the threshold, chosen on validation images: the least expected latency at the "
        f"accuracy of the whole network, but for 0.1 points. Latencies are medians, {times}, measured side by side."
    )
    columns = ("exit", "threshold", "test images", "accuracy of these", "accuracy of all", "latency")
    return [f"## Early exits\n\n{text}\n\n{table(columns, _exit_rows(found))}"]


def _exit_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            plain(row["stage"]),
            "–" if row["threshold"] is None else f"{row['threshold']:.4f}",
            percent(row["share"]),
            "–" if row["accuracy"] is None else percent(row["accuracy"], 2),
            percent(row["accuracy_of_all"], 2),
            f"{significant(row['latency_ms'])} ms",
        )
        for row in found["exits"]
    ]
    for name, each in (("**expected**", found["test"]), ("without exits", found["whole"])):
        accuracy = each["accuracy"] if "accuracy" in each else each["test_accuracy"]
        rows.append((name, "–", "–", percent(accuracy, 2), "–", f"{significant(each['latency_ms'])} ms"))
    return rows


def _conditions(numbers: Numbers) -> str:
    told, device, machine = numbers["measurement"], numbers["device"], numbers["fingerprint"]
    load = "" if told["load_average"] is None else f", load {told['load_average']:.1f}"
    processor = machine.get("cpu") or machine.get("machine") or "an unknown processor"
    words = (
        f"Measured on {plain(processor)}, {device['threads']} thread{'s' * (device['threads'] > 1)}, ONNX Runtime "
        f"{plain(machine.get('onnxruntime', ''))} ({plain(device['provider'])}, graph optimisation "
        f"{device['graph_optimization']}), {numbers['precision']}: {told['count']:,} runs in {told['rounds']} rounds "
        f"({sum(told['rejected'].values())} rejected as disturbed{load}), threads "
        f"{'spinning' if told['spinning'] else 'sleeping'} between runs. ± is half the 95% interval of the median."
    )
    if numbers["in_floats"]:
        kinds = ", ".join(f"{count} `{op}`" for op, count in numbers["in_floats"].items())
        words += f" For want of integer kernels it computes these layers of the parts in integers in floats: {kinds}."
    if told["disturbed"]:
        words += " **The machine was disturbed all the while.**"
    shift = numbers["canary_shift"]
    if abs(shift) > SHIFTED:
        words += (
            f" **The machine was {abs(shift):.0%} {'slower' if shift > 0 else 'faster'} than when it was profiled: measured "
            "and predicted latency do not compare.**"
        )
    return words


def _points(change: float | None) -> str:
    return "–" if change is None else f"{100 * change:+.2f} points".replace("-", "−").replace("+0.00", "0.00")


def _ms(us: float) -> str:
    return f"{significant(us / 1e3)} ms"


def _bytes(count: int | None) -> str:
    return "–" if count is None else f"{amount(count)}B"
