"""The model card of an exported algorithm, written from what its file holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.operators.convention import Convention
from workbench.operators.readout_weights import Readout
from workbench.operators.reference import LOSS, TrainingReference
from workbench.stats import WITHOUT


def model_card(
    card: Mapping[str, Any],
    genes: Sequence[str],
    k: int,
    readouts: Mapping[str, Readout],
    reference: TrainingReference | None = None,
) -> str:
    """Markdown that says what an algorithm is, what it was made from, how well it did beside controls, and its limits.

    Parameters
    ----------
    card
        As `Algorithm.card`; what is not in it is left out.
    genes
        Panel of the algorithm, in order; the first eight are named.
    k
        Width of the latent, in coordinates.
    readouts
        Readout of each endpoint; classes and number of parameters are shown.
    reference
        What the algorithm knows of its training cells: how the readouts held with fewer genes and counts.
    """
    sizes = [(name, len(readout.classes) or "a number", readout.n_parameters) for name, readout in readouts.items()]
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
        *_section("Readouts", "endpoint | classes | parameters", sizes),
        *_evidence(card),
        *_levels(reference),
        *_transfers(card.get("transfers", [])),
        "## Limits",
        "",
        str(card.get("limits", "None were written down.")),
        "",
    ]
    return "\n".join(lines)


def _facts(card: Mapping[str, Any]) -> list[str]:
    checkpoint, operator = card.get("checkpoint", {}), card.get("operator", {})
    sums = checkpoint.get("sha256", {})
    known = {
        "Data": card.get("data"),
        "Checkpoint": checkpoint.get("name"),
        "Hash of its weights": card.get("weights"),
        **{f"sha256 of {name}": sha for name, sha in sums.items() if not name.endswith(".json")},
        "Operator": operator and f"{operator.get('kind')}, feature map {operator.get('feature_map')}",
        "Convention of the operator": "convention" in card and _convention(card),
        "Ruler": card.get("ruler"),
        "Cells, anchors": card.get("n_cells") and f"{card['n_cells']}, {card.get('n_anchors')}",
        "Seed": card.get("seed"),
        "Versions": card.get("versions") and ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
    }
    return [f"- {name}: {value}" for name, value in known.items() if value not in (None, "", {}, False)]


def _convention(card: Mapping[str, Any]) -> str:
    known = Convention.read(card["convention"])
    return known.label if known.is_default else f"{known.label}; comparable with no other (docs/conventions.md)"


def _evidence(card: Mapping[str, Any]) -> list[str]:
    out: list[str] = []
    if gates := card.get("gates"):
        title = f"Gates (spec {gates[0]['spec']})"
        out += _section(title, "gate | status | value (sd, n) | asked | null up to | p", map(_gate, gates))
    elif "gates" in card:
        out += ["Gates were not judged in this run: its configuration has no section `gates`.", ""]
    if held := card.get("readouts"):
        rows = [(r["endpoint"], r["metric"], _spread(r, f", n = {r['n_folds']}"), *_null(r)) for r in held]
        out += _section("On held-out cells", "endpoint | metric | value (sd over folds) | null up to | p", rows)
    if held := card.get("holdouts"):
        columns = "operator | holdout | rank correlation (sd) | without what follows sequencing | null up to | p"
        judged = (_spread({**r, "value": r["spearman"]}) for r in held)
        lines = [
            (r["operator"], r["holdout"], value, _number(r.get(WITHOUT)), *_null(r))
            for r, value in zip(held, judged, strict=True)
        ]
        out += _section("On held-out anchors, beside controls", columns, lines)
    if controls := card.get("controls"):
        columns = "control | endpoint | metric | difference (95 %) | q"
        rows = [(r["control"], r["endpoint"], r["metric"], _interval(r), _number(r["q"])) for r in controls]
        out += _section("What it adds to each control", columns, rows)
    return out


def _levels(reference: TrainingReference | None) -> list[str]:
    if reference is None:
        return []
    rows = [
        (
            f"{level.share:.0%} of the {level.kind.removeprefix('share of ')}",
            _spread({"value": level.accuracy, "sd": level.sd}),
            _number(level.probability),
            _number(level.plain_accuracy),
            f"{level.agreement:.0%}" if level.agreement == level.agreement else "-",
        )
        for level in reference.levels
    ]
    title = f"With fewer genes and counts: {reference.endpoint} of held-out training cells"
    columns = "left | balanced accuracy (sd over folds and draws) | mean probability | of plain expression | same label from it"
    limits = (
        f"Files with under {reference.least_coverage:.0%} of the genes are refused unless --min-coverage says otherwise: more than {LOSS} of the "
        "accuracy is lost there. Probabilities are calibrated at each level."
    )
    if reference.plain is not None:
        limits += (
            " Logistic regression on the expression of the same training cells goes along. A file of whose cells it gives fewer than "
            f"{reference.least_agreement:.0%} the same label is said to be one that the algorithm is not fit for."
        )
    return [*_section(title, columns, rows), limits, ""]


def _transfers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["## On cells of other studies", "", "None was tried.", ""]
    columns = (
        "study | method | cells | genes measured | right | unassigned | right of the others | fit, by its own word"
    )
    table = [
        (
            row["study"],
            row["method"],
            row["n_cells"],
            f"{row['coverage']:.0%}",
            _number(row["accuracy"]),
            _number(row["unassigned"]),
            _number(row["assigned_accuracy"]),
            "-" if row["fit"] is None else "yes" if row["fit"] else "no",
        )
        for row in rows
    ]
    return _section("On cells of other studies", columns, table)


def _section(title: str, columns: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """A heading and a table, in which a bar of a text would begin the next cell."""
    table = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return [
        f"## {title}",
        "",
        f"| {columns} |",
        "|" + "---|" * (columns.count("|") + 1),
        *(f"| {row} |" for row in table),
        "",
    ]


def _gate(row: Mapping[str, Any]) -> Sequence[str]:
    if row["value"] is None:
        return row["gate"], f"{row['status']}: {row['note']}", "-", "-", "-", "-"
    asked = f"{row['rule']} {_number(row['threshold'])}"
    return row["gate"], row["status"], _spread(row, f", {row['n']} {row['unit']}"), asked, *_null(row)


def _spread(row: Mapping[str, Any], more: str = "") -> str:
    return f"{_number(row['value'])} ({_number(row['sd'])}{more})"


def _null(row: Mapping[str, Any]) -> tuple[str, str]:
    # Of a random control the draws are the null, and the p is that of the operator among them.
    if (n := row.get("n_draws")) and n == n:
        return (
            f"{int(n)} draws: {_number(row['draws_low'])} to {_number(row['draws_high'])}",
            f"operator: {_number(row['p_draws'])}",
        )
    return _number(row["null_high"]), _number(row["p"])


def _interval(row: Mapping[str, Any]) -> str:
    return f"{_number(row['difference'])} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:.3g}"
