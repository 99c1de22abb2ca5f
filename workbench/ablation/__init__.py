"""Head ablation, exact or estimated by gradients.

What is switched off: `sites`. What is put in its place: `reference`, `edits`. What that does: `metrics`, `effects`. Swept:
`exact`, `study`. Estimated: `attribution`.

>>> from workbench.ablation import Ablation, ablated
>>> with ablated(model, Ablation("L2H1", "zero")):  # doctest: +SKIP
...     model(tokens).cell

Names are imported when they are first used: the configuration of a sweep is read without them.
"""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    build="choose_rows",
    edits="ablated",
    metrics="Metric Run",
    reference="Reference build_reference needed_hooks",
    sites="Ablation Site all_heads",
)
