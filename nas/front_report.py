"""One device in the report of a run: its front, what that is compared with and asked of it, how far to trust its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.diagram import diagram, parallel_plot
from nas.page import figure, section
from nas.plots import Plot, agreement, axis, dots, line, plot
from nas.run_tables import exports_table, front_table, reach_table, trust_list, truths_table
from nas.tables import (
    Network,
    accuracy_lines,
    code,
    computes_in,
    differ,
    escaped,
    exact,
    finite,
    folded_table,
    hover_lines,
    hovers,
    latency_lines,
    percent,
    plain,
    quantity_label,
    quantity_text,
    reread,
    significant,
    thinned,
)

MOST_POINTS = 4000  # of one trace: more only make the page slow

SYMBOLS = {"fp32": "circle", "int8": "triangle-up", "mixed": "pentagon"}

Device = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """The quantity on the level axis of a front, and where a row of it, or an evaluated network, has it."""

    name: str

    def of(self, row: Network, part: str = "predicted") -> float | None:
        if self.name == "latency_ms":
            return finite(row.get(f"latency_ms_{part}"))
        if "values" not in row:
            return finite(row.get(self.name))
        known = part == "predicted" or not exact(self.name)
        return finite(row["values"].get(self.name, {}).get(part)) if known else None

    @property
    def label(self) -> str:
        return quantity_label(self.name)

    @property
    def better(self) -> str:
        return "faster" if self.name.startswith("latency") else f"lower in {self.word}"

    @property
    def word(self) -> str:
        """As in the middle of a sentence."""
        label = self.label.partition(" (")[0]
        return label if label.isupper() or label == "MACs" else label.lower()


def cost_of(objectives: Sequence[str]) -> Cost:
    """Latency where it is an objective, or else the first one beside accuracy."""
    others = [name for name in objectives if name != "accuracy"]
    return Cost("latency_ms" if "latency_ms" in others or not others else others[0])


def device_section(plots: dict[str, Plot], index: int, device: Device, objectives: Sequence[str], score: str) -> str:
    """All of one device; `score` is what accuracy is called where images have any number of labels."""
    name, cost = device["name"], cost_of(objectives)
    front = sorted(device["front"], key=lambda network: cost.of(network) or 0.0)
    facts = "".join(
        f"<li>{escaped(key)} <b>{plain(value)}</b></li>"
        for key, value in device["device"].items()
        if value not in (None, "", [], {}, name)
    )
    parts = [f'<ul class="inline">{facts}</ul>', _infeasible(device)]
    if front or device["evaluated"]:
        parts.append(_front_figure(plots, index, device, front, objectives, score))
    parts.append(_against_average(device, objectives, score))
    parts.append(f"<h3>The front</h3>{front_table(name, front)}" if front else "<p>The front is empty.</p>")
    parts.append(_choices(plots, index, device, front, cost, score))
    parts.append(_pictures(index, device))
    parts.append(_limits(device, front))
    parts.append(f"<h3>How far to trust the predictions</h3>{_trust(plots, index, device)}")
    if device["exports"]:
        parts.append(
            "<h3>Exported files</h3><p>Each lies in a folder with its card, its numbers and a script that classifies "
            "images. It was run on all test images, beside the network it was made from: the largest absolute difference "
            "between their outputs, and how often both say the same of an image. Against the largest network of the space: "
            "of how many images it says something else, and how many that the largest gets right it has forgotten. ECE is "
            "the expected calibration error.</p>" + exports_table(name, device["exports"])
        )
    if device.get("pair"):
        parts.append(_pair(device["pair"]))
    return section(f"device-{index}", name, "".join(parts))


def _pair(pair: Mapping[str, Any]) -> str:
    return (
        f"<h3>A pair of networks</h3><p>{code(pair['folder'])} asks the fast network {code(pair['fast'])} of every image, and "
        f"the accurate one, {code(pair['accurate'])}, where the largest probability of the fast one is below "
        f"{significant(pair['threshold'], 4)}: for {percent(pair['share'])} of the test images. Together they have "
        f"{percent(pair['test_accuracy'], 2)} on these, in an expected {significant(pair['latency_ms'])} ms.</p>"
    )


def _infeasible(device: Device) -> str:
    """What no architecture meets, and what the closest one has in its place."""
    closest = device["closest"]
    if closest is None:
        return ""
    quantities = {row["text"]: row["quantity"] for row in device["reach"]}
    missed = "; ".join(
        f"{code(each['text'])}, where it has {escaped(quantity_text(quantities.get(each['text'], ''), each['value']))}"
        for each in closest["missed"]
    )
    return (
        f'<p class="note"><b>No architecture was found that meets the constraints of this device.</b> The closest is '
        f"{code(closest['arch_id'])}. It misses {missed}.</p>"
    )


# The front


def _front_figure(
    plots: dict[str, Plot],
    index: int,
    device: Device,
    front: Sequence[Network],
    objectives: Sequence[str],
    score: str,
) -> str:
    cost, shown = cost_of(objectives), thinned(device["evaluated"], MOST_POINTS)
    caption = ["Each grey dot is a network that the search evaluated.", *_front_words(front, cost, objectives, score)]
    if device["uniform"]:
        caption.append("Squares are the largest network scaled down uniformly.")
    if _average_of(device, objectives, cost):
        caption.append("The star is the average of random networks.")
    if len(shown) < len(device["evaluated"]):
        caption.append(f"{len(shown):,} of {len(device['evaluated']):,} evaluated networks are drawn.")
    title = f"{score.capitalize()} against {cost.word} on {device['name']}"
    graph = _front_plot(device, shown, front, objectives, score)
    drawn = figure(plots, f"pareto-{index}", graph, title, " ".join(caption))
    return drawn + _numbers(device, cost, score) + _bound_text(device, cost, score)


def _front_words(front: Sequence[Network], cost: Cost, objectives: Sequence[str], score: str) -> list[str]:
    """What the front is and which scores are drawn, in sentences."""
    confirmed = any(map(reread, front))
    where = "; for the front on all of them, for the others on those that the search read" if confirmed else ""
    scored = f"{score.capitalize()} is on the validation images{where}."
    if not front:
        return [scored]
    rival = "network evaluated on all validation images" if confirmed else "evaluated network"
    rival += " that meets the constraints" if any(network.get("constraints") for network in front) else ""
    return [
        f"The steps are the front: by predicted {cost.word}, no {rival} is both {cost.better} and more accurate than one on it."
        if _flat(objectives)
        else "The dots in colour are the front, which has other objectives than the two that are drawn as well.",
        *(["Circles compute in fp32, triangles in int8, pentagons in both."] if differ(front) else []),
        "A pale bar is the interval in which a measurement is expected; a diamond is what the device measured, with a line to "
        "its prediction.",
        scored,
    ]


def _flat(objectives: Sequence[str]) -> bool:
    """Whether the plot shows all that the front is about."""
    return len(objectives) == 2 and "accuracy" in objectives


def _numbers(device: Device, cost: Cost, score: str) -> str:
    """The tables behind what is drawn beside the front."""
    scaled = [
        (code(one["arch_id"]), percent(one["val_accuracy"], 2), quantity_text(cost.name, cost.of(one)))
        for one in device["uniform"] or ()
    ]
    bound = [(quantity_text(cost.name, x), percent(y / 100, 2)) for x, y in _bound_points(device, cost)]
    column, scores = f"#{escaped(cost.label.partition(' (')[0])}", f"#{score.capitalize()}"
    return folded_table(
        f"Uniformly scaled networks on {device['name']}", ("Network", scores, column), scaled
    ) + folded_table(f"The bound on {device['name']}", (column, scores), bound)


def _front_plot(
    device: Device, evaluated: Sequence[Network], front: Sequence[Network], objectives: Sequence[str], score: str
) -> Plot:
    cost = cost_of(objectives)
    again = [network for network in front if cost.of(network, "measured") is not None]
    bounded = [one for one in front if cost.of(one, "low") is not None and cost.of(one, "high") is not None]
    uniform = device["uniform"] or []
    predicted, measured = _points(front, cost), _points(again, cost, "measured")
    cloud, scaled = _points(evaluated, cost), _points(uniform, cost)
    bound = _bound_points(device, cost)
    average = _average_of(device, objectives, cost)
    line_or_dots = "lines+markers" if _flat(objectives) else "markers"
    data = (
        dots("Evaluated", cloud, _hovers(evaluated, cost), "@cloud", size=5),
        dots("Uniform", scaled, _hovers(uniform, cost), "@uniform", "square-open", 7),
        line("Bound", bound, [], "@muted", 1.5) | {"line": {"color": "@muted", "dash": "dash", "shape": "vh"}},
        _strokes("Interval", bounded, cost, ("low", "high"), "@band", 9),
        _strokes("Error", again, cost, ("predicted", "measured"), "@measured", 2) | {"showlegend": False},
        dots("Predicted", predicted, hovers(front), "@front", [SYMBOLS[computes_in(network)] for network in front])
        | {"mode": line_or_dots, "line": {"color": "@front", "width": 1.5, "shape": "hv"}},
        dots("Measured", measured, hovers(again), "@measured", "diamond"),
        dots("Average", average, ["Average of random networks"] * len(average), "@random", "star", 13),
    )
    ends = [cost.of(network, end) for network in bounded for end in ("low", "high")]
    points = [*cloud, *scaled, *bound, *predicted, *measured, *average]
    x = axis(escaped(cost.label), [*(point[0] for point in points), *ends])
    y = axis(f"Validation {score} (%)", [point[1] for point in points], log=False, headroom=0.14)
    return plot(data, x, y, annotations=[_label(one, cost, x) for one in front if one["picks"]])


def _label(network: Network, cost: Cost, axis_x: Mapping[str, Any]) -> dict[str, Any]:
    """The picks of a network, up and to the left of it, where the front leaves room; inwards at the ends of the axis."""
    x = cost.of(network) or 0.0
    at = math.log10(x) if axis_x["type"] == "log" and x > 0 else x
    low, high = axis_x.get("range", (at - 1, at + 1))
    place = (at - low) / (high - low)
    return {
        "text": f"<b>{escaped(', '.join(network['picks']))}</b>",
        "x": at,
        "y": 100 * network["val_accuracy"],
        "ax": -10,
        "ay": -24,
        "xanchor": "left" if place < 0.15 else "right" if place > 0.85 else "center",
        "arrowhead": 0,
        "arrowwidth": 1,
        "arrowcolor": "@muted",
        "standoff": 5,
        "font": {"color": "@ink", "size": 13},
    }


def _strokes(
    name: str, networks: Iterable[Network], cost: Cost, ends: tuple[str, str], color: str, width: float
) -> dict[str, Any]:
    """A level stroke for each network, from one of its costs to another."""
    points: list[tuple[Any, Any]] = []
    for network in networks:
        points += [(cost.of(network, end), 100 * network["val_accuracy"]) for end in ends]
        points.append((None, None))
    return line(name, points, [], color, width)


def _points(networks: Iterable[Network], cost: Cost, part: str = "predicted") -> list[tuple[Any, Any]]:
    return [(cost.of(network, part), 100 * network["val_accuracy"]) for network in networks]


def _hovers(networks: Iterable[Network], cost: Cost) -> list[str]:
    """Of networks that are on no front."""
    found = []
    for network in networks:
        own = [] if cost.name == "latency_ms" else [f"{cost.word}: {quantity_text(cost.name, cost.of(network))}"]
        found.append(hover_lines(network["arch_id"], *accuracy_lines(network), *latency_lines(network), *own))
    return found


# What it is compared with


def _average_of(device: Device, objectives: Sequence[str], cost: Cost) -> list[tuple[float, float]]:
    """The average random network as a point, where its cost is the one that is drawn."""
    average = device["average"]
    first = next((name for name in objectives if name != "accuracy"), None)
    return [(average["cost"], 100 * average["accuracy"])] if average and first == cost.name else []


def _against_average(device: Device, objectives: Sequence[str], score: str) -> str:
    average = device["average"]
    name = next((name for name in objectives if name != "accuracy"), None)
    if not average or name is None:
        return ""
    cost = Cost(name)
    gain, ratio = finite(average["accuracy_gain"]), finite(average["cost_ratio"])
    better = []
    if gain is not None:
        less = "fewer" if gain < 0 else "more"
        better.append(f"{abs(100 * gain):.1f} points {less} {score} at no more {escaped(cost.word)}")
    if ratio is not None:
        fast = cost.name.startswith("latency")
        better.append(
            f"a network {ratio:.1f}× as fast" if fast else f"one with 1/{ratio:.1f} of the {escaped(cost.word)}"
        )
        better[-1] += " that is no less accurate"
    text = ", and ".join(better) or f"nothing at as little cost or as much {score}"
    against = f" Against that the front has {text}." if device["front"] else ""
    chance = f"{percent(average['accuracy'])} {score} at {quantity_text(name, average['cost'])}"
    return f"<p>Random networks have {chance} on average.{against}</p>"


def _bound_points(device: Device, cost: Cost) -> list[tuple[float, float]]:
    bound = device.get("bound")
    if not bound or bound["quantity"] != cost.name:
        return []
    return [(point["cost"], 100 * point["accuracy"]) for point in bound["points"]]


def _bound_text(device: Device, cost: Cost, score: str) -> str:
    bound = device.get("bound")
    if not bound or bound["quantity"] != cost.name:
        return ""
    more = "" if all(point["proven"] for point in bound["points"]) else " Not all of it was proven in time."
    if any(row["bound"] is not None for row in device["reach"]):
        more += " Constraints that do not add up over the parts of a network are left out of it."
    error = f", and their {cost.word} by {percent(bound['cost_error'])}" if bound["cost_error"] else ""
    return (
        f"<p>The dashed line is a bound: additive models of {score} and cost predict no network of the space above it. On "
        f"average their {score} is off by {100 * bound['accuracy_error']:.1f} points{escaped(error)}, so networks may lie "
        f"above the line by about that much.{more}</p>"
    )


# Choices, constraints, trust


def _choices(
    plots: dict[str, Plot], index: int, device: Device, front: Sequence[Network], cost: Cost, score: str
) -> str:
    priced = [network for network in front if cost.of(network) is not None]
    drawn = parallel_plot(priced, [cost.of(network) or 0.0 for network in priced], cost.label, score)
    if drawn is None:
        return ""
    caption = (
        "Each line is a network of the front; the stronger its colour, the more accurate, and the thick ones are picks. "
        "Where a choice is made for several stages or blocks, the axis has the mean. A choice that a network does not make "
        "is passed over."
    )
    title = f"What the networks of the front of {device['name']} chose"
    return figure(plots, f"parallel-{index}", drawn, title, caption)


def _pictures(index: int, device: Device) -> str:
    """The blocks of each pick."""
    picked = [network for network in device["front"] if network["picks"] and network.get("blocks")]
    drawings = [
        f"<h4>{escaped(', '.join(network['picks']))}, {code(network['arch_id'])}</h4>"
        + diagram(
            f"blocks-{index}-{i}",
            f"The {', '.join(network['picks'])} network of {device['name']}, block by block",
            network["blocks"],
        )
        for i, network in enumerate(picked)
    ]
    text = (
        "<p>A box is a block: the wider, the more channels it puts out; the higher, the more pixels, on the same logarithmic "
        "scales for all. A dashed outline is a block that the network skips.</p>"
    )
    return f"<h3>The picks, block by block</h3>{text}{''.join(drawings)}" if drawings else ""


def _limits(device: Device, front: Sequence[Network]) -> str:
    """What the space reaches, and what truly holds of the front."""
    parts = []
    if device["reach"]:
        text = (
            "<p>The least and the most that evolution on predictions finds, the median of random networks, and the share "
            "of these that meets a bound.</p>"
        )
        parts.append(f"<h3>What the space reaches</h3>{text}{reach_table(device['name'], device['reach'])}")
    truths = truths_table(device["name"], front)
    if truths:
        limits = [network["constraints"] for network in front]
        known = [each for each in limits if each and all(limit["measured"] is not None for limit in each)]
        holding = sum(all(limit["measured"] for limit in each) for each in known)
        measured = f"Of the {len(known)} networks of which all constraints were measured, {holding} meet every one."
        text = f"<p>{measured}</p>" if known else ""
        parts.append(f"<h3>What was asked, predicted and measured</h3>{text}{truths}")
    return "".join(parts)


def _trust(plots: dict[str, Plot], index: int, device: Device) -> str:
    name, predictor, held_out = device["name"], device["predictor"], device["predictor"]["held_out"]
    again = [network for network in device["front"] if finite(network["latency_ms_measured"])]
    text = (
        f"<p>On networks that it had not seen, the predictor is off by {percent(predictor['mape'])} on average. "
        f"Measuring the same network again moves it by {percent(predictor['noise_floor'])}; no predictor can beat this "
        f"noise floor.</p>{trust_list(predictor, again)}"
    )
    if not held_out and not again:
        return f"{text}<p>There are no measured networks to compare with.</p>"
    caption = (
        "A network on the diagonal was predicted exactly, one inside the pale band within 10%. Circles are networks "
        "held out when the predictor was fitted; diamonds are networks of the front, measured after the search."
    )
    title = f"Predicted against measured latency on {name}"
    drawn = figure(plots, f"trust-{index}", _trust_plot(thinned(held_out, MOST_POINTS), again), title, caption)
    rows = [
        (code(one["arch_id"]), significant(one["measured_ms"]), significant(one["predicted_ms"])) for one in held_out
    ]
    numbers = folded_table(f"Held-out networks of {name}", ("Network", "#Measured ms", "#Predicted ms"), rows)
    return f'<div class="pair">{drawn}<div>{text}{numbers}</div></div>'


def _trust_plot(held_out: Sequence[Mapping[str, Any]], again: Sequence[Network]) -> Plot:
    """Measured latency across and predicted up."""
    apart = [(one["measured_ms"], one["predicted_ms"]) for one in held_out]
    front = [(network["latency_ms_measured"], network["latency_ms_predicted"]) for network in again]
    hover = [hover_lines(one["arch_id"], *latency_lines(one, "predicted_ms", "measured_ms")) for one in held_out]
    data = (
        dots("Held out", apart, hover, "@front", "circle-open"),
        dots("Front", front, hovers(again), "@measured", "diamond"),
    )
    return agreement(data, "Measured latency (ms)", "Predicted latency (ms)")
