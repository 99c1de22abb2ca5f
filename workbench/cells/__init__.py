"""Datasets, gene panel, anchors, splits: AnnData in, AnnData out; the caller's object is never changed."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    anchors="make_anchors",
    datasets="CellMapping load",
    expression="panel_expression",
    groups="make_folds make_groups",
    panel="choose_panel",
)
