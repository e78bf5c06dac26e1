"""Models in the format of ONNX Runtime's small builds, for phones and boards: optimised ahead, nothing left to parse.

The file names operators of the runtime's own, so a runtime older than the one that wrote it may refuse it. Keep the ONNX file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.sessions import CPU, OPTIMIZATIONS, one_line, runtime_errors, session_options

LEVEL = "all"
# It blocks weights by the vector width of the processor at hand.
OF_THIS_MACHINE = ["NchwcTransformer"]


def ort_model(model: bytes, level: str = LEVEL, *, portable: bool = True) -> bytes:
    """The serialised ONNX model in ORT format, optimised up to `level`, a key of `OPTIMIZATIONS`.

    A `portable` one runs on any processor, as a file of the runtime's own converter does; another is faster on processors with
    vectors as wide as this machine's, and runs on no others. `basic` keeps to ONNX's own operators, which accelerators take
    over. `LatencyError` if the runtime cannot load the model.
    """
    import onnxruntime

    if level not in OPTIMIZATIONS:
        raise LatencyError(f"level must be one of {', '.join(OPTIMIZATIONS)}, not {level!r}")
    options = session_options(Device("any", graph_optimization=level))
    options.add_session_config_entry("session.save_model_format", "ORT")
    left_out = OF_THIS_MACHINE if portable else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ort"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model, options, providers=[CPU], disabled_optimizers=left_out)
        except runtime_errors() as error:
            raise LatencyError(f"the model cannot be put into ORT format: {one_line(error)}") from error
        return path.read_bytes()
