"""Numbers for Prometheus: requests as they are counted here, and the state of the service as the database has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Connection, case, func, inspect, select, text

from nas.database import Database, clock
from nas.service.claims import WAITING
from nas.service.errors import ServiceError
from nas.service.leases import HELD
from nas.service.schema import artefacts, blobs, devices, events, jobs, tasks, workers

# Whoever asks more often is told the same again: some of these count whole tables.
KEEP_S = 5.0
WORKER_SEEN_S = 60.0
DEVICE_SEEN_S = 90.0
LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# Of what a machine noted of its last task under the same settings: name, help, field and its unit in that of the name.
_LAST = (
    (
        "nas_device_canary_seconds",
        "Inference of the canary, a fixed small network, in the last task.",
        "reference_us",
        1e-6,
    ),
    (
        "nas_device_inference_joules",
        "Energy of an inference, idle power included: median of the last task.",
        "joules",
        1.0,
    ),
    ("nas_device_inference_watts", "Power during inferences: median of the last task.", "watts", 1.0),
)

# Sums over the list of {stage, seconds} that each job has.
_STAGES = {
    "sqlite": """
        SELECT each.value ->> 'stage', count(*), sum(each.value ->> 'seconds')
        FROM jobs, json_each(jobs.stages) AS each WHERE jobs.stages IS NOT NULL GROUP BY 1 ORDER BY 1""",
    "postgresql": """
        SELECT each ->> 'stage', count(*), sum((each ->> 'seconds')::float8)
        FROM jobs, json_array_elements(jobs.stages::json) AS each WHERE jobs.stages IS NOT NULL GROUP BY 1 ORDER BY 1""",
}


class Metrics:
    """All numbers of one process of the service, in a registry of its own."""

    def __init__(self, db: Database) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "nas_http_requests",
            "Requests, by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "nas_http_request_seconds",
            "From a request to the first byte of its answer.",
            ("route",),
            buckets=LATENCIES_S,
            registry=self._registry,
        )
        self._registry.register(_State(db))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """What /metrics answers, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class _Machine:
    """One enrolled machine: whether it was heard of lately, what it measured last by settings, and the energy of it all."""

    name: str
    online: bool
    last: Mapping[str, Mapping[str, float]]
    joules: float


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the database says at one moment."""

    queue: Sequence[tuple[str, str, int]]
    waiting_s: float
    stages: Sequence[tuple[str, int, float]]
    workers: int
    evaluations: int
    front_points: int
    devices: Mapping[str, int]
    machines: Sequence[_Machine]
    tasks: Mapping[str, int]
    blobs: tuple[int, int]
    artefacts: int


class _State(Collector):
    """The state of the service, read from the database when somebody asks."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._turn = threading.Lock()
        self._read_s = float("-inf")
        self._metrics: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would otherwise collect at once, before there are tables."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._turn:
            if time.monotonic() - self._read_s > KEEP_S:
                self._metrics = self._read()
                self._read_s = time.monotonic()
            found = list(self._metrics)
        yield from found

    def _read(self) -> list[Metric]:
        up = GaugeMetricFamily("nas_database_up", "Whether the database answers.")
        try:
            counts = self._db.read(_counted)
        except ServiceError:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *_families(counts)]


