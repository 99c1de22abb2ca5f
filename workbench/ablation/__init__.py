"""Head ablation, exact or estimated by gradients.

What is switched off: `sites`. What is put in its place: `reference`, `edits`. What that does: `metrics`, `effects`. Swept:
`exact`, `study`. Estimated: `attribution`.

>>> from workbench.ablation import Ablation, ablated
>>> with ablated(model, Ablation("L2H1", "zero")):  # doctest: +SKIP
...     model(tokens).cell
"""

from workbench.ablation.edits import ablated
from workbench.ablation.metrics import Metric, Run
from workbench.ablation.reference import Reference, build_reference, needed_hooks
from workbench.ablation.sites import Ablation, Site, all_heads

__all__ = ["Ablation", "Metric", "Reference", "Run", "Site", "ablated", "all_heads", "build_reference", "needed_hooks"]
