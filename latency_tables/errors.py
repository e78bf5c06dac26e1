"""What can go wrong with graphs, devices, measurements and predictors."""


class LatencyError(ValueError):
    """A graph, a device, a measurement or a predictor is not usable; the message says what to do."""


class TableError(LatencyError):
    """A latency table's file is not the one that was wanted, or not whole."""


class BusyError(LatencyError):
    """Another process is measuring on this machine; trying again later can work."""
