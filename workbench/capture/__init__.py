"""What to record at which hook, and into which sink."""

from workbench.capture.pairs import GenePairMeans, GenePairSink
from workbench.capture.ragged import Activations, MemorySink, ShardSink, read_shards
from workbench.capture.record import CaptureReport, capture
from workbench.capture.sinks import MomentsSink, Only, Plan, Sink

__all__ = [
    "Activations",
    "CaptureReport",
    "GenePairMeans",
    "GenePairSink",
    "MemorySink",
    "MomentsSink",
    "Only",
    "Plan",
    "ShardSink",
    "Sink",
    "capture",
    "read_shards",
]
