"""How long work is carried: stages, sweeps, tables, sections of a report, manifests."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(__name__, recipe="execute", sweep="Backend")
