"""A search as it is drawn on its job's page: from its events while it runs, from its result once there is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.plots import axis, plot
from nas.service.events import Event
from nas.tables import finite

Json = Any
Picture = dict[str, Json]

DRAWN = ("point", "measured", "volume")
"""Kinds of events that a picture is made of."""


def picture_of(events: Iterable[Event], searched: Json, exported: Json, score: str = "Accuracy") -> Picture:
    """Devices, and by device: points ever found, fronts, measured latencies, hypervolumes by seed and those of the controls.

    `searched` and `exported` are what these stages left, or None; `score` is what an accuracy is called.
    """
    picture: Picture = {
        "devices": [],
        "points": {},
        "fronts": {},
        "measured": {},
        "volumes": {},
        "random": {},
        "uniform": {},
    }
    for event in events:
        _HEARD[event.kind](picture, event.data)
    if searched is not None:
        _add_result(picture, searched, exported)
    found = (name for part in ("points", "measured", "volumes") for name in picture[part])
    picture["devices"] = list(dict.fromkeys([*picture["devices"], *found]))
    return picture | {"layouts": _layouts(score)}


def front_rows(picture: Picture) -> list[dict[str, Json]]:
    """The front of every device as rows, the fastest network first."""
    devices = []
    for name in picture["devices"]:
        points = picture["fronts"].get(name) or list(picture["points"].get(name, {}).values())
        measured = picture["measured"].get(name, {})
        rows = [{**point, "measured_ms": measured.get(point["arch_id"])} for point in front_of(points)]
        if rows:
            devices.append({"name": name, "rows": rows})
    return devices


def front_of(points: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Those that no other one beats in both accuracy and latency, the fastest first."""
    front: list[Mapping[str, Json]] = []
    for point in sorted(points, key=lambda point: (point["latency_ms"], -point["accuracy"])):
        if not front or point["accuracy"] > front[-1]["accuracy"]:
            front.append(point)
    return front


def _point(picture: Picture, data: Mapping[str, Json]) -> None:
    kept = {key: data[key] for key in ("arch_id", "accuracy", "latency_ms")}
    picture["points"].setdefault(data["device"], {}).setdefault(data["arch_id"], kept)


def _measured(picture: Picture, data: Mapping[str, Json]) -> None:
    picture["measured"].setdefault(data["device"], {})[data["arch_id"]] = data["latency_ms"]


def _volume(picture: Picture, data: Mapping[str, Json]) -> None:
    curve = picture["volumes"].setdefault(data["device"], {}).setdefault(str(data.get("seed", 0)), [])
    # A search that goes on after a kill tells again what it told before.
    if all(evaluations != data["evaluations"] for evaluations, _ in curve):
        curve.append([data["evaluations"], data["hypervolume"]])


_HEARD = {"point": _point, "measured": _measured, "volume": _volume}


def _add_result(picture: Picture, searched: Json, exported: Json) -> None:
    """What the search ended with, in place of what was seen of it on the way, and what it is compared with."""
    checked = {device["name"]: device["front"] for device in (exported or {}).get("devices", ())}
    search = searched.get("search", {})
    for device in searched.get("devices", ()):
        name = device["name"]
        picture["devices"].append(name)
        front = checked.get(name, device["front"])
        picture["fronts"][name] = [
            {"arch_id": row["arch_id"], "accuracy": row["val_accuracy"], "latency_ms": row["latency_ms_predicted"]}
            for row in front
        ]
        picture["measured"].setdefault(name, {}).update(
            {row["arch_id"]: ms for row in front if (ms := finite(row.get("latency_ms_measured"))) is not None}
        )
        picture["volumes"][name] = {
            str(each["seed"]): _curve(each["history"], name) for each in search.get("searches", ())
        }
        picture["random"][name] = [_curve(each["history"], name) for each in search.get("random", ())]
        picture["uniform"][name] = device.get("uniform_hypervolume")


def _curve(history: Sequence[Mapping[str, Json]], device: str) -> list[list[Json]]:
    return [[each["evaluations"], each["by_device"][device]] for each in history if device in each["by_device"]]


def _layouts(score: str) -> dict[str, Json]:
    kept = {"uirevision": "kept"}  # a redraw leaves what was zoomed as it is
    return {
        "front": plot((), axis("Latency (ms)"), axis(f"{score} (%)"), **kept)["layout"],
        "volume": plot((), axis("Evaluations"), axis("Hypervolume"), **kept)["layout"],
    }
