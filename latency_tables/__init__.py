"""Latency tables: devices, measurements on them, and predictors fitted to the measurements.

What builds ONNX graphs is in `latency_tables.graphs.graph`, which alone needs the `onnx` package.
"""

from latency_tables.device import Device, Fingerprint, fingerprint, local_devices
from latency_tables.errors import BusyError, LatencyError, TableError
from latency_tables.measuring.lock import exclusive
from latency_tables.measuring.measure import PROTOCOL, Protocol, measure
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import Graph, open_session
from latency_tables.predicting.judge import HeldOut, Judgement, judge
from latency_tables.predicting.metrics import Quality, mape, spearman, within
from latency_tables.predicting.predictor import AdditivePredictor, LatencyPredictor, load_predictor
from latency_tables.profile import Progress, plan, profile
from latency_tables.table import Entry, LatencyTable, load

__all__ = [
    "PROTOCOL",
    "AdditivePredictor",
    "BusyError",
    "Device",
    "Entry",
    "Fingerprint",
    "Graph",
    "HeldOut",
    "Judgement",
    "LatencyError",
    "LatencyPredictor",
    "LatencyTable",
    "Measurement",
    "Progress",
    "Protocol",
    "Quality",
    "TableError",
    "exclusive",
    "fingerprint",
    "judge",
    "load",
    "load_predictor",
    "local_devices",
    "mape",
    "measure",
    "open_session",
    "plan",
    "profile",
    "spearman",
    "within",
]
