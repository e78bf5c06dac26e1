"""What an agent and its server say to each other, as JSON: version 2.

The server gives out a `Task`: ONNX graphs by their hashes, how to run them and how long to measure. The agent gives back
rounds as they come and one outcome at the end. Everything that comes in is checked here, on both sides; a task is data and
nothing in it is ever run but ONNX graphs.

Version 2 added `needs`: what a machine can tell of a network beside its times, and what a task wants of it. An agent of
version 1 says none and is asked for none.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any

from latency_tables.device import Device, Fingerprint, fingerprint
from latency_tables.measuring.measure import PROTOCOL, Protocol
from latency_tables.measuring.measurement import Measurement, Round
from latency_tables.measuring.needs import NEEDS, needs_here
from latency_tables.measuring.sessions import Graph
from latency_tables.offers import Offers, offered_devices
from nas.agent.errors import AgentError
from nas.agent.reading import (
    MAX_MESSAGE,
    checked,
    read_id,
    read_list,
    read_name,
    read_number,
    read_object,
    read_pairs,
    read_text,
    read_whole,
)

Json = Any

WIRE = 2
"""The version of this language that we speak, and the oldest that we understand."""
OLDEST = 1

MAX_GRAPHS = 2000
MAX_MODEL_BYTES = 2**31 - 1
MAX_TASK_BYTES = 8 << 30
MAX_ROUNDS = 100_000
FAULTS = ("user", "infrastructure")
"""Whose fault an error is: the graph's or device's, or the machine's, where trying again may help."""

