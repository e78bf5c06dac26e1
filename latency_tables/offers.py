"""What a machine offers by itself: every provider that starts, with the threads, batches and precisions that run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from latency_tables.device import PRECISIONS, Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.sessions import CANARY, CPU, Graph, open_session, optimised_model
from latency_tables.processor import Processor

CANARIES = {"fp32": CANARY, **{name: CANARY.with_name(f"canary_{name}.onnx") for name in PRECISIONS if name != "fp32"}}
BATCHES = (1, 8)
CAST = b"InsertedPrecisionFreeCast"
"""How the runtime names the casts that it puts around an operation which the provider has in single precision only."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Devices that run here, and one line for each provider or precision that does not, with the reason."""

    devices: tuple[Device, ...]
    refused: tuple[str, ...]


def check_device(device: Device) -> None:
    """`LatencyError` says why this machine cannot run the device: provider, options or precision, or that the provider leaves
    a part of a plain network to the processor."""
    graph = Graph("canary", CANARIES[device.precision].read_bytes())
    one = Device(device.name, device.provider, device.provider_options, device.threads, device.precision)
    open_session(graph, one)
    optimised = optimised_model(graph, one, alone=True)
    if device.precision == "fp16" and CAST in optimised:
        raise LatencyError(
            f"device {device.name}: {device.provider} has no fp16 on this machine and would compute in fp32 between casts; "
            "use fp32 or int8"
        )


def offered_devices(providers: Sequence[str] | None = None) -> Offers:
    """Everything that this machine can be measured as. `providers` are those of the runtime, unless given.

    Threads (powers of two up to all cores) are a matter of the CPU alone; accelerators are driven by one.
    """
    import onnxruntime

    devices: list[Device] = []
    refused: list[str] = []
    for provider in onnxruntime.get_available_providers() if providers is None else providers:
        short = provider.removesuffix("ExecutionProvider").lower()
        threads = _threads(Processor.here().usable_cores) if provider == CPU else (1,)
        for precision in PRECISIONS:
            try:
                check_device(Device(short, provider, precision=precision))
            except LatencyError as error:
                refused.append(f"{short}, {precision}: {error}")
                continue
            for each, batch in product(threads, BATCHES):
                device = Device("offered", provider, threads=each, precision=precision, batch=batch)
                devices.append(Device(device.id, provider, threads=each, precision=precision, batch=batch))
    return Offers(tuple(devices), tuple(refused))


def _threads(cores: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and all."""
    powers = [2**exponent for exponent in range(cores.bit_length()) if 2**exponent < cores]
    return (*powers, cores)
