"""One HTML page that opens anywhere, without a network: it carries its data, plotly.js, its style and its script."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from nas.plots import Plot
from nas.tables import escaped


def page(
    title: str,
    kind: str,
    date: str,
    verdict: str,
    links: Iterable[tuple[str, str]],
    main: str,
    plots: Mapping[str, Plot],
) -> str:
    """The page; `date`, `verdict` and `main` are HTML. `links` are (id of a section, label), `plots` goes by figure id."""
    plotly, script = (source.replace("</script", "<\\/script") for source in (get_plotlyjs(), _packaged("report.js")))
    hashes = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in (plotly, script))
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    # The second lock, after escaping: this page may load nothing and run no scripts but these two.
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    nav = "".join(f'<li><a href="#{target}">{escaped(label)}</a></li>' for target, label in links)
    whole = Template(_packaged("report.html")).substitute(
        name=escaped(title),
        kind=escaped(kind),
        date=date,
        verdict=verdict,
        nav=nav,
        main=main,
        policy=policy,
        style=_packaged("report.css"),
        plots=json_in_script(plots),
        plotly=plotly,
        script=script,
    )
    # A lone surrogate, from a file name that was not UTF-8, would make the page impossible to write.
    return whole.encode(errors="replace").decode()


def section(target: str, heading: str, content: str) -> str:
    """A section with its heading; `content` is HTML."""
    heading = f'<h2 id="{target}-heading">{escaped(heading)}</h2>'
    return f'<section id="{target}" aria-labelledby="{target}-heading">{heading}{content}</section>'


def figure(plots: dict[str, Plot], target: str, plot: Plot, title: str, caption: str) -> str:
    """A place for a plot, which is added to `plots`, with its caption."""
    plots[target] = plot
    return (
        f'<figure><div class="plot {target.partition("-")[0]}" id="{target}" role="img" aria-label="{escaped(title)}" '
        f'aria-describedby="{target}-caption"></div>'
        f'<figcaption id="{target}-caption"><b>{escaped(title)}.</b> {escaped(caption)}</figcaption></figure>'
    )


def _packaged(name: str) -> str:
    return files("nas").joinpath(name).read_text(encoding="utf-8")


def json_in_script(document: object) -> str:
    """JSON that can neither end the script element it stands in nor open a comment there. NaN becomes null."""
    return json.dumps(_finite_only(document), allow_nan=False).replace("<", "\\u003c")


def _finite_only(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _finite_only(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite_only(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document
