"""Text and marks can be seen, light and dark: the contrast of the colours that the style sheets name (WCAG 2.2)."""

import re
from importlib.resources import files

import pytest

SHEETS = (files("nas").joinpath("report.css"), files("nas.web").joinpath("static", "page.css"))
TEXT, MARK = 4.5, 3.0
"""Success criteria 1.4.3 and 1.4.11, level AA."""
GROUNDS = ("paper", "card", "field", "tint", "bad-tint")
WRITTEN = ("ink", "muted", "link", "bad")
MARKS = ("edge", "link", "front", "measured", "uniform", "random", "good", "bad", *(f"device-{i}" for i in range(6)))

Colour = tuple[float, float, float, float]


def names_of(scheme: str) -> dict[str, str]:
    """Custom properties as a screen of the scheme has them."""
    found: dict[str, str] = {}
    for sheet in SHEETS:
        text = sheet.read_text(encoding="utf-8")
        blocks = re.findall(r":root(:not\(\[data-print\]\))? \{(.*?)\}", text, re.DOTALL)
        assert [bool(dark) for dark, _ in blocks] == [False, True]
        for dark, body in blocks:
            if not dark or scheme == "dark":
                found |= dict(re.findall(r"--([\w-]+): ([^;]+);", body))
    return found


def parsed(text: str) -> Colour:
    if text.startswith("#"):
        red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
        return red, green, blue, 1.0
    red, green, blue, alpha = (float(part) for part in re.findall(r"[\d.]+", text))
    return red, green, blue, alpha


def over(top: Colour, under: Colour) -> Colour:
    red, green, blue = (a * top[3] + b * (1 - top[3]) for a, b in zip(top[:3], under[:3], strict=True))
    return red, green, blue, 1.0


def luminance(colour: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in colour[:3])]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_that_of_the_standard() -> None:
    assert contrast(parsed("#000000"), parsed("#ffffff")) == pytest.approx(21)
    assert contrast(parsed("#777777"), parsed("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_everything_that_it_stands_on(scheme) -> None:
    named = {name: parsed(text) for name, text in names_of(scheme).items() if text.startswith(("#", "rgb"))}
    assert names_of("light")["ink"] != names_of("dark")["ink"]
    grounds = {name: over(named[name], named["paper"]) for name in GROUNDS}
    pairs = [(word, on, contrast(named[word], grounds[on])) for word in WRITTEN for on in grounds]
    pairs += [("button-ink", "link", contrast(named["button-ink"], named["link"]))]
    pairs += [("measured", "tint", contrast(named["measured"], grounds["tint"]))] if scheme == "dark" else []
    assert [pair for pair in pairs if pair[2] < TEXT] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_lines_and_edges_can_be_seen(scheme) -> None:
    named = {name: parsed(text) for name, text in names_of(scheme).items() if text.startswith(("#", "rgb"))}
    seen = {(mark, on): contrast(named[mark], named[on]) for mark in MARKS for on in ("paper", "card")}
    assert {pair: ratio for pair, ratio in seen.items() if ratio < MARK} == {}
