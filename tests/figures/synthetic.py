"""Synthetic tables with the columns that the figures read. Nothing in them was measured."""

import numpy as np
import pandas as pd

from workbench.engine.section import Control, Opening

STAGES = {  # stage: (branch, cells)
    "HSC": ("progenitor", 40),
    "MPP": ("progenitor", 55),
    "pro-erythroblast": ("erythroid", 60),
    "megakaryocyte": ("megakaryocyte", 6),
    "neutrophil": ("granulocyte", 30),
    "CD14+ monocyte": ("monocyte", 130),
    "macrophage": ("monocyte", 25),
    "dendritic cell": ("dendritic", 50),
    "B cell": ("B", 90),
    "plasma cell": ("B", 3),
    "CD4+ T": ("T", 110),
    "CD8+ T": ("T", 95),
    "NK": ("NK", 80),
}


def latent(seed=0, k=10):
    rng = np.random.default_rng(seed)
    parts = []
    for i, (stage, (branch, n)) in enumerate(STAGES.items()):
        center = 6 * np.array([np.cos(i * 0.9), np.sin(i * 0.7)])
        z = rng.normal(i / 5, 1.0, (n, k))
        xy = center + rng.normal(0, 0.9, (n, 2))
        part = pd.DataFrame(z, columns=[f"z_{j + 1}" for j in range(k)])
        part.insert(0, "umap_2", xy[:, 1])
        part.insert(0, "umap_1", xy[:, 0])
        part.insert(0, "branch", branch)
        part.insert(0, "stage", stage)
        part.insert(0, "cell_type", f"{stage} (synthetic)")
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "cell_id", [f"synthetic-{i:04d}" for i in range(len(table))])
    return table


def heads(layers=6, per_layer=8, seed=1):
    rng = np.random.default_rng(seed)
    rows = [(layer, head) for layer in range(layers) for head in range(per_layer)]
    table = pd.DataFrame(rows, columns=["layer", "head"])
    table["spearman"] = rng.normal(0.3, 0.18, len(rows)).clip(-0.4, 0.8)
    table["sd"] = rng.uniform(0.03, 0.15, len(rows))
    table["n_splits"] = 20
    table["n_anchors"] = 32
    table["null_high"] = 0.21
    table["p"] = np.where(table["spearman"] > 0.35, 0.0005, 0.2)
    table["q"] = np.where(table["spearman"] > 0.35, 0.004, 0.35)
    return table


def holdouts(seed=2):
    rng = np.random.default_rng(seed)
    rows = []
    for i, operator in enumerate(["attention, best head", "attention, all heads", "identity", "gaussian"]):
        for holdout in ["random", "branch", "donor"]:
            defined = holdout != "donor"
            value = 0.5 - 0.12 * i - (0.1 if holdout == "branch" else 0.0) + rng.normal(0, 0.01)
            rows.append(
                {
                    "operator": operator,
                    "holdout": holdout,
                    "spearman": value if defined else np.nan,
                    "sd": 0.06 if defined else np.nan,
                    "n_splits": 20 if holdout == "random" else 7,
                    "n_pairs": 496 if holdout == "random" else 120,
                    "null_mean": 0.01,
                    "null_high": 0.18,
                    "p": 0.0005,
                    "status": "ok" if defined else "undefined: the cells name no donors",
                }
            )
    return pd.DataFrame(rows)


def readouts(seed=3):
    rng = np.random.default_rng(seed)
    ends = [("stage", "balanced accuracy", 0.1), ("branch", "balanced accuracy", 0.15), ("branch", "macro-F1", 0.14)]
    ends += [("CD4/CD8", "AUROC", 0.5), ("monocyte/macrophage", "AUROC", 0.5)]
    rows = []
    for endpoint, metric, chance in ends:
        for i, (name, width) in enumerate([("latent", 10), ("raw expression", 765), ("PCA-10", 10)]):
            defined = not endpoint.startswith("monocyte")
            rows.append(
                {
                    "endpoint": endpoint,
                    "metric": metric,
                    "representation": name,
                    "value": 0.72 + 0.06 * i + rng.normal(0, 0.02) if defined else np.nan,
                    "sd": 0.04 if defined else np.nan,
                    "n_folds": 5,
                    "n_cells": 205 if endpoint == "CD4/CD8" else 700,
                    "n_features": width,
                    "null_mean": chance,
                    "null_high": chance + 0.06,
                    "p": 0.0005,
                    "status": "ok" if defined else "undefined: only one class has at least 10 cells",
                }
            )
    return pd.DataFrame(rows)


