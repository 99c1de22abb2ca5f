"""Datasets, gene panel, anchors, splits: AnnData in, AnnData out; the caller's object is never changed."""
