"""Units of quantities: what an amount such as `5ms`, `20M`, `512KiB` or `85%` means."""

from __future__ import annotations

import re
from decimal import Decimal

from nas.errors import JobError
from nas.searching.quantities import Quantity

_AMOUNT = re.compile(r"([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*([A-Za-zµ%]*)")

SI = {"": "1", "k": "1e3", "K": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
BINARY = {"KiB": "1024", "MiB": "1048576", "GiB": "1073741824"}

UNITS: dict[str, dict[str, Decimal]] = {
    unit: {symbol: Decimal(factor) for symbol, factor in symbols.items()}
    for unit, symbols in {
        "ms": {"": "1", "ns": "1e-6", "us": "1e-3", "µs": "1e-3", "ms": "1", "s": "1e3"},
        "mJ": {"": "1", "uJ": "1e-3", "µJ": "1e-3", "mJ": "1", "J": "1e3", "kJ": "1e6"},
        "bytes": {**SI, **{f"{prefix}B": factor for prefix, factor in SI.items()}, "bytes": "1", **BINARY},
        "MACs": {**SI, **{f"{prefix}MACs": factor for prefix, factor in SI.items()}},
        "": SI,
        "share": {"": "1", "%": "0.01"},
    }.items()
}
"""By the unit of a quantity, the symbols of its kind and what one of each is in that unit."""

STRICT = ("ms", "mJ")
"""Units that stand in the quantity's name: an amount in another one reads like a slip."""

EXAMPLES = {
    "ms": "5 or 5ms",
    "mJ": "20 or 20mJ",
    "bytes": "2MB, 512KiB or 500k",
    "MACs": "20M or 1.5G",
    "": "300k or 5M",
    "share": "85% or 0.85",
}


def read_amount(quantity: Quantity, text: str, before: str = "") -> float:
    """The amount in the quantity's unit, positive; `before` stands before the amount that an error says to write."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise JobError(f"{text!r} is not a number; write {before}{EXAMPLES[quantity.unit]}")
    number, symbol = match.groups()
    symbols = UNITS[quantity.unit]
    if symbol not in symbols:
        raise JobError(f"{symbol!r} is not a unit of {quantity.name}; write {before}{EXAMPLES[quantity.unit]}")
    value = float(Decimal(number) * symbols[symbol])
    if not 0 < value < float("inf"):
        raise JobError("the bound must be a positive number")
    if quantity.unit in STRICT and symbol not in ("", quantity.unit):
        raise JobError(f"{quantity.name} is in {quantity.unit}: write {before}{value:.10g}")
    if quantity.unit == "share" and value > 1:
        share = value if symbol else value / 100
        what = f"write {before}{100 * share:.10g}% or {share:.10g}" if share <= 1 else "it is at most 100%"
        raise JobError(f"{quantity.name} is a share: {what}")
    return value