def distances(seed=4):
    rng = np.random.default_rng(seed)
    names = list(STAGES)
    rows = []
    for i, a in enumerate(names):
        for j, b in enumerate(names[i + 1 :], i + 1):
            ruler = 1 + (i * 3 + j * 2) % 7
            rows.append((a, b, ruler, rng.normal(0.15 + 0.07 * ruler, 0.07), 0.05, int(rng.integers(1, 30))))
    return pd.DataFrame(rows, columns=["stage_a", "stage_b", "ruler_distance", "latent", "latent_sd", "n_pairs"])


METRICS = {  # metric: (unit, worse, size)
    "cell_shift": ("1 - cosine", 0, 0.02),
    "label_loss": ("nats", 1, 0.3),
    "ruler": ("Spearman", -1, 0.1),
}
LABELS = {"B": 90, "CD14+ monocyte": 130, "CD4+/CD45RA+/CD25- naive T (of a label as long as an essay)": 12}


def effects(layers=6, per_layer=8, hows=("mean",), null=8, seed=5):
    rng = np.random.default_rng(seed)
    places = [(i, j, "head", f"L{i}H{j}") for i in range(layers) for j in range(per_layer)]
    places += [(i, -1, "mlp", f"L{i}.mlp") for i in range(layers)]
    metrics = METRICS | {f"label_error: {name}": ("share of cells", 1, 0.05) for name in LABELS}
    rows = []
    for metric, (unit, worse, size) in metrics.items():
        n_cells = LABELS.get(metric.removeprefix("label_error: "), 240)
        for how in hows:
            for layer, head, kind, name in places:
                effect = (worse or 1) * rng.gamma(0.4, size) if worse < 1 else rng.gamma(0.4, size) - size / 4
                own = null if kind == "head" else 0
                low, high = sorted(rng.normal(0, size / 6, 2)) if own else (np.nan, np.nan)
                p = float(np.clip(0.3 - abs(effect) / size / 3, 1 / 385, 1)) if own else np.nan
                rows.append(
                    {
                        "metric": metric,
                        "ablation": name,
                        "how": how,
                        "kind": kind,
                        "layer": layer,
                        "head": head,
                        "effect": effect,
                        "low": effect - size / 5,
                        "high": effect + size / 4,
                        "sd": size,
                        "n_cells": n_cells,
                        "null_mean": (low + high) / 2,
                        "null_low": low,
                        "null_high": high,
                        "n_null": own,
                        "ratio": abs(effect) / size * 6 if own else np.nan,
                        "worse": worse,
                        "p": p,
                        "q": min(1.0, 2 * p) if own else np.nan,
                        "heads_as_large": 0.25,
                        "unit": unit,
                    }
                )
    return pd.DataFrame(rows)


def attribution(layers=6, per_layer=8, metrics=("label_loss", "masked error"), seed=6):
    rng = np.random.default_rng(seed)
    layer, head = (index.ravel() for index in np.indices((layers, per_layer)))
    parts = []
    for metric in metrics:
        exact = rng.normal(0, 0.1, layer.size)
        for method, noise in (("gradient", 0.1), ("integrated gradients", 0.02)):
            columns = {"metric": metric, "method": method, "layer": layer, "head": head, "exact": exact}
            parts.append(pd.DataFrame({**columns, "estimated": exact + rng.normal(0, noise, exact.size)}))
    return pd.concat(parts, ignore_index=True)


def interactions(names=("L0H1", "L2H3", "L2H7", "L4H0", "L10H2", "L5H6"), metrics=("label_loss",), seed=7):
    rng = np.random.default_rng(seed)
    rows = []
    for metric in metrics:
        alone = dict(zip(names, rng.uniform(0, 0.5, len(names)), strict=True))
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                size = rng.normal(0, 0.05)
                both = alone[a] + alone[b] + size
                rows.append((metric, a, b, alone[a], alone[b], both, size, size - 0.03, size + 0.03, 240))
    columns = ["metric", "first", "second", "effect_first", "effect_second", "effect_both", "interaction"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "n_cells"])


def transfer(layers=6, per_layer=8, seed=8):
    rng = np.random.default_rng(seed)
    layer, head = (index.ravel() for index in np.indices((layers, per_layer)))
    moved = rng.gamma(0.5, 0.06, layer.size) - 0.01
    null = rng.normal(0, 0.004, layer.size)
    p = np.where(moved > 0.03, 1 / 2001, 0.3)
    return pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "moved": moved,
            "low": moved - 0.01,
            "high": moved + 0.012,
            "null_mean": null,
            "null_low": null - 0.003,
            "null_high": null + 0.003,
            "p": p,
            "q": 2 * p,
            "n_pairs": 60,
            "shared_genes": 312.4,
            "target": "CD4+/CD45RO+ Memory",
            "source": "CD8+ Cytotoxic T",
        }
    )


def tables():
    return {
        "latent": latent(),
        "heads": heads(),
        "holdouts": holdouts(),
        "readouts": readouts(),
        "distances": distances(),
    }


