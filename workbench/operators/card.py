"""The model card of an exported algorithm, written from what its file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(
    card: Mapping[str, Any], genes: Sequence[str], k: int, readouts: Mapping[str, tuple[tuple[str, ...], int]]
) -> str:
    """Markdown that says what an algorithm is, what it was made from, how well it did beside controls, and its limits.

    Parameters
    ----------
    card
        As `Algorithm.card`; what is not in it is left out.
    genes
        The panel.
    k
        Width of the latent.
    readouts
        Classes and number of parameters by endpoint.
    """
    lines = [
        "# A small linear algorithm out of scGPT",
        "",
        f"One {len(genes)} x {k} matrix and an offset take log-normalised expression to a latent; {len(readouts)} readouts take "
        "the latent to labels. No model is needed to apply it: `workbench apply FOLDER CELLS.h5ad`, or "
        "`workbench.Algorithm.from_pretrained(FOLDER).transform(cells)`.",
        "",
        *_facts(card),
        "",
        f"Gene panel: {len(genes)} genes, in `config.json`; the first are {', '.join(genes[:8])}.",
        "",
        "## Readouts",
        "",
        "| endpoint | classes | parameters |",
        "|---|---|---|",
        *(f"| {_cell(name)} | {len(classes) or 'a number'} | {n} |" for name, (classes, n) in readouts.items()),
        "",
        *_evidence(card),
        "## Limits",
        "",
        str(card.get("limits", "None were written down.")),
        "",
    ]
    return "\n".join(lines)


def _facts(card: Mapping[str, Any]) -> list[str]:
    checkpoint, operator = card.get("checkpoint", {}), card.get("operator", {})
    known = {
        "Data": card.get("data"),
        "Checkpoint": checkpoint.get("name"),
        "Hash of its weights": card.get("weights"),
        "sha256 of best_model.pt": checkpoint.get("sha256", {}).get("best_model.pt"),
        "Operator": operator and f"{operator.get('kind')}, feature map {operator.get('feature_map')}",
        "Ruler": card.get("ruler"),
        "Cells, anchors": card.get("n_cells") and f"{card['n_cells']}, {card.get('n_anchors')}",
        "Seed": card.get("seed"),
        "Versions": card.get("versions") and ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
    }
    return [f"- {name}: {value}" for name, value in known.items() if value not in (None, "", {})]


def _evidence(card: Mapping[str, Any]) -> list[str]:
    out: list[str] = []
    if card.get("gates"):
        out += [
            f"## Gates (spec {card['gates'][0]['spec']})",
            "",
            "| gate | status | value (sd, n) | asked | null up to | p |",
            "|---|---|---|---|---|---|",
        ]
        out += [_gate(row) for row in card["gates"]]
        out.append("")
    elif "gates" in card:
        out += ["Gates were not judged in this run: its configuration has no section `gates`.", ""]
    if card.get("readouts"):
        out += [
            "## On held-out cells",
            "",
            "| endpoint | metric | value (sd over folds) | null up to | p |",
            "|---|---|---|---|---|",
        ]
        out += [
            f"| {_cell(r['endpoint'])} | {_cell(r['metric'])} | {_number(r['value'])} ({_number(r['sd'])}, n = {r['n_folds']}) "
            f"| {_number(r['null_high'])} | {_number(r['p'])} |"
            for r in card["readouts"]
        ]
        out.append("")
    if card.get("holdouts"):
        out += [
            "## On held-out anchors, beside controls",
            "",
            "| operator | holdout | rank correlation (sd) | null up to | p |",
            "|---|---|---|---|---|",
        ]
        out += [
            f"| {_cell(r['operator'])} | {r['holdout']} | {_number(r['spearman'])} ({_number(r['sd'])}) | {_number(r['null_high'])} | {_number(r['p'])} |"
            for r in card["holdouts"]
        ]
        out.append("")
    if card.get("controls"):
        out += [
            "## What it adds to each control",
            "",
            "| control | endpoint | metric | difference (95 %) | q |",
            "|---|---|---|---|---|",
        ]
        out += [
            f"| {_cell(r['control'])} | {_cell(r['endpoint'])} | {_cell(r['metric'])} | {_number(r['difference'])} ({_number(r['low'])} to {_number(r['high'])}) | {_number(r['q'])} |"
            for r in card["controls"]
        ]
        out.append("")
    return out


def _gate(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"| {row['gate']} | {row['status']}: {_cell(row['note'])} | - | - | - | - |"
    return (
        f"| {row['gate']} | {row['status']} | {_number(row['value'])} ({_number(row['sd'])}, {row['n']} {row['unit']}) "
        f"| {row['rule']} {_number(row['threshold'])} | {_number(row['null_high'])} | {_number(row['p'])} |"
    )


def _cell(text: object) -> str:
    """Text in a table of Markdown, where a bar would begin the next cell."""
    return str(text).replace("|", "\\|")


def _number(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:.3g}"
