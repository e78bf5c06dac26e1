"""Latencies of architectures that were not measured, with intervals; from this device's table, or from other devices'."""