def figures():
    from workbench import figures as draw

    made = tables()
    return {
        "latent_map": draw.latent_map(made["latent"]),
        "head_map": draw.head_map(made["heads"], {"identity": 0.31, "gaussian": 0.02}),
        "holdouts": draw.holdouts(made["holdouts"], baselines=["identity", "gaussian"]),
        "readouts": draw.readouts(made["readouts"], baselines=["raw expression", "PCA-10"]),
        "ruler_against_latent": draw.ruler_against_latent(made["distances"]),
    }


def summary():
    names = ["latent_map", "head_map", "holdouts", "readouts", "ruler_against_latent"]
    caption = (
        "SYNTHETIC numbers, drawn to look at the layout. Model: none. Data: 774 synthetic cells, 32 anchors. Spread: "
        "sd over 20 splits. Null: labels permuted within blocks, 2,000 draws, upper bound = 95th percentile."
    )
    return {
        "title": "Synthetic example: hematopoiesis in a model that does not exist",
        "opening": Opening(
            "Does the attention of a head order cells as development does?",
            "SYNTHETIC: operator 0.68 against 0.61 for plain expression on held-out anchors (20 splits, sd 0.05).",
            "774 cells in 32 anchors; relabelled stages rarely do as well (p 0.048, 20 draws).",
            "Donors could: these cells name none.",
            "Name the column of donors with --set data.donor=COLUMN and run again.",
        ),
        "controls": [
            Control("x itself", "beaten on 5 of 7 readouts", 5, 7),
            Control("a random matrix", "beaten on 1 of 7 readouts", 1, 7),
            Control("co-detection of genes", "not beaten (7 readouts)", 0, 7),
            Control("null ruler", "not judged", 0, 0),
        ],
        "shows": "holdouts",
        "answers": [
            "This page is SYNTHETIC: no cell, model or run stands behind any number on it.",
            "The best head reaches a held-out Spearman of 0.68 (sd 0.05, 20 splits); the null's upper bound is 0.21.",
            "Raw expression reads the stages out better than the latent does: 0.84 against 0.72 balanced accuracy.",
        ],
        "model": "none (synthetic), 6 layers x 8 heads",
        "data": "774 synthetic cells of 13 stages and 9 branches",
        "skipped": [
            {"what": "donor holdout", "why": "the cells name no donors"},
            {"what": "monocyte/macrophage readout", "why": "only one class has at least 10 cells"},
        ],
        "cautions": [
            "Anchor pairs that share an anchor are not independent.",
            "Few stages, so a single misplaced one moves every correlation.",
        ],
        "captions": dict.fromkeys(names, caption),
        "commands": dict.fromkeys(names, "workbench run experiments/synthetic.yaml --out runs/synthetic"),
        "provenance": [
            ("workbench", "0.1.0"),
            ("seed", 0),
            ("checkpoint sha256", "0" * 64),
            ("peak memory", "0.0 GiB"),
        ],
        "algorithm": "algorithm/algorithm.safetensors (synthetic, 0.12 MB)",
    }


COMPETITORS = {  # method: (group, better than chance by, trained numbers, seconds)
    "anchor head": ("extracted", 0.30, 17_000, 0.4),
    "cell head": ("extracted", 0.31, 19_000, 3.0),
    "raw log1p": ("baseline", 0.33, 58_000, 0.3),
    "scGPT cls, 3-layer MLP": ("scGPT", 0.22, 172_092, 17.0),
    "scVI-10D": ("peer", 0.28, 410_000, 95.0),
    "LET on x itself": ("control", 0.27, 8_600, 0.25),
    "anchor head, labels permuted": ("control", 0.0, 17_000, 0.4),
    "hybrid, strong 0.04 head": ("extracted", 0.30, 19_000, 3.2),
    "hybrid, conservative 0.01 head": ("extracted", 0.31, 19_000, 3.1),
    "single head": ("compact", 0.29, 16_000, 0.4),
    "rank 64": ("compact", 0.28, 16_000, 0.4),
    "rank 16": ("compact", 0.24, 16_000, 0.4),
    "hard sparse, 16 x (60 + 60)": ("compact", 0.22, 16_000, 0.5),
    "LET on gaussian": ("control", 0.26, 17_000, 0.4),
    "LET on spectrum-matched": ("control", 0.27, 17_000, 0.4),
    "LET on gene-permuted": ("control", 0.26, 17_000, 0.4),
    "LET on co-expression": ("control", 0.29, 17_000, 0.5),
    "LET on an untrained model": ("control", 0.27, 17_000, 0.4),
    "raw log1p, small MLP": ("baseline", 0.32, 61_000, 5.0),
    "PCA-10": ("baseline", 0.31, 8_600, 0.1),
    "SVD-10": ("baseline", 0.31, 8_600, 0.1),
    "scGPT cls": ("scGPT", 0.2, 20_000, 12.0),
    "scGPT average": ("scGPT", 0.21, 20_000, 12.0),
    "scGPT average, 3-layer MLP": ("scGPT", 0.23, 172_092, 17.0),
    "LET on residual stream 0": ("layers", 0.2, 9_000, 12.2),
    "LET on residual stream 1": ("layers", 0.2, 9_000, 12.2),
    "scanpy DPT": ("peer", 0.25, 0, 0.5),
    "CellTypist": ("peer", 0.3, 7_600, 0.2),
    "Palantir": ("peer", 0.1, 0, 30.0),
}
JUDGED = (
    ("stage", "balanced accuracy", "higher"),
    ("stage", "macro-F1", "higher"),
    ("stage", "calibration error", "lower"),
    ("branch", "balanced accuracy", "higher"),
    ("branch", "macro-F1", "higher"),
    ("depth", "|Spearman|", "higher"),
    ("CD4 against CD8", "AUROC", "higher"),
    ("CD4 against CD8", "balanced accuracy", "higher"),
    ("monocyte against dendritic", "AUROC", "higher"),
    ("monocyte against macrophage", "AUROC", "higher"),
    ("clusters", "ARI", "higher"),
    ("donor", "leakage", "lower"),
)