_HASH = re.compile(r"[0-9a-f]{64}")
# Validates the form of a round where those before it are not at hand.
_ANY_ROUND = Round((1.0,), 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class GraphRef:
    """A graph to measure: everything but the model, which goes by its SHA-256."""

    key: str
    sha256: str
    size_bytes: int
    dims: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    def graph(self, model: bytes) -> Graph:
        return Graph(self.key, model, self.dims, self.shapes)

    @staticmethod
    def from_json(document: Json) -> GraphRef:
        found = read_object("graph", document, [part.name for part in fields(GraphRef)])
        if not isinstance(found["sha256"], str) or not _HASH.fullmatch(found["sha256"]):
            raise AgentError(f"graph: sha256 must be 64 hexadecimal digits, not {found['sha256']!r:.80}")
        dims = read_pairs("graph: dims", found["dims"])
        shapes = read_pairs("graph: shapes", found["shapes"])
        return GraphRef(
            read_name("graph: key", found["key"]),
            found["sha256"],
            read_whole("graph: size_bytes", found["size_bytes"], 1, MAX_MODEL_BYTES),
            tuple((name, _extent(extent)) for name, extent in dims),
            tuple((name, tuple(map(_extent, read_list("graph: shapes", shape, 64)))) for name, shape in shapes),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What an agent is to measure: one call of `measure`, with what was measured of it before.

    `epoch` grows each time that the task is given out; what is sent under an earlier one is refused. `fingerprint` is the
    id of the machine's that it was meant for.
    """

    id: str
    epoch: int
    device: Device
    settings: Protocol
    fingerprint: str
    graphs: tuple[GraphRef, ...]
    earlier: Mapping[str, Measurement] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        document = {
            "id": self.id,
            "epoch": self.epoch,
            "measuring": PROTOCOL,
            "device": self.device.to_json(),
            "settings": settings_json(self.settings),
            "fingerprint": self.fingerprint,
            "graphs": [graph.to_json() for graph in self.graphs],
            "earlier": measured_json(self.earlier),
        }
        return {**document, "needs": list(self.needs)} if self.needs else document

    @staticmethod
    def from_json(document: Json) -> Task:
        """Read what `to_json` wrote; `AgentError` names what is wrong."""
        names = ("id", "epoch", "measuring", "device", "settings", "fingerprint", "graphs", "earlier")
        found = read_object("task", _with_needs(document), (*names, "needs"))
        if found["measuring"] != PROTOCOL:
            raise AgentError(
                f"the server measures by version {found['measuring']!r:.20} of the protocol, this agent by {PROTOCOL}: "
                "install the same release of hwnas on both"
            )
        graphs = tuple(map(GraphRef.from_json, read_list("task: graphs", found["graphs"], MAX_GRAPHS)))
        if not graphs or len({graph.key for graph in graphs}) != len(graphs):
            raise AgentError("task: wanted one graph or more, each with a key of its own")
        if sum(graph.size_bytes for graph in graphs) > MAX_TASK_BYTES:
            raise AgentError(f"task: the models are larger than {MAX_TASK_BYTES} bytes together")
        return Task(
            read_id(found["id"]),
            read_whole("task: epoch", found["epoch"], 1, 2**53),
            checked("device", Device.from_json, found["device"]),
            settings_of(found["settings"]),
            read_name("task: fingerprint", found["fingerprint"]),
            graphs,
            measured_of(found["earlier"], [graph.key for graph in graphs]),
            read_needs(found["needs"]),
        )


@dataclass(frozen=True, slots=True)
class About:
    """What an agent says of itself: what it runs on, what that offers and can tell of a network, and its versions."""

    fingerprint: Fingerprint
    offers: Offers
    versions: Mapping[str, str]
    needs: tuple[str, ...] = ()

    @staticmethod
    def here() -> About:
        """This machine. Opens a session for every provider and precision, which takes a second or so."""
        versions = {"hwnas": version("hwnas"), "python": platform.python_version(), "measuring": str(PROTOCOL)}
        return About(fingerprint(), offered_devices(), versions, tuple(needs_here()))

    def to_json(self) -> dict[str, Json]:
        return {
            "fingerprint": self.fingerprint.to_json(),
            "offers": offers_json(self.offers, self.needs),
            "versions": dict(self.versions),
        }

    @staticmethod
    def from_json(document: Json) -> About:
        """Read what `to_json` wrote; `AgentError` names what is wrong."""
        found = read_object("agent", document, ("fingerprint", "offers", "versions"))
        versions = found["versions"]
        if not isinstance(versions, dict) or len(versions) > 32:
            raise AgentError("agent: versions must be an object of a few strings")
        offers, needs = offers_of(found["offers"])
        return About(
            checked("agent", Fingerprint.from_json, found["fingerprint"]),
            offers,
            {read_name("agent: versions", key): read_name("agent: versions", value) for key, value in versions.items()},
            needs,
        )


def offers_json(offers: Offers, needs: Sequence[str]) -> dict[str, Json]:
    devices = [device.to_json() for device in offers.devices]
    return {"devices": devices, "refused": list(offers.refused), "needs": list(needs)}


def offers_of(document: Json) -> tuple[Offers, tuple[str, ...]]:
    """Read what `offers_json` wrote; `AgentError` names what is wrong."""
    found = read_object("agent: offers", _with_needs(document), ("devices", "refused", "needs"))
    devices = [checked("agent: offers", Device.from_json, each) for each in read_list("offers", found["devices"], 4096)]
    refused = [read_text("agent: offers", each) for each in read_list("offers", found["refused"], 4096)]
    return Offers(tuple(devices), tuple(refused)), read_needs(found["needs"])


def read_needs(value: Json) -> tuple[str, ...]:
    """Names of `NEEDS`, each once; `AgentError` for any other."""
    found = read_list("needs", value, len(NEEDS))
    if not all(each in NEEDS for each in found) or len(set(found)) != len(found):
        raise AgentError(f"needs: wanted some of {', '.join(NEEDS)}, not {found!r:.80}")
    return tuple(found)


def _with_needs(document: Json) -> Json:
    """As version 2 says it what version 1 said."""
    return {"needs": [], **document} if isinstance(document, dict) else document


def check_wire(document: Json) -> None:
    """`AgentError` where the agent speaks a version that we do not understand."""
    spoken = document.get("wire") if isinstance(document, dict) else None
    if type(spoken) is not int:
        raise AgentError("wanted an object with `wire`, the version of the language that the agent speaks")
    if spoken < OLDEST:
        raise AgentError(
            f"this agent is too old: it speaks version {spoken}, the server {OLDEST} or newer; on the machine of the agent: "
            "pip install --upgrade 'hwnas[agent]'"
        )
    if spoken > WIRE:
        raise AgentError(
            f"this server is too old for the agent: it speaks version {WIRE}, the agent {spoken}; upgrade the server, or "
            "install its release of hwnas on the machine of the agent"
        )


def settings_json(settings: Protocol) -> dict[str, Json]:
    """A protocol as JSON, which has no infinity: null stands for it."""
    return {name: None if value == math.inf else value for name, value in asdict(settings).items()}


def settings_of(document: Json) -> Protocol:
    """Read what `settings_json` wrote; `AgentError` names what is wrong."""
    kinds = {part.name: type(part.default) for part in fields(Protocol)}
    found = read_object("settings", document, list(kinds))
    for name, value in found.items():
        if kinds[name] is float:
            found[name] = math.inf if value is None else read_number(f"settings: {name}", value)
        else:
            read_whole(f"settings: {name}", value, 0, 2**53)
    if found["max_rounds"] + found["max_rejected"] > MAX_ROUNDS or found["max_runs"] > MAX_ROUNDS:
        raise AgentError(f"settings: max_rounds, max_rejected and max_runs may be {MAX_ROUNDS} at most")
    return checked("settings", lambda kwargs: Protocol(**kwargs), found)


def measured_json(measured: Mapping[str, Measurement]) -> dict[str, Json]:
    return {key: found.to_json() for key, found in measured.items()}


def measured_of(document: Json, keys: Sequence[str]) -> dict[str, Measurement]:
    """Measurements by their keys, which must be of these; `AgentError` names what is wrong."""
    return {key: _measurement(key, found) for key, found in _keyed(document, keys).items()}


def round_json(
    n: int, number: int, most: int, found: Mapping[str, Measurement], written: Mapping[str, int]
) -> dict[str, Json]:
    """A round as it is sent: of each graph visited what came after its first `written` rounds.

    `n` counts the rounds of an epoch from 1; `number` and `most` are those that `measure` tells.
    """
    measured = {
        key: {"written": written.get(key, 0), "measurement": each.since(written.get(key, 0))}
        for key, each in found.items()
    }
    return {"n": n, "number": number, "most": most, "measured": measured}


def check_round(document: Json, keys: Sequence[str]) -> None:
    """`AgentError` where this is no round of a task with these graphs."""
    found = read_object("round", document, ("n", "number", "most", "measured"))
    for name in ("n", "number", "most"):
        read_whole(f"round: {name}", found[name], 1, 2**53)
    for key, record in _keyed(found["measured"], keys).items():
        record = read_object("round", record, ("written", "measurement"))
        written = read_whole("round: written", record["written"], 0, MAX_ROUNDS)
        _measurement(key, record["measurement"], (_ANY_ROUND,) * written)


def joined(known: Mapping[str, Measurement], measured: Json) -> dict[str, Measurement]:
    """What a round measured, each graph's rounds after those that are `known`."""
    found = {}
    for key, record in measured.items():
        before = known[key].rounds[: record["written"]] if key in known else ()
        if len(before) != record["written"]:
            raise AgentError(f"round: {key} has {len(before)} rounds before it, not {record['written']}")
        found[key] = _measurement(key, record["measurement"], before)
    return found


def error_json(fault: str, message: str) -> dict[str, Json]:
    return {"fault": fault, "message": " ".join(message.split())[:MAX_MESSAGE]}


def check_outcome(document: Json, keys: Sequence[str]) -> None:
    """`AgentError` where this is neither {"measured": all of these} nor {"error": why there is nothing}."""
    if isinstance(document, dict) and list(document) == ["error"]:
        error = read_object("error", document["error"], ("fault", "message"))
        if error["fault"] not in FAULTS:
            raise AgentError(f"error: fault must be one of {', '.join(FAULTS)}, not {error['fault']!r:.80}")
        read_text("error: message", error["message"])
        return
    measured = measured_of(read_object("outcome", document, ("measured",))["measured"], keys)
    missing = next((key for key in keys if key not in measured), None)
    if missing is not None:
        raise AgentError(f"outcome: graph {missing!r} was not measured")


def _extent(value: Json) -> int:
    return read_whole("graph: an extent", value, 1, 2**31 - 1)


def _measurement(key: str, document: Json, before: tuple[Round, ...] = ()) -> Measurement:
    found = checked(f"graph {key!r}", lambda given: Measurement.from_json(given, before), document)
    if found.key != key:
        raise AgentError(f"graph {key!r}: the measurement is of {found.key!r:.80}")
    return found


def _keyed(document: Json, keys: Sequence[str]) -> dict[str, Json]:
    if not isinstance(document, dict):
        raise AgentError(f"wanted an object with a graph's key each, found {type(document).__name__}")
    known = frozenset(keys)
    unknown = next((key for key in document if key not in known), None)
    if unknown is not None:
        raise AgentError(f"the task has no graph {unknown!r:.80}")
    return document
