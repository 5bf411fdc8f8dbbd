"""From a compact module to a checked ONNX file, and to measured latencies."""

from __future__ import annotations

from graphprune.deploy.hardware import Hardware, describe_hardware, library_versions
from graphprune.deploy.onnx_export import ExportResult, export_onnx
from graphprune.deploy.signature import onnx_feeds
from graphprune.deploy.timing import Latency, Speedup, TimingResult, time_interleaved

__all__ = [
    "ExportResult",
    "Hardware",
    "Latency",
    "Speedup",
    "TimingResult",
    "describe_hardware",
    "export_onnx",
    "library_versions",
    "onnx_feeds",
    "time_interleaved",
]