def benchmark(n_methods=5, n_judged=12, n_splits=10, seed=9):
    """Tables of a campaign with planted scores, and what the statistics make of them; the fifth method was not run."""
    from workbench.evidence import statistics

    rng = np.random.default_rng(seed)
    names, judged, splits = list(COMPETITORS)[:n_methods], JUDGED[:n_judged], [f"s{i}" for i in range(n_splits)]
    held = {split: (f"donor {i % 8}", f"donor {(i + 1 + i // 8) % 8}") for i, split in enumerate(splits)}
    at = {"kind": "donor holdout", "data": "planted"}
    rows, costs = [], []
    for j, (endpoint, metric, better) in enumerate(judged):
        shared = rng.normal(0, 0.03, n_splits)
        for name in names:
            edge = COMPETITORS[name][1] + rng.normal(0, 0.03)
            undefined = endpoint == "monocyte against macrophage"
            silent = name == "Palantir" and endpoint != "depth"
            for i, split in enumerate(splits):
                status = "undefined: no split has both classes" if undefined else "not said" if silent else "ok"
                status = "not run: its package is not installed" if name == "scVI-10D" else status
                for scope in ("all", *held[split]):
                    value = 0.5 + shared[i] + edge * (0.6 + j / 24) + rng.normal(0, 0.012)
                    value = (1 - value if better == "lower" else value) if status == "ok" else np.nan
                    what = {"scope": scope, "endpoint": endpoint, "metric": metric, "better": better}
                    rows.append({"method": name, "split": split, **at, **what, "value": value, "status": status})
    for name in names:
        group, _, n_parameters, seconds = COMPETITORS[name]
        ran = name != "scVI-10D"
        for split in splits:
            fit = seconds * rng.uniform(0.8, 1.2)
            of = {"fit_seconds": fit, "predict_seconds": 0.01, "forward_seconds": 11.0 if group == "scGPT" else 0.0}
            of = {**of, "n_parameters": n_parameters, "peak_bytes": 2.0**20 * (1 + 10 * seconds)}
            of = of if ran else dict.fromkeys(of, np.nan)
            costs.append({"method": name, "split": split, **of, "once_seconds": 27.0 if group == "extracted" else 0.0})
    tables = {
        "scores": pd.DataFrame(rows).assign(n_cells=180),
        "splits": pd.DataFrame({"split": splits, **at, "test_donors": ["+".join(held[one]) for one in splits]}).assign(
            disjoint=[i in (0, 2, 4, 6) for i in range(n_splits)], test_share=0.25
        ),
        "methods": pd.DataFrame({"method": names, "group": [COMPETITORS[name][0] for name in names]}).assign(
            about="planted",
            status=["not run: its package is not installed" if n == "scVI-10D" else "run" for n in names],
        ),
        "costs": pd.DataFrame(costs).assign(n_train=540, n_test=180),
    }
    tables["costs"]["status"] = np.where(
        tables["costs"]["fit_seconds"].isna(), "not run: its package is not installed", "ok"
    )
    tables["summary"] = statistics.summarise(tables["scores"], tables["methods"])
    tables["comparisons"] = statistics.compare(tables["scores"], tables["splits"], "anchor head")
    tables["tally"] = statistics.tally(tables["comparisons"])
    tables["ranks"] = statistics.ranks(tables["scores"])
    return tables