def _families(counts: _Counts) -> Iterator[Metric]:
    queue = GaugeMetricFamily("nas_jobs", "Jobs, by state and kind.", labels=("state", "kind"))
    for state, kind, count in counts.queue:
        queue.add_metric([state, kind], count)
    yield queue
    stages = SummaryMetricFamily("nas_stage_seconds", "Seconds of finished stages.", labels=("stage",))
    for stage, count, seconds in counts.stages:
        stages.add_metric([stage], count, seconds)
    yield stages
    for name, said, by_state in (
        ("nas_devices", "Enrolled machines, by state.", counts.devices),
        ("nas_tasks", "Measuring tasks, by state.", counts.tasks),
    ):
        family = GaugeMetricFamily(name, said, labels=("state",))
        for state, count in by_state.items():
            family.add_metric([state], count)
        yield family
    yield from _machine_families(counts.machines)
    held = sum(count for state, _, count in counts.queue if state in HELD)
    yield GaugeMetricFamily("nas_queue_oldest_seconds", "How long the oldest waiting job waits.", counts.waiting_s)
    yield GaugeMetricFamily("nas_leases", "Jobs that a worker holds.", held)
    yield GaugeMetricFamily("nas_workers", "Workers that are there.", counts.workers)
    yield CounterMetricFamily("nas_evaluations", "Architectures whose accuracy was evaluated.", counts.evaluations)
    yield CounterMetricFamily("nas_front_points", "Architectures that were on a front when found.", counts.front_points)
    yield GaugeMetricFamily("nas_blobs", "Files in the store.", counts.blobs[0])
    yield GaugeMetricFamily("nas_blob_bytes", "Bytes of files in the store.", counts.blobs[1])
    yield GaugeMetricFamily("nas_artefacts", "Files of jobs.", counts.artefacts)


def _machine_families(machines: Sequence[_Machine]) -> Iterator[Metric]:
    online = GaugeMetricFamily(
        "nas_device_online", "Whether an enrolled machine was heard of lately.", labels=["device"]
    )
    spent = CounterMetricFamily("nas_device_joules", "Energy of inferences where it was counted.", labels=["device"])
    for machine in machines:
        online.add_metric([machine.name], machine.online)
        spent.add_metric([machine.name], machine.joules)
    yield online
    yield spent
    for name, said, field, unit in _LAST:
        family = GaugeMetricFamily(name, said, labels=["device", "settings"])
        for machine in machines:
            for settings, noted in machine.last.items():
                if field in noted:
                    family.add_metric([machine.name, settings], noted[field] * unit)
        yield family


def _counted(connection: Connection) -> _Counts:
    def value(query: Any) -> Any:
        return connection.execute(query).scalar_one() or 0

    by_state = select(jobs.c.state, jobs.c.kind, func.count()).group_by(jobs.c.state, jobs.c.kind)
    waiting = select(clock() - func.min(jobs.c.created_s)).where(jobs.c.finished_s.is_(None), jobs.c.state.in_(WAITING))
    alive = select(func.count()).where(workers.c.stopped_s.is_(None), workers.c.seen_s > clock() - WORKER_SEEN_S)
    of_device = case(
        (devices.c.revoked_s.is_not(None), "revoked"),
        (devices.c.seen_s > clock() - DEVICE_SEEN_S, "online"),
        else_="offline",
    ).label("state")
    has_trials = inspect(connection).has_table("evaluations")
    stored = connection.execute(
        select(func.count(), func.coalesce(func.sum(blobs.c.bytes), 0)).select_from(blobs)
    ).one()
    return _Counts(
        queue=[(row[0], row[1], row[2]) for row in connection.execute(by_state)],
        waiting_s=float(value(waiting)),
        stages=[(row[0], row[1], float(row[2])) for row in connection.execute(text(_STAGES[connection.dialect.name]))],
        workers=value(alive),
        evaluations=value(text("SELECT count(*) FROM evaluations")) if has_trials else 0,
        front_points=value(select(func.count()).select_from(events).where(events.c.kind == "point")),
        machines=_machines(connection),
        devices=_by_state(connection, select(of_device, func.count()).select_from(devices).group_by(of_device)),
        tasks=_by_state(connection, select(tasks.c.state, func.count()).group_by(tasks.c.state)),
        blobs=(stored[0], int(stored[1])),
        artefacts=value(select(func.count()).select_from(artefacts)),
    )


def _machines(connection: Connection) -> list[_Machine]:
    """The machines that were not removed, by name."""
    online = devices.c.seen_s > clock() - DEVICE_SEEN_S
    query = select(devices.c.name, online.label("online"), devices.c.canary).where(devices.c.revoked_s.is_(None))
    return [
        _Machine(
            row.name,
            bool(row.online),
            {noted["settings"]: noted for noted in (row.canary or {}).get("history", ())},
            (row.canary or {}).get("joules", 0.0),
        )
        for row in connection.execute(query.order_by(devices.c.name))
    ]


def _by_state(connection: Connection, query: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query)}
