"""The stages of ``workbench run``, and the data they share."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from tqdm import tqdm

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.ragged import MemorySink
from workbench.capture.record import capture
from workbench.capture.sinks import Only
from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.datasets import STANDARD, content_hash
from workbench.cells.genes import choose_panel, with_matched_names
from workbench.cells.splits import make_folds
from workbench.config import RunConfig, load_cells
from workbench.errors import EvaluationError
from workbench.extractor.adaptor import LETAdaptor, angles
from workbench.extractor.algorithm import Algorithm, Readout, fold, panel_expression
from workbench.extractor.controls import CONTROLS, added_value, control
from workbench.extractor.operator import feature_map
from workbench.extractor.readout import cross_validate, endpoints, fit_probe
from workbench.files import digest, read_arrays, write_arrays
from workbench.manifold.holdout import Split, group_splits, holdout_correlation, random_splits, with_null
from workbench.manifold.ruler import Ruler, load_ruler
from workbench.manifold.shape import stage_distances
from workbench.model.checkpoint import load_checkpoint
from workbench.model.hooked import HookedScGPT
from workbench.model.tokenizer import Tokenizer
from workbench.seeds import key
from workbench.stats import benjamini_hochberg


class Chain:
    """The stages of a run and the data they share, each loaded when it is first needed.

    Parameters
    ----------
    config, out
        As in `run`.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        self.config, self.out, self.tables = config, out, out / "tables"

    def inputs(self, *sections: str) -> dict[str, Any]:
        """Parts of the configuration, with the content of the cells where ``data`` is among them.

        Parameters
        ----------
        *sections
            Keys of the configuration.
        """
        chosen = self.config.model_dump(mode="json", include=set(sections))
        if "data" in sections:
            chosen["content"] = content_hash(self.adata)
            chosen["vocabulary"] = digest(dict(self.model.vocabulary.ids))
            chosen["graph"] = [list(self.ruler.stages), self.ruler.distances.tolist(), dict(self.ruler.labels)]
        return chosen

    @cached_property
    def adata(self) -> AnnData:
        """The cells."""
        return load_cells(self.config.data)

    @cached_property
    def model(self) -> HookedScGPT:
        """The checkpoint."""
        return load_checkpoint(self.config.checkpoint)

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokens of the cells."""
        return Tokenizer(
            self.adata,
            self.model.config,
            self.model.vocabulary,
            seed=self.config.seed,
            max_tokens=self.config.capture.max_tokens,
            batch_column="batch" if "batch" in self.adata.obs else None,
            min_share=self.config.data.min_gene_share,
        )

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Standard columns, stage number and fold of each cell, as the first stage wrote them."""
        names = dict.fromkeys(("cell_id", *STANDARD), str)
        # A label such as "NA" is a label, and donor "01" is not donor 1.
        return pd.read_csv(self.tables / "cells.csv", index_col="cell_id", dtype=names, keep_default_na=False)

    @cached_property
    def panel(self) -> tuple[str, ...]:
        """The gene panel."""
        return tuple((self.out / "stages" / "cells" / "panel.txt").read_text().splitlines())

    @cached_property
    def expression(self) -> sp.csr_matrix:
        """Log-normalised expression on the panel."""
        return panel_expression(with_matched_names(self.adata, self.tokenizer.match), self.panel)

    @cached_property
    def anchors(self) -> Anchors:
        """Anchors over all cells."""
        return self.make_anchors(np.arange(len(self.obs)))

    def make_anchors(self, rows: np.ndarray) -> Anchors:
        """Anchors of some cells.

        Parameters
        ----------
        rows
            Cell numbers.
        """
        settings = self.config.anchors
        return make_anchors(
            self.expression[rows],
            self.obs.iloc[rows],
            min_cells=settings.min_cells,
            parts=settings.parts,
            seed=self.config.seed,
        )

    def adaptor(self) -> LETAdaptor:
        """Untrained adaptor with the configured settings."""
        settings = self.config.adaptor
        return LETAdaptor(k=settings.k, alpha=settings.alpha, beta=settings.beta, steps=settings.steps)

    @cached_property
    def operators(self) -> np.ndarray:
        """Mean attention of every head over all cells, (layer, head, gene, gene)."""
        return read_arrays(self.out / "stages" / "operators" / "operators.safetensors")[0]["attention"]

    def feature_map(self, without: int | None = None) -> np.ndarray:
        """Configured feature map, from all cells or from all but one fold.

        Parameters
        ----------
        without
            Fold to leave out.
        """
        name = "all" if without is None else f"without-{without}"
        return read_arrays(self.out / "stages" / "operators" / "feature-maps.safetensors")[0][name]

    def cells_stage(self, folder: Path) -> dict[str, Any]:
        """Match genes, choose the panel, place labels on the ruler, deal out folds.

        Parameters
        ----------
        folder
            Of the stage.
        """
        match, obs = self.tokenizer.match, self.adata.obs.copy()
        if "cell_type" not in obs:
            raise EvaluationError(
                "The cells have no cell type column, which the ruler needs; set data.cell_type to the column of obs."
            )
        stage, unknown = self.ruler.place(obs["cell_type"], self.config.stages)
        obs["stage"] = stage
        obs["fold"], kind = make_folds(obs, self.config.evaluation.folds, self.config.seed)
        self.tables.mkdir(exist_ok=True)
        obs.to_csv(self.tables / "cells.csv", index_label="cell_id")
        (folder / "panel.txt").write_text(
            "\n".join(choose_panel(self.adata, match, self.config.panel.size, self.config.panel.exclude)) + "\n"
        )
        return {
            "genes": match.to_dict(),
            "values": str(self.tokenizer.values),
            "n_cells": len(obs),
            "n_panel": len(self.panel),
            "n_placed": int((stage >= 0).sum()),
            "folds": kind,
            "unplaced_labels": {label: self.ruler.hint(label) for label in unknown},
        }

    def operators_stage(self, folder: Path) -> dict[str, Any]:
        """Mean attention of every head by gene pair, and cell embeddings, in one pass.

        Parameters
        ----------
        folder
            Of the stage; an interrupted capture in it goes on.
        """
        groups = dict(zip(self.obs.index.astype(str), self.obs["fold"].tolist(), strict=True))
        pairs, memory = GenePairSink(self.panel, self.model.vocabulary, groups), MemorySink()
        done = capture(
            self.model,
            self.tokenizer,
            [PATTERNS, "hook_cell"],
            [Only(PATTERNS, pairs), Only("hook_cell", memory)],
            batch_size=self.config.capture.batch_size,
            state=folder / "capture",
            save_every=256,
        )
        settings = self.config.adaptor

        def features(without: int | None) -> np.ndarray:
            operators = pairs.result(without).mean()
            return feature_map(operators, settings.feature_map, settings.layer, settings.head).astype(np.float32)

        maps = {"all": features(None)} | {f"without-{k}": features(k) for k in range(pairs.n_groups)}
        total = pairs.result()
        write_arrays(folder / "feature-maps.safetensors", maps)
        write_arrays(folder / "operators.safetensors", {"attention": total.mean(), "counts": total.counts})
        write_arrays(folder / "cells.safetensors", {"cell": memory.result().values["hook_cell"]})
        shutil.rmtree(folder / "capture", ignore_errors=True)
        return {
            "n_tokens": done.n_tokens,
            "share_of_pairs_seen": float((total.counts > 0).mean()),
            "median_cells_per_pair": float(np.median(total.counts)),
        }

    def heads_stage(self, folder: Path) -> dict[str, Any]:
        """Every head, the configured feature map and the controls through the adaptor, on held-out anchors.

        Parameters
        ----------
        folder
            Of the stage.
        """
        anchors, ruler, settings = self.anchors, self.ruler.distances, self.config.evaluation
        random = list(random_splits(len(anchors), settings.holdouts, self.config.seed))

        def score(matrix: np.ndarray, splits: Any, refits: int) -> Any:
            return holdout_correlation(
                anchors.centroids @ matrix,
                anchors.stage,
                ruler,
                splits,
                self.adaptor(),
                refits=refits,
                seed=self.config.seed,
            )

        operators = self.operators
        heads, nulls = [], []
        for layer, head in tqdm(list(np.ndindex(*operators.shape[:2])), unit="head", desc="heads"):
            row, null = score(operators[layer, head], lambda stage: random, settings.head_refits)
            heads.append({"layer": layer, "head": head, "n_anchors": len(anchors), **row})
            nulls.append(null)
        pooled = np.concatenate(nulls)
        table = pd.DataFrame([with_null(row, pooled) for row in heads])
        table["q"] = benjamini_hochberg(table["p"].to_numpy())
        table.to_csv(self.tables / "heads.csv", index=False)
        configured = self.feature_map()
        maps = {str(self.config.adaptor.feature_map): configured}
        maps |= {name: control(name, configured, self.expression, self.config.seed) for name in CONTROLS}
        holdouts = []
        for name, matrix in maps.items():
            for kind, splits in self._holdouts(random):
                found: dict[str, Any] = {"status": "not applicable: no donors"}
                if splits is not None:
                    found = with_null(*score(matrix, splits, settings.refits))
                holdouts.append({"operator": name, "holdout": kind, **found})
        pd.DataFrame(holdouts).to_csv(self.tables / "holdouts.csv", index=False)
        return {"n_anchors": len(anchors), "n_stages": len(set(anchors.stage.tolist()))}

    def _holdouts(self, random: list[Split]) -> list[tuple[str, Any]]:
        """Kind of holdout, and how it splits anchors by their stages; None: it cannot."""
        table, branches = self.anchors.table, np.array(self.ruler.branches)
        donors = list(group_splits(table["donor"].to_numpy())) if "donor" in table else []
        return [
            ("random", lambda stage: random),
            ("branch", lambda stage: list(group_splits(branches[stage], against_rest=True))),
            ("donor", (lambda stage: donors) if donors else None),
        ]

    def readouts_stage(self, folder: Path) -> dict[str, Any]:
        """Cross-validated linear readouts of the latent, of controls and of baselines.

        Parameters
        ----------
        folder
            Of the stage.
        """
        fold_of = self.obs["fold"].to_numpy()
        dense = np.asarray(self.expression.todense(), dtype=np.float64)
        embedding = read_arrays(self.out / "stages" / "operators" / "cells.safetensors")[0]["cell"]

        def latent(make: Any) -> Any:
            def features(k: int) -> np.ndarray:
                matrix = make(k)
                anchors = self.make_anchors(np.flatnonzero(fold_of != k))
                between = self.ruler.distances[np.ix_(anchors.stage, anchors.stage)]
                fitted = self.adaptor().fit(anchors.centroids @ matrix, between)
                encode, offset = fold(matrix, fitted.encoder_, fitted.bias_)
                return np.asarray(self.expression @ encode) + offset

            return features

        def principal(k: int) -> np.ndarray:
            from sklearn.decomposition import PCA

            n = min(10, self.config.adaptor.k)
            pca = PCA(n, random_state=key(self.config.seed, "pca") % 2**32).fit(dense[fold_of != k])
            return pca.transform(dense)

        def controlled(name: str) -> Any:
            # Correlations of genes come from the training cells alone, as the operator does.
            return lambda k: control(name, self.feature_map(k), self.expression[fold_of != k], self.config.seed)

        ours = f"latent (LET on {self.config.adaptor.feature_map})"
        representations = {
            ours: latent(self.feature_map),
            **{f"latent (LET on {name})": latent(controlled(name)) for name in CONTROLS},
            f"PCA-{min(10, self.config.adaptor.k)} of x": principal,
            "raw x (log-normalised panel)": lambda k: dense,
            f"scGPT {self.model.config.cell_style} embedding": lambda k: embedding,
        }
        stage = self.obs["stage"].to_numpy()
        wanted = endpoints(stage, self.ruler.stages, self.ruler.branches, self.ruler.depths)
        settings = self.config.evaluation
        rows = cross_validate(
            representations, wanted, fold_of, permutations=settings.permutations, seed=self.config.seed
        )
        folds = [
            {**{name: row[name] for name in ("endpoint", "metric", "representation")}, "fold": k, "value": value}
            for row in rows
            for k, value in row.pop("by_fold").items()
        ]
        table = pd.DataFrame(rows)
        table.to_csv(self.tables / "readouts.csv", index=False)
        added = added_value(pd.DataFrame(folds), ours, 1 / len(set(fold_of.tolist())))
        added.to_csv(self.tables / "added.csv", index=False)
        return {"undefined": sorted(set(table.loc[table["status"] != "ok", "endpoint"]))}

    def algorithm_stage(self, folder: Path) -> dict[str, Any]:
        """Fit on all cells, fold, export, and apply again from the file alone.

        Parameters
        ----------
        folder
            Of the stage.
        """
        anchors, matrix = self.anchors, self.feature_map()
        at_anchors = anchors.centroids @ matrix
        ruler = self.ruler.distances[np.ix_(anchors.stage, anchors.stage)]
        fitted = self.adaptor().fit(at_anchors, ruler)
        rows = range(0, self.expression.shape[0], 1024)
        blocks = (self.expression[row : row + 1024] @ matrix for row in rows)
        z = np.concatenate([fitted.transform(np.asarray(block, dtype=np.float64)) for block in blocks])
        stage = self.obs["stage"].to_numpy()
        readouts = {}
        for endpoint in endpoints(stage, self.ruler.stages, self.ruler.branches, self.ruler.depths):
            if len(set(endpoint.target[endpoint.cells].tolist())) > 1:
                found = fit_probe(z, endpoint)
                readouts[endpoint.name] = Readout(found["weights"], found["offset"], tuple(found["classes"]))
        report = self.model.report
        card = {
            "data": self.adata.uns["workbench"]["source"],
            "checkpoint": {"name": Path(self.config.checkpoint).name, "sha256": dict(report.sha256) if report else {}},
            "operator": {"kind": "attention", "feature_map": self.config.adaptor.feature_map},
            "ruler": self.ruler.name,
            "n_cells": len(self.obs),
            "n_anchors": len(anchors),
            "stress": fitted.stress_,
            "reconstruction": fitted.reconstruction_,
            "config": self.config.model_dump(mode="json"),
            "limits": "Fitted on the cells named under data and judged in the run's tables/readouts.csv; "
            "on other tissues, donors or technologies it has not been tested.",
        }
        place = self.out / "algorithm"
        Algorithm(self.panel, *fold(matrix, fitted.encoder_, fitted.bias_), readouts, card).save(place)
        again = Algorithm.load(place)
        from_file = again.transform(self.adata)
        difference = float(np.abs(from_file - z).max() / np.abs(z).max())
        self._write_latent(z, stage)
        distances = stage_distances(angles(fitted.transform(at_anchors)), anchors.stage, self.ruler)
        distances.to_csv(self.tables / "distances.csv", index=False)
        return {
            "relative_difference_from_file": difference,
            "bytes": sum(p.stat().st_size for p in place.iterdir()),
            "stress": fitted.stress_,
            "readouts": {name: len(readout.classes) for name, readout in readouts.items()},
        }

    def _write_latent(self, z: np.ndarray, stage: np.ndarray) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP

            flat = UMAP(random_state=key(self.config.seed, "umap") % 2**32, n_jobs=1).fit_transform(z)
        placed = np.maximum(stage, 0)
        table = pd.DataFrame(
            {
                "cell_id": self.obs.index,
                "cell_type": self.obs["cell_type"].to_numpy(),
                "stage": np.where(stage >= 0, np.array(self.ruler.stages)[placed], "not on the ruler"),
                "branch": np.where(stage >= 0, np.array(self.ruler.branches)[placed], "not on the ruler"),
                "umap_1": flat[:, 0],
                "umap_2": flat[:, 1],
                **{f"z_{i + 1}": z[:, i] for i in range(z.shape[1])},
            }
        )
        table.to_csv(self.tables / "latent.csv", index=False)
