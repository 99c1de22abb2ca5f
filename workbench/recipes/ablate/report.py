"""``workbench ablate``: run, write the tables, and say which heads matter for what."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from workbench.ablation.build import Prepared
from workbench.ablation.effects import top_heads
from workbench.ablation.grid import describe_grid, identity
from workbench.ablation.sites import Ablation
from workbench.ablation.sweeping import FromConfig, make_tasks, opened
from workbench.cells.datasets import content_hash
from workbench.engine.config import absolute
from workbench.engine.provenance import describe_model, manifest, pairs
from workbench.engine.sweep import IDENTITY, Backend, rows_file
from workbench.figures.requests import Request
from workbench.files import plain, read_json, write_json, write_text
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.recipes.ablate.run import AblationResult, refuse_early, run_ablation
from workbench.settings import AblationConfig

_ALPHA = 0.05


def dry_run(config: AblationConfig, out: Path) -> str:
    """The grid, what of it is done, and an estimate of the time, without doing it.

    Parameters
    ----------
    config
        Configuration.
    out
        Folder of the run.
    """
    prepared, grid, _ = opened(FromConfig(config.model_dump_json()))
    refuse_early(config, prepared)
    study = prepared.study
    tasks = make_tasks(study, grid, config.sweep.block)
    claim = out / "sweep" / IDENTITY
    own = claim.is_file() and read_json(claim) == plain(identity(prepared, grid, config.sweep.block))
    done = sum(rows_file(out / "sweep", task.key).is_file() for task in tasks) if own else 0
    other = f" '{out / 'sweep'}' holds another sweep: choose another --out." if claim.is_file() and not own else ""
    seconds = _seconds_per_cell(prepared) * _passes(study.model, grid) * len(study.tokens) * (1 - done / len(tasks))
    seconds *= 2 if any(m.masked for m in study.metrics) and not all(m.masked for m in study.metrics) else 1
    table = describe_grid(grid)
    counts = table.assign(null=np.where(table["null"] >= 0, "null draws", "ablations"))
    shown = counts.groupby(["how", "kind", "null"]).size().rename("number").reset_index().to_string(index=False)
    first = table.loc[table["null"] < 0, ["places", "how", "kind"]].head(12).to_string(index=False)
    return (
        f"{len(grid)} ablations of {len(study.tokens)} cells, judged by {', '.join(prepared.metrics)}\n{shown}\n\n"
        f"The first of them:\n{first}\n\n"
        f"{len(tasks)} tasks of up to {config.sweep.block} cells, {done} done. About {_human(seconds)} on one worker "
        f"(a guess from one pass over a few cells), without pairs, attribution and contrasts.{other}"
    )


def _seconds_per_cell(prepared: Prepared) -> float:
    study = prepared.study
    few = study.tokens[: min(8, len(study.tokens))].to(study.model.device, study.model.dtype)
    with torch.no_grad():
        study.model(few)
        began = time.perf_counter()
        study.model(few)
    return (time.perf_counter() - began) / len(few)


def _passes(model: HookedScGPT, grid: list[Ablation]) -> float:
    n = model.config.n_layers
    return 2 + sum((n - one.first_layer - 0.5) / n for one in grid)


def _human(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ablate_and_report(config: AblationConfig, out: Path, backend: Backend) -> Path:
    """Run a configuration; write tables, figures, manifest and report.

    Parameters
    ----------
    config, out, backend
        As in `run_ablation`.

    Returns
    -------
    Path
        The report.
    """
    from workbench.engine.report import report_run

    result = run_ablation(config, out, backend)
    effective = absolute(config)
    write_text(out / "config.yaml", yaml.safe_dump(effective, sort_keys=False))
    for name, table in result.tables.items():
        (out / "tables").mkdir(exist_ok=True)
        write_text(out / "tables" / f"{name}.csv", table.to_csv(index=False))
    stages = {name: {"seconds": seconds, "kept": False} for name, seconds in result.seconds.items()}
    made_from = manifest(effective, result.prepared.study.model, content_hash(result.cells), stages)
    write_json(out / "manifest.json", made_from)
    command = shlex.join(["workbench", "ablate", str(out / "config.yaml"), "--out", str(out)])
    summary = {
        **_summary(config, result),
        "command": command,
        "provenance": pairs(made_from),
    }
    return report_run(out, summary, result.tables, _figures(config, result))


def _figures(config: AblationConfig, result: AblationResult) -> list[Request]:
    setting = _setting(config, result)
    null = (
        "the null turns the head's change by a random orthogonal matrix, norms and angles between cells and genes kept"
    )
    requests: list[Request] = []

    def add(name: str, entry: str, caption: str, **options: Any) -> None:
        requests.append(Request(name, f"{caption} {setting}", entry, options))

    def bars(table: str, metric: str | None = None) -> str:
        if result.prepared.donors is None:
            return "95 % bootstrap over cells"
        rows = result.tables[table]
        low = rows["low"] if metric is None else rows.loc[rows["metric"] == metric, "low"]
        return "95 % bootstrap over donors" if low.notna().any() else "no interval, because all cells are of one donor"

    how = config.sweep.how[0]
    single = [name for name in result.prepared.metrics if name not in result.prepared.per_label]
    for name in single if config.sweep.heads else ():
        slug = _slug(name)
        said = f"Change of {name} when a head's output is replaced ({how}); {null}."
        add(f"effect_{slug}", "effect", said, metric=name, how=how)
        said = f"The heads that matter most for {name}; bars: {bars('effects', name)}; grey: range of the head's own null draws."
        add(f"heads_{slug}", "intervals", said, metric=name, how=how)
    if result.prepared.per_label and config.sweep.heads:
        said = "Change in the share of wrongly read cells of each label, the probe held fixed."
        add("labels", "labels", said, how=how)
    if "attribution" in result.tables:
        said = "Effects estimated from one backward pass against the exact ones, a point per head."
        add("attribution", "attribution", said)
    if "interactions" in result.tables:
        by = config.sweep.pairs_by or next(iter(result.prepared.metrics))
        add(
            "interactions",
            "interactions",
            f"Effect on {by} of two heads together minus the sum of both; {bars('interactions', by)}.",
            by=by,
        )
    if "transfer" in result.tables:
        pairs_drawn = result.tables["transfer"][["target", "source"]].drop_duplicates()
        for i, (target, source) in enumerate(pairs_drawn.itertuples(index=False)):
            said = (
                "How far one head's activations from cells of the source type move cells of the target type towards it; "
                f"null: other cells of the target type as source; {bars('transfer')}."
            )
            add(f"transfer_{i + 1}", "transfer", said, target=target, source=source)
    return requests


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.split(" (")[0])


def _setting(config: AblationConfig, result: AblationResult) -> str:
    study = result.prepared.study
    data = result.cells.uns["workbench"]["name"]
    return f"Model: {describe_model(study.model, config.checkpoint)}. Data: {data}, n = {len(study.tokens)} cells."


def _summary(config: AblationConfig, result: AblationResult) -> dict[str, Any]:
    study = result.prepared.study
    source = result.cells.uns["workbench"]["source"]
    return {
        "title": f"{config.name}: which heads matter for what",
        "question": "Which attention heads carry what the model knows of these cells: how far does replacing one head's "
        "output change the cell embedding, the predictions and what can be read from it, and is that more than a "
        "random change of the same size does?",
        "answers": _answers(config, result),
        "model": describe_model(study.model, config.checkpoint),
        "data": source,
        "facts": {
            "Gates": "none: an ablation asks what a head does, not whether a latent follows a ruler (workbench gates)",
            "Controls": f"{config.sweep.null_draws} null draws per head: its change turned in a random direction",
        },
        "n": f"{len(study.tokens)} cells, {len(result.grid)} ablations with null draws",
        "skipped": [{"what": what, "why": why} for what, why in result.skipped.items()]
        + (
            []
            if result.prepared.donors is not None
            else [
                {
                    "what": "Intervals over donors",
                    "why": "the data name no donors; intervals are over cells, and say nothing of other donors",
                }
            ]
        ),
        "cautions": _cautions(config, result),
    }


def _answers(config: AblationConfig, result: AblationResult) -> list[str]:
    table, answers = result.tables["effects"], []
    how = config.sweep.how[0]
    for name in (m for m in result.prepared.metrics if m not in result.prepared.per_label):
        rows = table[(table["metric"] == name) & (table["how"] == how)]
        heads = rows[rows["kind"] == "head"]
        if not len(heads):
            far = rows.iloc[int(np.argmax(rows["effect"].abs().fillna(-1).to_numpy()))]
            answers.append(
                f"{_capital(name)} ({far['unit']}): of {len(rows)} places {far['ablation']} changes it most, "
                f"{far['effect']:+.3g} ({_interval(far)}, n = {int(far['n_cells'])}); no null "
                "was drawn."
            )
            continue
        best: Any = heads.set_index("ablation").loc[top_heads(rows, name, 1)[0]]
        beyond = int((heads["q"] <= _ALPHA).sum())
        null = "no null was drawn"
        if best["n_null"] and np.isnan(best["p"]):
            null = f"its null draws, {best['null_low']:.2g} to {best['null_high']:.2g}, give no p"
        elif best["n_null"]:
            null = (
                f"{beyond} of {len(heads)} heads are beyond the random-direction null (q <= {_ALPHA}); the draws of "
                f"{best.name}: {best['null_low']:.2g} to {best['null_high']:.2g}, p {best['p']:.2g}, q {best['q']:.2g}"
            )
        answers.append(
            f"{_capital(name)} ({best['unit']}): {best.name} matters most, {best['effect']:+.3g} ({_interval(best)}, "
            f"n = {int(best['n_cells'])}); {null}.{_better_without(heads)}"
        )
    if "agreement" in result.tables:
        lines = result.tables["agreement"]
        said = "; ".join(f"{r.metric}, {r.method}: {r.spearman:.2f}" for r in lines.itertuples())
        steady = "; ".join(f"{r.metric} {r.split_half:.2f}" for r in lines.drop_duplicates("metric").itertuples())
        answers.append(
            f"Attribution against exact effects of the same cells, rank correlation over heads: {said}. The exact effects of "
            f"two halves of the cells agree with each other by {steady}: where that is near 0, there is no ranking to find."
        )
    if "interactions" in result.tables:
        answers.append(_pairs_said(config, result))
    if "transfer" in result.tables:
        for names, part in result.tables["transfer"].groupby(["target", "source"], sort=False):
            most: Any = part.sort_values("moved", ascending=False).iloc[0]
            null = (
                f"within the target type {most['null_mean']:.1%}; q {most['q']:.2g}"
                if np.isfinite(most["null_mean"])
                else "no null was drawn"
            )
            answers.append(
                f"From {names[0]} to {names[1]}: {most['ablation']} carries most, {most['moved']:.1%} of the way "
                f"({_interval(most, '.1%')}; {null}; "
                f"n = {int(most['n_pairs'])} pairs, {most['shared_genes']:.0f} shared genes on average)."
            )
    return answers


def _pairs_said(config: AblationConfig, result: AblationResult) -> str:
    by = config.sweep.pairs_by or next(iter(result.prepared.metrics))
    table = result.tables["interactions"].query("metric == @by")
    drawn, top = table[table["random"]], table[~table["random"].astype(bool)]
    most: Any = top.loc[top["interaction"].abs().sort_values(ascending=False).index[0]]
    null = f"; of {len(drawn)} random pairs the largest has {drawn['interaction'].abs().max():.2g}, p {most['p']:.2g}"
    return (
        f"Pairs by {by}: {most['first']} and {most['second']} together do {most['interaction']:+.3g} more than the sum of both "
        f"({_interval(most)}; {int((top['interaction'] > 0).sum())} of {len(top)} pairs of the top heads "
        f"are above their sum{null if len(drawn) else ''})."
    )


def _interval(row: Any, form: str = ".2g") -> str:
    if not np.isfinite(row["low"]):
        return "no interval: a single donor or cell"
    return f"95 % {row['low']:{form}} to {row['high']:{form}}"


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _better_without(heads: pd.DataFrame) -> str:
    """A sentence where ablating some head improves a metric more than ablating any head harms it."""
    worse = int(heads["worse"].iloc[0])
    gain = -worse * heads.set_index("ablation")["effect"]
    if worse == 0 or not gain.max() > -gain.min():
        return ""
    best = heads.loc[heads["ablation"] == gain.idxmax()].iloc[0]
    return f" Larger still, without {best['ablation']} it gets better: {best['effect']:+.3g} (q {best['q']:.2g})."


def _cautions(config: AblationConfig, result: AblationResult) -> list[str]:
    effects = result.tables["effects"]
    cautions = [
        "The head named first was chosen by the same number that is reported, so its effect is biased upward.",
        "An ablation shows what the model loses when the rest is not allowed to adapt; heads that back each other up look "
        "harmless one by one (see the pairs).",
        "Beyond the null means: more than a random change of the same size in the same tokens. It does not say why.",
        "p values are pooled over the null draws of all heads, on the assumption that these scatter alike.",
        "Probes were fitted on the same model's intact embeddings, on other folds; labels come with the dataset.",
    ]
    if "mean" in config.sweep.how:
        cautions.append("Mean ablation leaves what a head does on average per gene; zero ablation removes that, too.")
    alone = effects.loc[effects["low"].isna() & (effects["n_cells"] > 1), "metric"].unique()
    if len(alone):
        which = "any metric" if len(alone) == effects["metric"].nunique() else ", ".join(alone)
        cautions.append(f"There is no interval for {which}: its cells are all of one donor, and say nothing of others.")
    share = float(effects["fallback_share"].max())
    if share > 0:
        cautions.append(
            f"Of the tokens that an ablation touches up to {share:.1%} got a fallback value, because the gene was not there "
            "to take one from."
        )
    if "agreement" in result.tables and not bool(result.tables["agreement"].groupby("metric")["agrees"].any().all()):
        cautions.append("Where attribution disagrees with the exact effects, the exact ones count.")
    return cautions
