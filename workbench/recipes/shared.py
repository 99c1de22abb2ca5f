"""What the commands share that read operators of a model: tokens and groups of cells, and what a pass depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from anndata import AnnData

from workbench.cells.genes import GeneMatch, match_cells
from workbench.cells.groups import Groups, make_groups
from workbench.engine.context import Context
from workbench.files import digest
from workbench.models import CellTokenizer
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.convention import PAPER
from workbench.settings import DataConfig


class OperatorContext(Context[Any]):
    """Context of a command whose operators are averaged over groups of cells."""

    @property
    def read_obs(self) -> pd.DataFrame:
        """Standard columns of the cells that operators are averaged over."""
        raise NotImplementedError

    @property
    def most_groups(self) -> int | None:
        """Number of groups that sums are kept by; None for every donor, or every cell where there are no donors."""
        raise NotImplementedError

    @cached_property
    def groups(self) -> Groups:
        """Groups of these cells that sums are kept by."""
        obs = self.read_obs
        donors = obs["donor"].to_numpy() if "donor" in obs else None
        return make_groups(obs.index.to_numpy(dtype=str), donors, self.most_groups, self.config.seed)

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `read_operators` that are the same for every model and cohort."""
        groups = dict(zip(self.read_obs.index.astype(str), self.groups.of_cell.tolist(), strict=True))
        capture = self.config.capture
        known = {"kind": self.config.operator, "groups": groups, "batch_size": capture.batch_size}
        return {**known, "convention": capture.of_operators}

    def tokens_of(self, cells: AnnData, data: DataConfig, panel: Sequence[str] | None = None) -> CellTokenizer:
        """Tokens of cells, as the settings of the capture ask for them.

        Parameters
        ----------
        cells
            Cells as `datasets.load` gives them.
        data
            Where they are from, with the share of their genes that the vocabulary has to know.
        panel
            Genes of the convention ``paper``; None for the model's own input.
        """
        most, share = self.config.capture.max_tokens, data.min_gene_share
        more = {} if panel is None else {"panel": panel}
        return self.model.tokenizer(cells, seed=self.config.seed, max_tokens=most, min_gene_share=share, **more)

    def fed(self, cells: AnnData, data: DataConfig, genes: Sequence[str]) -> CellTokenizer:
        """Tokens of cells that operators are averaged over, under the configured convention.

        Parameters
        ----------
        cells, data
            As in `tokens_of`.
        genes
            Genes of the operators, which the convention ``paper`` restricts cells to.
        """
        return self.tokens_of(cells, data, genes if self.config.capture.convention == PAPER else None)

    # What is not the default is said wherever operators appear.

    # Tables that no operator has a part in: they stay as they are when the convention changes.
    unlabelled: ClassVar[tuple[str, ...]] = ()

    def write(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write tables of a stage, with the convention of the operators as a column where it is not the default.

        Parameters
        ----------
        tables
            Tables by name, without ending.
        """
        if label := self.labelled:
            tables = {
                name: table if name in self.unlabelled else table.assign(convention=label)
                for name, table in tables.items()
            }
        super().write(tables)

    @property
    def labelled(self) -> str:
        """Name of the convention of the operators; empty for the default, of which nothing is said."""
        convention = self.config.capture.of_operators
        return "" if convention.is_default else convention.label

    @property
    def setting(self) -> str:
        """Model, data and a convention that is not the default, for captions."""
        return super().setting + (f" Convention of the operators: {self.labelled}." if self.labelled else "")

    @property
    def cautions(self) -> list[str]:
        """What a convention that is not the default means for whatever is said of its operators."""
        convention = self.config.capture.of_operators
        if convention.is_default:
            return []
        said = [
            f"The operators are of the convention '{convention.label}' (docs/conventions.md), and comparable with no other."
        ]
        if convention.convention == PAPER:
            said.append(
                "Its input (genes of the panel, log1p without bins, no <cls>) is not what scGPT was trained on."
            )
        return said

    def adaptor(self, **changes: Any) -> LETAdaptor:
        """Untrained adaptor with the configured settings.

        Parameters
        ----------
        **changes
            Settings that are to have another value, such as ``k``.
        """
        return LETAdaptor(**{**self.config.adaptor.parameters(), **changes})

    def model_inputs(self, genes: Sequence[str] | str) -> dict[str, Any]:
        """What operators depend on, the weights and a pass over cells apart; JSON-ready.

        Parameters
        ----------
        genes
            Genes of the operators, or their hash.
        """
        return {"kind": self.config.operator, "genes": genes, "vocabulary": digest(dict(self.model.vocabulary.ids))}

    def pass_inputs(self, values: str, obs: pd.DataFrame, *, grouped: bool) -> dict[str, Any]:
        """What a pass over cells depends on, the model apart: no label, ruler, fold or anchor is among it; JSON-ready.

        Parameters
        ----------
        values
            Hash of the values and names of all cells of the data.
        obs
            Standard columns of the cells that are read.
        grouped
            Whether sums over groups are made in it.
        """
        convention = self.config.capture.of_operators
        return {
            "values": values,
            "cells": digest(obs.index.tolist()),
            "batch": digest(obs["batch"].tolist()) if "batch" in obs else None,
            "groups": digest(self.groups.of_cell) if grouped and self.config.operator == "attention" else None,
            "capture": self.config.capture.model_dump(mode="json", exclude={"groups", *convention.told()}),
            # Of the default nothing is said: what was made before there were conventions stays.
            **({"convention": convention.told()} if grouped and not convention.is_default else {}),
            "seed": self.config.seed,
        }


class CohortsContext(OperatorContext):
    """Context of a command that has several cohorts of cells."""

    @cached_property
    def cells(self) -> dict[str, AnnData]:
        """Cells of every cohort by its name, as they were loaded."""
        raise NotImplementedError

    def data_of(self, name: str) -> DataConfig:
        """Where the cells of a cohort are from.

        Parameters
        ----------
        name
            Name of the cohort, as the configuration has it.
        """
        raise NotImplementedError

    @cached_property
    def matches(self) -> dict[str, GeneMatch]:
        """By cohort: which of its genes the vocabulary knows."""
        genes = self.model.vocabulary.genes
        return {name: match_cells(own, genes, self.data_of(name).min_gene_share) for name, own in self.cells.items()}

    @property
    def sources(self) -> str:
        """Where the cells of all cohorts are from, each source once."""
        return "; ".join(dict.fromkeys(own.uns["workbench"]["source"] for own in self.cells.values()))
