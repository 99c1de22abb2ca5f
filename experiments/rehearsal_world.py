"""A random checkpoint in the layout of the release, and an atlas in the schema of Tabula Sapiens: what the rehearsal runs on.

Nothing of it is biology. Genes are the symbols that this package carries, filled up with made-up ones; weights, profiles of
cell types and counts are drawn by a seed. The atlas is written block by block, and a block of cells is the same in every size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from workbench.evidence.ruler import Ruler, load_ruler
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import atomically
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.layout import to_upstream
from workbench.models.vocabulary import SPECIALS, Vocabulary
from workbench.seeds import generator, key

N_GENES, N_SUFFIXED = 60_694, 1_363
N_TISSUES, N_DONORS = 27, 21
# Of the genes of the vocabulary that the atlas measures, and genes that the vocabulary does not know.
MEASURED, UNKNOWN = 0.94, 3_000
BLOCK = 256
# Counts of a median cell, spread of library sizes and of gene means; share of entries that dropout takes.
LIBRARY, LIBRARY_SPREAD, MEAN_SPREAD, DROPOUT = 6_000, 0.5, 2.2, 0.15
MOST_TISSUES = 6  # of one donor
OTHER, SHARE_OTHER = "leukocyte", 0.02  # a label that no ruler places
# The keys of the released args.json; values of its training that say nothing of the shape are this script's own.
ARGS: dict[str, Any] = {
    **{"data_source": "random weights", "save_dir": "random weights", "load_model": None, "n_hvg": None},
    **{"valid_size_or_ratio": 0.003, "dist_backend": "nccl", "grad_accu_steps": 1, "pad_token": "<pad>"},
    **{"input_style": "binned", "input_emb_style": "continuous", "n_bins": 51, "max_seq_len": 1200},
    **{"training_tasks": "both", "dist_url": "", "mask_ratio": [0.25, 0.5, 0.75], "trunc_by_sample": True},
    **{"vocab_path": "vocab.json", "rank": 0, "batch_size": 32, "eval_batch_size": 64, "epochs": 0, "lr": 0.0001},
    **{"scheduler_interval": 100, "scheduler_factor": 0.99, "warmup_ratio_or_step": 10000.0, "no_cls": True},
    **{"no_cce": True, "fp16": True, "fast_transformer": True, "nlayers": 12, "nheads": 8, "embsize": 512},
    **{"d_hid": 512, "dropout": 0.2, "n_layers_cls": 3, "log_interval": 9000, "save_interval": 27000},
    **{"mask_value": -1, "pad_value": -2, "USE_CLS": False, "USE_CCE": False, "MVC": True},
    **{"USE_GENERATIVE_TRAINING": True, "world_size": 16, "distributed": True, "local_rank": 0, "gpu": 0},
}


@dataclass(frozen=True)
class Shape:
    """Size of the checkpoint: that of the release, or a small one for tests."""

    n_layers: int = 12
    n_heads: int = 8
    d_model: int = 512
    n_genes: int = N_GENES
    max_tokens: int = 1200


def gene_symbols(n: int) -> list[str]:
    """Symbols of a vocabulary, those that the package carries first, the last of them with an Ensembl id behind.

    Parameters
    ----------
    n
        Number of genes, some hundred or more.
    """
    carried = _carried()
    suffixed = n * N_SUFFIXED // N_GENES - sum("_ENSG" in name for name in carried)
    known = carried[: n - suffixed]
    made = [f"MADEUP{i}" for i in range(n - suffixed - len(known))]
    return [*known, *made, *(f"TWICE{i // 2}_ENSG{90_000_000_000 + i}" for i in range(suffixed))]


def _carried() -> list[str]:
    """Genes of the published pairs and of the shipped gene sets, then what HGNC has renamed genes to."""
    pairs = json.loads(resources.files("workbench.evidence").joinpath("known_pairs.json").read_text("utf-8"))["pairs"]
    sets = load_gene_sets("hematopoiesis").sets
    table = json.loads(resources.files("workbench.cells").joinpath("hgnc_symbols.json").read_text("utf-8"))
    named = [
        *sorted({gene for genes in sets.values() for gene in genes}),
        *sorted({g for pair in pairs for g in pair[:2]}),
    ]
    return list(dict.fromkeys([*named, *sorted(set(table["renamed"].values()))]))


def write_checkpoint(folder: Path, seed: int, shape: Shape | None = None) -> Path:
    """Write a random checkpoint in the released layout; one that is there stays.

    Parameters
    ----------
    folder
        Where it goes; it is moved there whole.
    seed
        Seed of the weights.
    shape
        Size; that of the release when None.
    """
    if folder.is_dir():
        return folder
    shape = shape or Shape()
    genes = gene_symbols(shape.n_genes)
    vocabulary = Vocabulary({token: i for i, token in enumerate([*genes, *SPECIALS])})
    config = ModelConfig(
        len(vocabulary),
        shape.d_model,
        shape.n_layers,
        shape.n_heads,
        shape.d_model,
        max_tokens=shape.max_tokens,
        n_classes=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "rehearsal checkpoint") % 2**63)
        model = HookedScGPT(config, vocabulary).requires_grad_(False)
        state = {name.replace("in_proj_", "Wqkv."): value for name, value in to_upstream(model.state_dict()).items()}
        state["flag_encoder.weight"] = torch.randn(2, shape.d_model)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    sizes = {"nlayers": shape.n_layers, "nheads": shape.n_heads, "embsize": shape.d_model, "d_hid": shape.d_model}
    (part / "args.json").write_text(json.dumps({**ARGS, **sizes, "max_seq_len": shape.max_tokens}, indent=2))
    (part / "vocab.json").write_text(json.dumps(dict(vocabulary.ids), indent=2))
    torch.save(state, part / "best_model.pt")
    return part.rename(folder)


class Atlas:
    """Cells that were never measured, drawn block by block.

    Parameters
    ----------
    seed
        Seed of everything.
    n_genes
        Genes of the vocabulary that the cells are drawn for.
    """

    def __init__(self, seed: int, n_genes: int = N_GENES) -> None:
        self.seed, self.ruler = seed, load_ruler("hematopoiesis")
        rng = generator(seed, "rehearsal atlas")
        symbols = gene_symbols(n_genes)
        # Genes of the shipped sets and of the published pairs come first, and are seen in most cells.
        first = min(2_000, n_genes // 3)
        keep = np.concatenate([np.arange(first), first + np.flatnonzero(rng.random(n_genes - first) < MEASURED)])
        columns = [*(symbols[i] for i in keep), *(f"ELSEWHERE{i}" for i in range(UNKNOWN * n_genes // N_GENES))]
        level = MEAN_SPREAD * np.sort(rng.standard_normal(len(columns)))[::-1]
        level[first:] = rng.permutation(level[first:])
        order = rng.permutation(len(columns))
        self.genes = [columns[i] for i in order]
        self.stages = list(self.ruler.stages)
        self.profiles = np.cumsum(_shares(level[order] + _tree(self.ruler, len(columns), rng)), axis=1)
        self.donors = rng.dirichlet(np.full(N_DONORS, 2.0))
        self.tissues = [rng.choice(N_TISSUES, MOST_TISSUES, replace=False) for _ in range(N_DONORS)]
        self.types = rng.dirichlet(np.full(len(self.stages), 0.12), N_TISSUES)

    def ids(self) -> list[str]:
        """Ensembl ids of the genes, as the index has them."""
        ends = (name.rpartition("_ENSG")[2] if "_ENSG" in name else f"{i:011d}" for i, name in enumerate(self.genes))
        return [f"ENSG{end}" for end in ends]

    def blocks(self, n: int) -> Iterator[tuple[pd.DataFrame, sp.csr_matrix]]:
        """Cells and their counts, block by block; the last block is cut.

        Parameters
        ----------
        n
            Number of cells.
        """
        for start in range(0, n, BLOCK):
            rng = generator(self.seed, "rehearsal atlas", str(start))
            donor = rng.choice(N_DONORS, BLOCK, p=self.donors)
            tissue = np.array([rng.choice(self.tissues[d]) for d in donor])
            stage = np.array([rng.choice(len(self.stages), p=self.types[t]) for t in tissue])
            sizes = np.maximum(LIBRARY * np.exp(LIBRARY_SPREAD * rng.standard_normal(BLOCK)), 500).astype(int)
            other = rng.random(BLOCK) < SHARE_OTHER
            rows = [self._counts(rng, stage[i], sizes[i]) for i in range(min(BLOCK, n - start))]
            names = [OTHER if other[i] else self.stages[stage[i]] for i in range(len(rows))]
            table = {"cell_type": names, "donor": donor[: len(rows)], "tissue": tissue[: len(rows)]}
            index = [f"TSP{donor[i] + 1}_{start + i:08d}" for i in range(len(rows))]
            lengths = np.cumsum([0, *(len(genes) for genes, _ in rows)])
            indices, data = (np.concatenate(part) for part in zip(*rows, strict=True))
            counts = sp.csr_matrix((data, indices, lengths), shape=(len(rows), len(self.genes)))
            yield pd.DataFrame(table, index=index), counts

    def _counts(self, rng: np.random.Generator, stage: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = np.searchsorted(self.profiles[stage], rng.random(size))
        genes, counts = np.unique(np.minimum(drawn, len(self.genes) - 1), return_counts=True)
        kept = rng.random(len(genes)) > DROPOUT
        return genes[kept].astype(np.int32), counts[kept].astype(np.float32)


def _shares(levels: np.ndarray) -> np.ndarray:
    shares = np.exp(levels)
    return shares / shares.sum(1, keepdims=True)


def _tree(ruler: Ruler, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """How far the levels of each stage lie from the common ones: those of its parent and a step of its own."""
    shifts, parents = (
        np.zeros((len(ruler.stages), n_genes)),
        {child: (parent, size) for parent, child, size in ruler.edges},
    )
    for stage in np.argsort(ruler.depths, kind="stable").tolist():
        parent, size = parents.get(stage, (stage, 0.0))
        shifts[stage] = shifts[parent] + 0.4 * np.sqrt(size) * rng.standard_normal(n_genes)
    return shifts


def write_atlas(path: Path, seed: int, n: int, n_genes: int = N_GENES) -> Path:
    """Write an atlas; one that is there stays.

    Counts lie in ``raw/X``, log1p of counts per 10,000 in ``X``, Ensembl ids in the index and symbols in ``feature_name``, as
    in Tabula Sapiens on CELLxGENE. Memory is that of a block.

    Parameters
    ----------
    path
        The h5ad; it is moved there whole.
    seed
        Seed of the cells.
    n
        Number of cells.
    n_genes
        Genes of the vocabulary.
    """
    return path if path.is_file() else atomically(path, lambda part: _fill(part, Atlas(seed, n_genes), n))


def _fill(path: Path, atlas: Atlas, n: int) -> None:
    var = pd.DataFrame(
        {"feature_name": pd.Categorical(atlas.genes), "feature_biotype": pd.Categorical(["gene"] * len(atlas.genes))},
        index=atlas.ids(),
    )
    tables, totals = [], []
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        raw = file.create_group("raw")
        raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        counts, shown = _Rows(raw, len(var)), _Rows(file, len(var))
        for table, block in atlas.blocks(n):
            tables.append(table)
            totals.append(np.asarray(block.sum(1)).ravel())
            counts.add(block)
            logged = sp.diags(1e4 / totals[-1]) @ block
            shown.add(sp.csr_matrix((np.log1p(logged.data), logged.indices, logged.indptr), shape=logged.shape))
        counts.close()
        shown.close()
        made = pd.concat(tables)
        named = {"donor_id": made["donor"].map("TSP{}".format), "tissue": made["tissue"].map("tissue {}".format)}
        obs = pd.DataFrame(
            {
                **{name: pd.Categorical(values) for name, values in named.items()},
                "cell_type": pd.Categorical(made["cell_type"]),
                "assay": pd.Categorical(["10x 3' v3"] * n),
                "n_counts_UMIs": np.concatenate(totals),
            },
            index=made.index,
        )
        for name, table in (("obs", obs), ("var", var), ("raw/var", var)):
            ad.io.write_elem(file, name, table)
        for name in ("obsm", "layers", "varm", "obsp", "varp"):
            ad.io.write_elem(file, name, {})
        ad.io.write_elem(file, "uns", {"title": "A random atlas of the rehearsal: no cell of it was ever measured"})


class _Rows:
    """A matrix of rows in a file, to which blocks of rows are added."""

    def __init__(self, group: h5py.Group, n_genes: int) -> None:
        self._group, self._n_genes, self._ends = group.create_group("X"), n_genes, [np.zeros(1, np.int64)]
        for name, kind in (("data", np.float32), ("indices", np.int32)):
            self._group.create_dataset(
                name, (0,), kind, maxshape=(None,), chunks=(2**17,), compression="gzip", compression_opts=1
            )

    def add(self, block: sp.csr_matrix) -> None:
        first = int(self._ends[-1][-1])
        for name, part in (("data", block.data), ("indices", block.indices)):
            held = self._group[name]
            held.resize((first + block.nnz,))
            held[first:] = part
        self._ends.append(first + block.indptr[1:].astype(np.int64))

    def close(self) -> None:
        ends = np.concatenate(self._ends)
        self._group["indptr"] = ends if ends[-1] >= 2**31 else ends.astype(np.int32)
        shape = np.array([len(ends) - 1, self._n_genes])
        self._group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
