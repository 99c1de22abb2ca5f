"""Cells of one or several studies for a training: their joined genes, and who is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.expression import adding_scale, on_genes
from workbench.cells.genes import find_genes, gene_ids, gene_names, match_genes
from workbench.cells.matrix import check_block, row_block
from workbench.cells.values import describe_values
from workbench.errors import CellsError, ConfigError
from workbench.files import digest
from workbench.models.vocabulary import Vocabulary
from workbench.pretrain_settings import PretrainSettings
from workbench.seeds import key

# Share of a study's genes that another has to measure for a simple predictor to be fitted on its cells.
ALIKE = 0.9
# Predictors that a training is compared with are tuned on a fifth of its cells and fitted on the others: on two or more.
_FEWEST = 3


@dataclass(frozen=True)
class TrainingData:
    """Cells by genes of the vocabulary, split once by hashes of the names of cells or donors.

    Attributes
    ----------
    matrix
        All cells by vocabulary genes, CSR, as they were given.
    cell_ids
        Names of the cells, in the order of the rows; where there are several studies, each behind the name of its study.
    vocabulary, column_ids
        Tokens, and the token id of each column.
    train, held_out
        Row numbers of the cells trained on, and of those left out.
    study
        Name of each cell's study.
    measured
        By study, whether it measures the gene of each column.
    held_out_groups
        Row numbers of those left out, by what they are: cells or donors of a study that is trained on, or a study left out whole.
    """

    matrix: sp.csr_matrix
    cell_ids: np.ndarray
    vocabulary: Vocabulary
    column_ids: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    study: np.ndarray
    measured: Mapping[str, np.ndarray]
    held_out_groups: Mapping[str, np.ndarray]

    def fingerprint(self) -> str:
        """Hash of values, cells, genes and the split."""
        matrix, names = self.matrix, [self.cell_ids.tolist(), dict(self.vocabulary.ids), self.held_out.tolist()]
        return digest(names, matrix.data, matrix.indices, matrix.indptr)

    def alike(self, group: str) -> np.ndarray:
        """Cells trained on that measure what a group held out measures: a fair place to fit a simple predictor.

        Parameters
        ----------
        group
            Name in `held_out_groups`. Cells come from each study with at least nine tenths of its genes, else from the one with most.
        """
        own = self.measured[self.study[self.held_out_groups[group][0]]]
        shares = {name: (own & self.measured[name]).sum() / max(own.sum(), 1) for name in set(self.study[self.train])}
        near = [name for name, share in shares.items() if share >= min(ALIKE, max(shares.values()))]
        return self.train[np.isin(self.study[self.train], near)]


def prepare(
    studies: Mapping[str, AnnData], settings: PretrainSettings, held_out_studies: Mapping[str, float] | None = None
) -> TrainingData:
    """Vocabulary of the genes that are trained on, and who is held out.

    Parameters
    ----------
    studies
        Cells by the name of their study, as `datasets.load` returns them. Where a study has donors, whole donors are held out.
    settings
        Settings of the training; seed, held-out share and number of genes count here.
    held_out_studies
        Studies that are not trained on at all and add no gene, each with the share of its genes that the others have to measure.

    Raises
    ------
    CellsError
        If too few cells or donors are there to hold any out.
    ConfigError
        If a study left out is none of them, or none is left to train on.
    GeneMatchError
        If a study left out shares too few genes with the others.
    """
    held_out_studies = held_out_studies or {}
    trained = [name for name in studies if name not in held_out_studies]
    if unknown := [name for name in held_out_studies if name not in studies]:
        raise ConfigError(f"No study is called '{unknown[0]}'; held_out_studies names some of {', '.join(studies)}.")
    if not trained:
        raise ConfigError("Every study is held out, so nothing is left to train on; take one off held_out_studies.")
    genes = _chosen({name: studies[name] for name in trained}, settings.n_genes)
    vocabulary = Vocabulary.of_genes(genes)
    blocks, names, measured = [], [], {}
    for name, cells in studies.items():
        matched = match_genes(gene_names(cells), genes, held_out_studies.get(name, 0), gene_ids(cells))
        place = matched.onto(genes)  # columns of the matrix are those of the vocabulary, whatever the study
        scale = adding_scale(cells, describe_values(cells.X), matched)
        block = on_genes(row_block(cells.X, 0, cells.shape[0]), place, len(genes), scale)
        own = cells.obs_names.to_numpy(dtype=str)
        check_block(block, own)
        blocks.append(block)
        names.append(own if len(studies) == 1 else np.array([f"{name}/{cell}" for cell in own]))
        measured[name] = np.isin(np.arange(len(genes)), place)
    cell_ids, study = np.concatenate(names), np.repeat(list(studies), [len(own) for own in names])
    groups: dict[str, np.ndarray] = {}
    for name, cells in studies.items():
        rows = np.flatnonzero(study == name)
        if name in held_out_studies:
            groups[f"study {name}"] = rows
            continue
        # Of one study alone the name is that of its file, which may be moved.
        kind, out = _left_out(name if len(studies) > 1 else "", cells, cell_ids[rows], settings)
        groups[kind if len(studies) == 1 else f"{kind} of {name}"] = rows[out]
    held_out = np.sort(np.concatenate(list(groups.values())))
    train = np.setdiff1d(np.arange(len(cell_ids)), held_out)
    if len(train) < _FEWEST:
        raise CellsError(
            f"{len(cell_ids)} cells split into {len(train)} for training and {len(held_out)} held out; at least {_FEWEST} are trained on. "
            "Give more cells or another held_out share."
        )
    matrix = sp.csr_matrix(sp.vstack(blocks, format="csr"))
    return TrainingData(
        matrix, cell_ids, vocabulary, vocabulary.encode(tuple(genes)), train, held_out, study, measured, groups
    )


def _left_out(name: str, cells: AnnData, cell_ids: np.ndarray, settings: PretrainSettings) -> tuple[str, np.ndarray]:
    """What is held out of a study, and which of its cells that are."""
    if "donor" in cells.obs:
        donor = cells.obs["donor"].astype(str).to_numpy()
        donors = sorted(set(donor), key=lambda one: key(settings.seed, "held-out donor", name, one))
        n_out = max(1, round(settings.held_out * len(donors)))
        if n_out >= len(donors):
            raise CellsError(
                f"{len(donors)} donors{f' of {name}' if name else ''}, of whom {n_out} would be held out, leave none to train on; "
                "give more, or name no column of donors."
            )
        return "donors", np.isin(donor, donors[:n_out])
    # A cell's side depends on its name alone, so adding cells never moves others across the split.
    out = np.array([key(settings.seed, "held-out", cell) for cell in cell_ids]) / 2**64 < settings.held_out
    if (~out).sum() < 2 or not out.any():
        raise CellsError(
            f"{len(out)} cells split into {(~out).sum()} for training and {out.sum()} held out; "
            "give more cells or another held_out share."
        )
    return "cells", out


def _chosen(studies: Mapping[str, AnnData], n_genes: int | None) -> list[str]:
    """Genes of all studies under one name each, in alphabetical order; if limited, those of most studies, then of most cells."""
    known: dict[str, None] = {}
    matches = []
    for cells in studies.values():
        names = gene_names(cells)
        # What another study calls by its former symbol is one gene.
        match, own = find_genes(names, known, gene_ids(cells)), np.array(names, dtype=object)
        found = match.place >= 0
        own[found] = np.array(match.genes, dtype=object)[match.place[found]]
        known.update(dict.fromkeys(own.tolist()))
        matches.append(own)
    genes = sorted(known)
    if n_genes is None or n_genes >= len(genes):
        return genes
    at = {gene: i for i, gene in enumerate(genes)}
    n_studies, n_cells = np.zeros(len(genes)), np.zeros(len(genes))
    for cells, own in zip(studies.values(), matches, strict=True):
        columns = np.array([at[gene] for gene in own])
        n_studies[np.unique(columns)] += 1
        block = row_block(cells.X, 0, cells.shape[0])
        np.add.at(n_cells, columns[block.indices[block.data != 0]], 1)
    order = np.lexsort((np.arange(len(genes)), -n_cells, -n_studies))[:n_genes]
    return [genes[i] for i in np.sort(order)]
