"""The stages of ``workbench benchmark``: cells and splits, what the model gives, audit, campaign, statistics."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.datasets import content_hash
from workbench.cells.genes import match_genes
from workbench.engine.config import absolute, load_cells
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.errors import CellsError, EvaluationError
from workbench.evidence.embeddings import forward_seconds, read_model
from workbench.evidence.methods import PEER
from workbench.evidence.peers import peer_versions
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.evidence.statistics import compare, ranks, summarise, tally
from workbench.files import digest, write_arrays, write_json, write_text
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.scgpt.untrained import untrained
from workbench.operators.store import write_weights
from workbench.operators.weight_operators import weight_operators
from workbench.recipes.benchmark.bench import FORWARD, INTERNAL, SPLITS, Bench, embeddings_file, seen_in_most
from workbench.recipes.benchmark.campaign import audit_task, benchmark_task, scores_and_costs
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.pools import Pool, read_pool, write_pool
from workbench.recipes.benchmark.splits import TRANSFER, Split, drawn_cells, make_splits, make_units
from workbench.requirements import installed
from workbench.settings import DataConfig

TABLES = ("scores", "splits", "costs", "methods", "audit", "summary", "comparisons", "tally", "ranks")


class BenchmarkChain:
    """The stages of a campaign and the data they share, each loaded when it is first needed.

    Parameters
    ----------
    config
        What to run.
    out
        Folder of the run.
    backend
        Who does the tasks.
    """

    def __init__(self, config: BenchmarkConfig, out: Path, backend: Backend) -> None:
        self.config, self.out, self.backend, self.tables = config, out, backend, out / "tables"

    @cached_property
    def model(self) -> HookedScGPT:
        """The checkpoint."""
        return load_checkpoint(self.config.checkpoint)

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)

    @cached_property
    def cells(self) -> dict[str, AnnData]:
        """Cells by panel, with their stage; no cell is in two of them."""
        found = {INTERNAL: self._placed(self.config.data, self.config.stages)}
        for name, one in self.config.transfer.items():
            found[name] = self._placed(one.data, {**self.config.stages, **one.stages})
            shared = sorted(set(found[INTERNAL].obs_names) & set(found[name].obs_names))
            if shared:
                raise EvaluationError(
                    f"Panel '{name}' shares {len(shared)} cells with the internal data (such as {', '.join(shared[:3])}), so nothing "
                    "can be transferred to it; leave them out, or make names unique if only these are the same."
                )
        return found

    def _placed(self, data: DataConfig, stages: dict[str, str]) -> AnnData:
        cells = load_cells(data)
        if not cells.obs_names.is_unique:
            twice = cells.obs_names[cells.obs_names.duplicated()][0]
            raise CellsError(
                f"Cell names of '{data.name}' must be unique because they key the random numbers; '{twice}' occurs more than "
                "once. Call adata.obs_names_make_unique() and write the file again."
            )
        if "cell_type" not in cells.obs:
            raise EvaluationError(
                f"The cells of '{data.name}' have no cell type column, which the ruler needs; set data.cell_type to the column of "
                "obs."
            )
        cells.obs["stage"], unknown = self.ruler.place(cells.obs["cell_type"], stages)
        if not (cells.obs["stage"] >= 0).any():
            raise EvaluationError(
                f"The ruler knows none of the labels of '{data.name}' (such as {', '.join(unknown[:3])}); map them under stages."
            )
        cells.uns["unplaced"] = {label: self.ruler.hint(label) for label in unknown}
        return cells

    @cached_property
    def bench(self) -> Bench:
        """The campaign as its tasks see it; after the stages of cells and of the model."""
        return Bench(self.config, self.out)

    def found(self) -> dict[str, str | None]:
        """Versions of what peers and clusters need: with others, what was not run may be."""
        peers = any(one.group == PEER for one in self.bench.methods.values())
        return {"igraph": installed("igraph"), **(peer_versions(self.config.peers.python) if peers else {})}

    def inputs(self) -> dict[str, Any]:
        """Everything that cells and splits depend on."""
        keys = {"data", "transfer", "stages", "panel", "splits", "cells_per_donor", "seed"}
        return {
            **self.config.model_dump(mode="json", include=keys),
            "content": self.content,
            "vocabulary": digest(dict(self.model.vocabulary.ids)),
            "graph": self.ruler.fingerprint(),
        }

    @cached_property
    def content(self) -> dict[str, str]:
        """Hash of the cells of each panel."""
        return {name: content_hash(cells) for name, cells in self.cells.items()}

    def _data(self, name: str) -> DataConfig:
        return self.config.data if name == INTERNAL else self.config.transfer[name].data

    def _exclude(self) -> tuple[str, ...]:
        return self.config.panel.exclude

    # Stages

    def cells_stage(self, folder: Path) -> dict[str, Any]:
        """Draw cells, match genes, deal out units, make splits.

        Parameters
        ----------
        folder
            Of the stage.
        """
        config, about = self.config, {}
        units: tuple[str, ...] = ()
        for name, cells in self.cells.items():
            rows = np.flatnonzero(drawn_cells(cells.obs, config.cells_per_donor, config.seed))
            cells.obs["unit"] = -1
            if name == INTERNAL:
                unit, units, kind = make_units(cells.obs.iloc[rows], config.splits.units, config.seed)
                cells.obs.iloc[rows, cells.obs.columns.get_loc("unit")] = unit
            match = match_genes(
                cells.var_names.to_numpy(dtype=str), self.model.vocabulary, self._data(name).min_gene_share
            )
            write_pool(folder / name, cells, match, rows, self._exclude())
            stage = cells.obs["stage"].to_numpy()[rows]
            about[name] = {
                "cells": len(rows),
                "of": len(cells),
                "placed": int((stage >= 0).sum()),
                "stages": len(set(stage[stage >= 0].tolist())),
                "donors": len(set(cells.obs["donor"].iloc[rows])) if "donor" in cells.obs else 0,
                "genes": len(match.genes),
                "unplaced_labels": cells.uns["unplaced"],
            }
        splits = make_splits(units, kind, config.splits.n, config.splits.test_share, config.seed)
        splits += [Split(f"to {name}", TRANSFER, frozenset(), disjoint=True, panel=name) for name in config.transfer]
        told = [{**asdict(one), "held": sorted(one.held)} for one in splits]
        names = _names({name: str(cells.uns["workbench"]["name"]) for name, cells in self.cells.items()})
        genes = self._union(self._pool(INTERNAL), splits)
        found = {"data": names, "splits": told, "units": units, "kind": kind, "genes": genes}
        write_json(folder / SPLITS, {**found, "n_layers": self.model.config.n_layers})
        return {"panels": about, "kind": kind, "n_units": len(units), "n_splits": len(splits), "n_genes": len(genes)}

    def _union(self, pool: Pool, splits: list[Split]) -> list[str]:
        """Genes that are in the panel of some split: operators are captured once, on all of these."""
        size = self.config.panel.size
        if size is None or size >= len(pool.genes):
            return list(pool.genes)
        found: set[str] = set()
        for split in splits:
            inside = ~np.isin(pool.obs["unit"].to_numpy(), sorted(split.held))
            able = np.ones(len(pool.genes), dtype=bool)
            if split.kind == TRANSFER:
                able = np.isin(pool.genes, self._pool(split.panel).genes)
            found |= set(seen_in_most(pool, inside, able, size))
        return sorted(found)

    def _pool(self, name: str) -> Pool:
        return read_pool(self.out / "stages" / "cells" / name, name)

    def _tokenizer(self, name: str) -> Tokenizer:
        cells, pool = self.cells[name], self._pool(name)
        rows = cells.obs_names.get_indexer(list(pool.names))
        chosen = cells if len(rows) == len(cells) else AnnData(cells.X[rows], obs=cells.obs.iloc[rows], var=cells.var)
        return Tokenizer(
            chosen,
            self.model.config,
            self.model.vocabulary,
            seed=self.config.seed,
            max_tokens=self.config.capture.max_tokens,
            batch_column="batch" if "batch" in cells.obs else None,
            min_share=self._data(name).min_gene_share,
        )

    def model_stage(self, folder: Path) -> dict[str, Any]:
        """Operators by unit, and embeddings of the cells of every panel, in one pass over each.

        Parameters
        ----------
        folder
            Of the stage; an interrupted capture in it goes on, and a finished one is not made again.
        """
        seconds, kind, genes = 0.0, self.config.operator, self.bench.about["genes"]
        places = {name: folder if name == INTERNAL else folder / name for name in self.bench.about["data"]}
        for name, place in places.items():
            own, pool = name == INTERNAL, self._pool(name)
            unit = dict(zip(pool.names.tolist(), pool.obs["unit"].tolist(), strict=True))
            found, took = read_model(
                self.model,
                self._tokenizer(name),
                place,
                panel=genes if own and kind == "attention" else (),
                unit=unit,
                batch_size=self.config.capture.batch_size,
            )
            write_arrays(folder / embeddings_file(name), found)
            seconds += took if own else 0.0
        if kind != "attention":
            write_weights(folder, weight_operators(self.model, genes, kind))
        forward = forward_seconds(self.model, self._tokenizer(INTERNAL))
        write_json(folder / FORWARD, {"seconds_per_cell": forward})
        # Not before all is done: an interruption at one panel must not cost the passes over the others.
        for place in places.values():
            shutil.rmtree(place / "capture", ignore_errors=True)
        return {"seconds": seconds, "forward_seconds_per_cell": forward}

    def untrained_stage(self, folder: Path) -> dict[str, Any]:
        """The same operators of a model of the same shape that was never trained: a control.

        Parameters
        ----------
        folder
            Of the stage.
        """
        kind, genes = self.config.operator, self.bench.about["genes"]
        model = untrained(self.model, self.config.seed)
        if kind != "attention":
            write_weights(folder, weight_operators(model, genes, kind))
            return {}
        pool = self._pool(INTERNAL)
        unit = dict(zip(pool.names.tolist(), pool.obs["unit"].tolist(), strict=True))
        read_model(
            model,
            self._tokenizer(INTERNAL),
            folder,
            panel=genes,
            unit=unit,
            embed=False,
            batch_size=self.config.capture.batch_size,
        )
        shutil.rmtree(folder / "capture", ignore_errors=True)
        return {}

    @cached_property
    def _place(self) -> tuple[str, str]:
        return BenchmarkConfig.model_validate(absolute(self.config)).model_dump_json(), str(self.out.resolve())

    def audit_stage(self, folder: Path) -> dict[str, Any]:
        """Fit every method once more with the test side replaced by noise.

        Parameters
        ----------
        folder
            Of the stage; finished methods in it are kept.
        """
        tasks = [Task(name, (*self._place, name)) for name in self.bench.methods]
        rows = run_sweep(folder / "sweep", {"methods": len(tasks)}, tasks, audit_task, **self.backend.options())
        self._write("audit", rows)
        return {"leaks": rows.loc[rows["status"] == "leaks", "method"].tolist()}

    def campaign_stage(self, leaks: list[str], seconds: float, folder: Path) -> dict[str, Any]:
        """Every method on every split.

        Parameters
        ----------
        leaks
            Methods that the audit has caught; they are not run.
        seconds
            What the capture of operators took.
        folder
            Of the stage; finished tasks in it are kept.
        """
        methods = self.bench.methods
        tasks = [
            Task(f"{split}|{name}", (*self._place, split, name, name in leaks))
            for split in self.bench.splits
            for name in methods
        ]
        rows = run_sweep(folder / "sweep", {"tasks": len(tasks)}, tasks, benchmark_task, **self.backend.options())
        scores, costs = scores_and_costs(rows, [name for name, one in methods.items() if one.shared], seconds)
        self._write("scores", scores)
        self._write("costs", costs)
        self._write("methods", self._methods(costs))
        self._write("splits", self._splits(costs))
        return {"n_tasks": len(tasks), "n_methods": len(methods)}

    def _methods(self, costs: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for name, one in self.bench.methods.items():
            own = costs.loc[costs["method"] == name, "status"]
            wrong = own[own != "ok"]
            status = (
                "run"
                if wrong.empty
                else wrong.iloc[0]
                if len(wrong) == len(own)
                else f"run, but {len(wrong)} of {len(own)} splits: {wrong.iloc[0]}"
            )
            rows.append({"method": name, "group": one.group, "about": one.about, "status": status})
        return pd.DataFrame(rows)

    def _splits(self, costs: pd.DataFrame) -> pd.DataFrame:
        units, pools = self.bench.about["units"], self.bench.pools
        sizes = costs.drop_duplicates("split").set_index("split")[["n_train", "n_test"]].astype(int).to_dict("index")
        rows = []
        for name, one in self.bench.splits.items():
            pool = pools[one.panel if one.kind == TRANSFER else INTERNAL]
            held = [units[i] for i in sorted(one.held)]
            if one.kind == TRANSFER:
                held = [] if pool.donor is None else sorted(set(pool.donor.tolist()))
            named = pool.donor is not None
            rows.append(
                {
                    "split": name,
                    "kind": one.kind,
                    "data": pool.name,
                    "test_donors": "+".join(held) if named else "",
                    **sizes[name],
                    "n_train_donors": len(units) - len(one.held) if pools[INTERNAL].donor is not None else 0,
                    "disjoint": one.disjoint,
                    "test_share": float((~self.bench.inside(one)).mean()) if one.held else np.nan,
                }
            )
        return pd.DataFrame(rows)

    def statistics_stage(self, folder: Path) -> dict[str, Any]:
        """What ours adds to each method, endpoint by endpoint.

        Parameters
        ----------
        folder
            Of the stage.
        """
        scores, splits, methods = (self.read(name) for name in ("scores", "splits", "methods"))
        comparisons = compare(scores, splits, self.config.ours, self.config.seed)
        self._write("summary", summarise(scores, methods))
        self._write("comparisons", comparisons)
        self._write("tally", tally(comparisons))
        self._write("ranks", ranks(scores))
        return {}

    def read(self, name: str) -> pd.DataFrame:
        """A table that a stage left.

        Parameters
        ----------
        name
            Of the table.
        """
        text = dict.fromkeys(("scope", "test_donors", "split", "data"), str)
        return pd.read_csv(self.tables / f"{name}.csv", dtype=text, keep_default_na=False, na_values=[""])

    def _write(self, name: str, table: pd.DataFrame) -> None:
        write_text(self.tables / f"{name}.csv", table.to_csv(index=False))


def _names(paths: dict[str, str]) -> dict[str, str]:
    """Names of files without their folders, unless two of them are the same."""
    short = {name: Path(path).name for name, path in paths.items()}
    return short if len(set(short.values())) == len(short) else paths
