"""`card.md` of a pair of networks; all that it says comes from `pair.json`."""

from __future__ import annotations

from nas.specialising.card import (
    Numbers,
    by_class_table,
    data_text,
    forgotten_text,
    found_text,
    front_matter,
    license_text,
    limits_text,
    plain,
    table,
)
from nas.tables import percent, significant


def pair_card(pair: Numbers) -> str:
    device = plain(pair["device"]["name"])
    return "\n\n".join(
        (
            front_matter(pair, pair["test"]["accuracy"], "pair"),
            f"# {plain(pair['name'])}, a pair of networks, for {device}",
            f"The fast network `{pair['fast']['arch_id']}` is asked of every image. Where the largest of its probabilities is "
            f"below {pair['threshold']:.4f}, the accurate one, `{pair['accurate']['arch_id']}`, is asked as well, and its "
            "answer counts.",
            "Classify images with `python predict.py IMAGE...`, which needs `onnxruntime`, `numpy` and `pillow` and does "
            "just that. All figures of this card are in `pair.json`.",
            f"## Data\n\n{data_text(pair['data'])}",
            f"## Results\n\n{_results(pair)}",
            f"## What it forgets\n\n{forgotten_text(pair)}",
            f"## How it was found\n\n{_found(pair)}",
            f"## Limits\n\n{limits_text(pair)}",
            f"## Licence\n\n{license_text(pair['license'])}\n",
        )
    )


def _results(pair: Numbers) -> str:
    """The pair beside what it is made of, and beside the network that it stands in for."""
    test, alone = pair["outcome"]["test"], pair["alone"]
    named = {"the fast one alone": pair["fast"], "the accurate one alone": pair["accurate"]}
    if alone["arch_id"] != pair["accurate"]["arch_id"]:
        named["the most accurate of the front alone"] = alone
    rows = [
        (
            name,
            percent(each["val_accuracy"], 2),
            percent(each["test_accuracy"], 2),
            f"{significant(each['latency_ms'])} ms",
        )
        for name, each in named.items()
    ]
    expected = f"{significant(test['latency_ms'])} ms"
    rows.append(("**the pair**", percent(pair["val_accuracy"], 2), percent(test["accuracy"], 2), expected))
    both = pair["fast"]["latency_ms"] + pair["accurate"]["latency_ms"]
    text = (
        f"Of {pair['test']['images']:,} test images {percent(test['share'])} are sent on. The latency of the pair is what is "
        f"expected of an image like these: that of the fast network, and of the accurate one for this share. An image that is "
        f"sent on takes {significant(both)} ms."
    )
    columns = ("network", "validation images", "test images", "median latency")
    return f"{text}\n\n{table(columns, rows)}\n\n{by_class_table(pair)}"


def _found(pair: Numbers) -> str:
    share = percent(pair["outcome"]["validation"]["share"])
    return (
        "Networks and threshold were chosen among all pairs of the front on validation images: the least expected latency at "
        f"the accuracy of the most accurate network, but for 0.1 points. There {share} of the images are sent on.\n\n"
        f"{found_text(pair)}"
    )
