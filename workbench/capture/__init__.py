"""What to record at which hook, and into which sink."""

from workbench.capture.pairs import PATTERNS, GenePairMeans, GenePairSink
from workbench.capture.ragged import Activations, MemorySink, ShardSink, read_shards
from workbench.capture.record import CaptureReport, capture
from workbench.capture.sinks import HookFilter, MomentsSink, Plan, Sink

__all__ = [
    "PATTERNS",
    "Activations",
    "CaptureReport",
    "GenePairMeans",
    "GenePairSink",
    "HookFilter",
    "MemorySink",
    "MomentsSink",
    "Plan",
    "ShardSink",
    "Sink",
    "capture",
    "read_shards",
]
