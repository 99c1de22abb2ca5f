"""How long work is carried: stages, sweeps, tables, sections of a report, manifests."""
