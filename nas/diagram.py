"""Architectures as pictures: the blocks of one, and all of a front as lines over what they chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import Any

from nas.plots import Plot, axis, plot
from nas.tables import Network, amount, choice_order, escaped, hovers, thinned
from search_spaces import Arch, Space, network, slots

Block = Mapping[str, Any]
Json = Any

# Sizes in the units of the drawing, which are pixels where it is not scaled.
PITCH, LEFT, LINE = 58, 72, 16
# Steps of the scale of colours in report.css, and networks drawn at most.
RANKS, MOST_LINES = 5, 60
# More axes than this cannot be read: choices are then averaged over the whole network in place of each stage.
MOST_AXES = 7


# The blocks of one architecture


def blocks(space: Space, arch: Arch) -> list[dict[str, Json]]:
    """What the architecture makes of each slot: how many layers, the channels and pixels it puts out, its MACs and choices of
    its own. A slot that is skipped has no layers, and what went in comes out."""
    layers = network(space, arch)
    values = arch.values
    found: list[dict[str, Json]] = []
    for slot in slots(space):
        own = [layer for layer in layers if layer.name.startswith(f"{slot.name}.")]
        before = (found[-1]["channels"], found[-1]["size_px"]) if found else layers[0].in_shape[:2]
        channels, size_px = own[-1].out_shape[:2] if own else before
        names = [name for name in slot.choices if name.startswith(f"{slot.name}.") and name in values]
        found.append(
            {
                "name": slot.name,
                "layers": len(own),
                "channels": channels,
                "size_px": size_px,
                "macs": sum(layer.macs for layer in own),
                "choices": {name.removeprefix(f"{slot.name}."): values[name] for name in names},
            }
        )
    return found


def diagram(target: str, title: str, found: Sequence[Block]) -> str:
    """HTML of a drawing: a box a slot, wider with its channels and higher with its pixels, an outline where it is skipped."""
    rows = list(dict.fromkeys(row for block in found for row in _texts(block)))
    highest = max(box_height(block["size_px"]) for block in found) + 2
    width, height = LEFT + PITCH * len(found), highest + LINE * (len(rows) + 2)
    used = sum(block["layers"] > 0 for block in found)
    described = f"{used} of {len(found)} blocks are used; the network ends with {found[-1]['channels']} outputs."
    parts = [
        f'<svg class="blocks" viewBox="0 0 {width} {height:.0f}" style="width:{width}px" role="img" '
        f'aria-labelledby="{target}-title" aria-describedby="{target}-desc"><title id="{target}-title">{escaped(title)}</title>'
        f'<desc id="{target}-desc">{escaped(described)}</desc>',
        *(
            f'<text class="head" x="0" y="{highest + LINE * (i + 2):.0f}">{escaped(row)}</text>'
            for i, row in enumerate(rows)
        ),
        f'<line x1="{LEFT}" x2="{width - PITCH / 2}" y1="{highest / 2:.1f}" y2="{highest / 2:.1f}"></line>',
        *(_drawn(block, LEFT + PITCH * (i + 0.5), highest, rows) for i, block in enumerate(found)),
        "</svg>",
    ]
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(title)}">{"".join(parts)}</div>'


def _drawn(block: Block, x: float, highest: float, rows: Sequence[str]) -> str:
    """One box over its column of texts, both around `x`."""
    width, height = box_width(block["channels"]), box_height(block["size_px"])
    texts = {row: escaped(text) for row, text in _texts(block).items() if block["layers"]}
    told = ", ".join(f"{escaped(row)} {text}" for row, text in texts.items()) or "skipped"
    kind = "" if block["layers"] else ' class="skipped"'
    column = [
        f'<text x="{x}" y="{highest + LINE * (rows.index(row) + 2):.0f}">{text}</text>' for row, text in texts.items()
    ]
    return (
        f"<g><title>{escaped(block['name'])}: {told}</title>"
        f'<rect{kind} x="{x - width / 2:.1f}" y="{(highest - height) / 2:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="2"></rect>'
        f'<text class="name" x="{x}" y="{highest + LINE:.0f}">{escaped(_shortened(block["name"]))}</text>{"".join(column)}</g>'
    )


def _texts(block: Block) -> dict[str, str]:
    """What stands below a box, by its row."""
    numbers = {"channels": block["channels"], "size px": block["size_px"], "MACs": amount(block["macs"])}
    return {name: str(value) for name, value in {**numbers, **block["choices"]}.items()}


def box_width(channels: int) -> float:
    """Grows with the logarithm, or a head of 1280 channels would leave nothing of a stem of 16: 12 for 16, 50 for 1280."""
    return max(6 * log2(max(channels, 1)) - 12, 4.0)


def box_height(size_px: int) -> float:
    """10 for 1 px, 70 for 32, 104 for 224."""
    return 10 + 12 * log2(max(size_px, 1))


def _shortened(name: str, longest: int = 7) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


# A front over its choices


def parallel_plot(front: Sequence[Network], costs: Sequence[float], label: str, score: str) -> Plot | None:
    """Lines over one axis for each choice that varies, then over what the networks cost, headed by `label`, and their score;
    the stronger its colour, the higher. None where fewer than two networks or axes are left.

    Lines, not Plotly's own `parcoords`: that compiles code to draw with, which the policy of the page forbids (it then says
    that WebGL is not supported), and it has no texts to hover over.
    """
    pairs = thinned(list(zip(front, costs, strict=True)), MOST_LINES)
    pairs.sort(key=lambda pair: float(pair[0]["val_accuracy"]))
    shown = [network for network, _ in pairs]
    axes: dict[str, Sequence[float | None]] = {
        **choice_axes([network["arch"] for network in shown]),
        label: [cost for _, cost in pairs],
        f"{score} (%)": [100 * network["val_accuracy"] for network in shown],
    }
    axes = {name: values for name, values in axes.items() if _varies(values)}
    if len(shown) < 2 or len(axes) < 2:
        return None
    rows = zip(*map(_scaled, axes.values()), strict=True)
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": network["arch_id"],
            "x": list(range(len(axes))),
            "y": row,
            "connectgaps": True,
            "hoverinfo": "text",
            "hovertext": text,
            "line": {"color": f"@rank-{RANKS * i // len(shown)}", "width": 3 if network["picks"] else 1.5},
        }
        for i, (network, row, text) in enumerate(zip(shown, rows, hovers(shown), strict=True))
    ]
    ticks = {"tickvals": list(range(len(axes))), "ticktext": [escaped(name) for name in axes], "side": "top"}
    x = axis("") | ticks | {"range": [-0.4, len(axes) - 0.6], "showgrid": False, "showline": False, "automargin": False}
    y = axis("") | {"visible": False, "range": [-0.1, 1.1]}
    margin = {"l": 8, "r": 8, "t": 64, "b": 8}
    upright = {"type": "line", "y0": 0, "y1": 1, "layer": "below", "line": {"color": "@muted", "width": 1}}
    shapes = [{**upright, "x0": i, "x1": i} for i in range(len(axes))]
    return plot(data, x, y, showlegend=False, annotations=_ends(axes), shapes=shapes, margin=margin)


def choice_axes(archs: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """By label what each architecture chose, of what varies: the mean over each stage, or where these were too many axes, over
    the whole network. None where a choice is inactive."""
    names = sorted({name for arch in archs for name in arch}, key=choice_order)
    for parts in (_stage_and_kind, _kind):
        labels = dict.fromkeys(map(parts, names))
        axes = {
            label: [_mean(value for n, value in arch.items() if parts(n) == label) for arch in archs]
            for label in labels
        }
        axes = {label: values for label, values in axes.items() if _varies(values)}
        if len(axes) <= MOST_AXES:
            break
    return dict(list(axes.items())[:MOST_AXES])


def _stage_and_kind(name: str) -> str:
    return f"{name.partition('.')[0]} {_kind(name)}" if "." in name else name


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def _varies(values: Iterable[float | None]) -> bool:
    return len({value for value in values if value is not None}) > 1


def _scaled(values: Sequence[float | None]) -> list[float | None]:
    known = [value for value in values if value is not None]
    return [None if value is None else (value - min(known)) / (max(known) - min(known)) for value in values]


def _ends(axes: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """The least and the most of every axis, written below and above it."""
    found = []
    for x, values in enumerate(axes.values()):
        known = [value for value in values if value is not None]
        for y, end, anchor, shift in ((0, min(known), "top", -3), (1, max(known), "bottom", 3)):
            text = amount(end) if abs(end) >= 1e4 else f"{end:.3g}"
            look = {"showarrow": False, "font": {"size": 12, "color": "@muted"}}
            found.append({"x": x, "y": y, "yshift": shift, "text": text, "yanchor": anchor, **look})
    return found
