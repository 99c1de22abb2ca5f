"""Sparse dictionaries of a model's activations: trained, judged, named, spliced into the model, and asked what they cause.

>>> from workbench.dictionaries import Dictionary, split_cells
>>> split = split_cells(cells)  # doctest: +SKIP
>>> dictionary = Dictionary.train(model, cells[split.train], "blocks.3.hook_resid_post", width=256, k=16)  # doctest: +SKIP
>>> with model.spliced({dictionary.hook: dictionary}, error=True):  # doctest: +SKIP
...     model(cells[:8]).cell

Names are imported when they are first used.
"""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    alike="feature_usage",
    causing="Attribution feature_attribution feature_effects",
    circuits="Circuit feature_circuit",
    dictionary="Dictionary",
    feeding="split_cells",
    judging="match_features",
    naming="name_features",
    settings="DictionaryConfig",
    splicing="edit_features spliced",
    training="train_dictionaries",
)
