"""Head ablation, exact or estimated by gradients.

What is switched off: `sites`. What is put in its place: `reference`, `edits`. What that does: `metrics`, `effects`. Swept:
`exact`, `study`. Estimated: `attribution`.

>>> from workbench.ablation import Ablation, ablated
>>> with ablated(model, Ablation("L2H1", "zero")):  # doctest: +SKIP
...     model(tokens).cell

Names are imported when they are first used: the configuration of a sweep is read without them.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "Ablation": "sites",
    "Metric": "metrics",
    "Reference": "reference",
    "Run": "metrics",
    "Site": "sites",
    "ablated": "edits",
    "all_heads": "sites",
    "build_reference": "reference",
    "needed_hooks": "reference",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench.ablation' has no attribute '{name}'; it has {', '.join(_WHERE)}")
    return getattr(import_module(f"workbench.ablation.{_WHERE[name]}"), name)
