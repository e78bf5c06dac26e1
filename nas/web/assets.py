"""Styles, scripts and plotly.js, served from here under names that say their content, so that a browser keeps them for good."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from plotly.offline import get_plotlyjs

MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
OURS = ("page.css", "icon.svg", "parts.js", "jobs.js", "live.js", "submit.js", "upload.js")
SHARED = ("report.css", "report.js")
"""Which reports have too."""
# What the bundle of optuna-dashboard takes for the root of the service, and what it is made to take: the part of the page's
# own address before /dashboard. An absolute path in a new version of it would be one more line here.
_ROOT = 'location.pathname.split("/dashboard")[0]'
DASHBOARD_PATHS = {
    'url_prefix:"/dashboard"': f'url_prefix:{_ROOT}+"/dashboard"',
    '(null!=e?e:"")}handleResponse': f"(null!=e?e:{_ROOT})}}handleResponse",
    "`/csv/": f"`${{{_ROOT}}}/csv/",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file for browsers. `url` changes with its content."""

    url: str
    media_type: str
    body: bytes


class Assets:
    """The files under /static, by the name that a page calls them by and by the name in their address."""

    def __init__(self) -> None:
        web = files("nas.web").joinpath("static")
        sources = {name: web.joinpath(name).read_bytes() for name in OURS}
        sources |= {name: files("nas").joinpath(name).read_bytes() for name in SHARED}
        sources["plotly.js"] = get_plotlyjs().encode()
        sources["dashboard.js"] = dashboard_bundle()
        self._named = {name: _asset(name, body) for name, body in sources.items()}
        self._addressed = {asset.url.rpartition("/")[2]: asset for asset in self._named.values()}
        self._packed: dict[str, bytes] = {}
        self._packing = Lock()
        # Plotly adds a style element for its maps, which the page's policy would refuse with a complaint, unless an
        # element of this id is there.
        self.plotly_ids = tuple(re.findall(r'getElementById\("([0-9a-f]{64})"\)', sources["plotly.js"].decode()))

    def url(self, name: str) -> str:
        return self._named[name].url

    def find(self, file: str) -> Asset | None:
        """The asset of the last part of an address; None for any other."""
        return self._addressed.get(file)

    def packed(self, asset: Asset) -> bytes:
        """Its bytes under gzip: 6.4 MB become 1.9 in 0.3 s, once."""
        with self._packing:
            if asset.url not in self._packed:
                self._packed[asset.url] = gzip.compress(asset.body, compresslevel=6, mtime=0)
            return self._packed[asset.url]


def dashboard_bundle() -> bytes:
    """optuna-dashboard's script, made to find its pages and data wherever it stands; as it came where it is another one than
    is known here."""
    text = dashboard_file("public/bundle.js").decode()
    for theirs, ours in DASHBOARD_PATHS.items():
        text = text.replace(theirs, ours)
    return text.encode()


def dashboard_file(name: str) -> bytes:
    """A file of optuna-dashboard, found without importing it: that takes Optuna and a second."""
    spec = find_spec("optuna_dashboard")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the pages need optuna-dashboard; install hwnas[serve]")
    return Path(spec.origin).parent.joinpath(name).read_bytes()


def _asset(name: str, body: bytes) -> Asset:
    stem, dot, suffix = name.rpartition(".")
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(f"/static/{stem}-{digest}{dot}{suffix}", MEDIA_TYPES[dot + suffix], body)
