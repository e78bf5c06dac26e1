"""ONNX graphs from layers, in fp32, fp16 and int8. For the machine that plans: this alone needs the `onnx` package."""
