"""Do the instruments find what was planted, and nothing where nothing is? The recovery and the null table.

    python experiments/planted_world.py --jobs 2 --out artifacts/planted --docs docs/planted_world.md

Finished worlds are kept: the same command goes on where it was stopped. Everything here is planted; nothing is real.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import kstest

from workbench.engine.code import code_of
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.files import write_text
from workbench.planted.proof import NULLS, OPERATORS, null_draw, recovery

FIRST_SEED = 200  # smaller ones were looked at while the world was made
SHOWN = {"blocked permutation": "blocked_permutation", "null ruler": "null_ruler"}
# Where a gate's own null is drawn, so that its p has to be uniform.
UNIFORM = (("blocked permutation", NULLS[2]), ("null ruler", NULLS[0]), ("null ruler", NULLS[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("artifacts/planted"))
    parser.add_argument("--docs", type=Path, help="also write the tables as a page of the documentation")
    parser.add_argument("--seeds", type=int, default=20, help="worlds of the recovery table")
    parser.add_argument("--draws", type=int, default=201, help="draws of the null table, a third of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    backend = Backend("sequential" if arguments.jobs == 1 else "loky", arguments.jobs)
    identity = {"spec": SPEC.hash, "code": code_of(recovery)}
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    tasks = [Task(f"{seed} {kind}", (seed, kind)) for seed in seeds for kind in OPERATORS]
    found = run_sweep(arguments.out / "recovery", identity, tasks, recovery, backend)
    draws = range(FIRST_SEED, FIRST_SEED + arguments.draws // len(NULLS))
    tasks = [Task(f"{seed} {kind}", (seed, kind, OPERATORS[seed % len(OPERATORS)])) for seed in draws for kind in NULLS]
    null = run_sweep(arguments.out / "null", identity, tasks, null_draw, backend)
    page = text(found, null, arguments)
    write_text(arguments.out / "recovery.csv", found.to_csv(index=False))
    write_text(arguments.out / "null.csv", null.to_csv(index=False))
    write_text(arguments.out / "planted_world.md", page)
    if arguments.docs:
        write_text(arguments.docs, page)
    figures(found, null, arguments.out)
    print(page)


def text(found: pd.DataFrame, null: pd.DataFrame, arguments: argparse.Namespace) -> str:
    """Both tables in words and numbers."""
    command = f"python experiments/planted_world.py --seeds {arguments.seeds} --draws {arguments.draws} --docs docs/planted_world.md"
    rows = [recovery_row(kind, part) for kind, part in found.groupby("operator", sort=False)]
    nulls = [null_row(kind, part) for kind, part in null.groupby("kind", sort=False)]
    first = found.iloc[0]
    return PAGE.format(
        command=command,
        spec=SPEC.hash,
        n_seeds=found["seed"].nunique(),
        first=found["seed"].min(),
        last=found["seed"].max(),
        n_heads=first["n_heads"],
        n_anchors=span(found["n_anchors"]),
        n_cells=span(found["n_cells"]),
        truth=first["truth"],
        recovery=markdown(rows),
        missed=missed(found),
        n_draws=len(null),
        gates=markdown([gate_row(gate, null) for gate in GATES]),
        nulls=markdown(nulls),
        passed=int((null["verdict"] == "pass").sum()),
        uneven=uneven(null),
    )


def recovery_row(kind: str, part: pd.DataFrame) -> dict[str, str]:
    """One kind of operator over seeds."""
    n, error = len(part), (part["dimension"] - part["truth"]).abs()
    failed = sorted({gate for gates in part["failed"] for gate in gates.split(", ") if gate})
    return {
        "operator": kind,
        "planted head first": f"{(part['planted_rank'] == 1).sum()} of {n}",
        "its residualised correlation": spread(part["residualised"]),
        "best other head": spread(part["best_other"]),
        "identity (x itself)": spread(part["identity"]),
        "above identity": f"{(part['residualised'] > part['identity']).sum()} of {n}",
        "dimension (median of five estimators)": f"{spread(part['dimension'], 1)}; within 1 in {(error <= 1).sum()} of {n}",
        "least and greatest estimate": f"{part['dimension_low'].mean():.1f}, {part['dimension_high'].mean():.1f}",
        "subspace overlap (other heads)": f"{part['overlap'].mean():.3f}, least {part['overlap'].min():.3f} "
        f"({part['overlap_of_others'].mean():.2f})",
        "after the adaptor": f"{part['overlap_extracted'].mean():.3f}, least {part['overlap_extracted'].min():.3f}",
        "all seven gates pass": f"{(part['gates_passed'] == part['gates_total']).sum()} of {n}"
        + (f" (failed: {', '.join(failed)})" if failed else ""),
    }


def missed(found: pd.DataFrame) -> str:
    """Worlds in which another head came first, each with what made it hard."""
    rows = found[found["planted_rank"] > 1]
    if rows.empty:
        return "The planted head came first in every world."
    said = [
        f"seed {row.seed}, {row.operator}: the planted head {row.planted} came in at rank {row.planted_rank}; the first had "
        f"{row.residualised:.2f}, plain expression {row.identity:.2f}"
        for row in rows.itertuples()
    ]
    return f"Missed: {'; '.join(said)}."


def null_row(kind: str, part: pd.DataFrame) -> dict[str, str]:
    """One kind of null: how many pass, and whether p is uniform."""
    row = {"null": kind, "draws": str(len(part)), "all seven pass": f"{(part['verdict'] == 'pass').sum()}"}
    for gate, column in SHOWN.items():
        p = part[column].to_numpy(dtype=float)
        row[f"p of {gate}: KS p against uniform"] = f"{kstest(p, 'uniform').pvalue:.3f}"
        row[f"p of {gate} <= 0.05"] = f"{(p <= 0.05).sum()}"
    return row


def uneven(null: pd.DataFrame) -> str:
    """Which p are not uniform though they have to be, and in which direction."""
    said = []
    for gate, kind in UNIFORM:
        p = null.loc[null["kind"] == kind, SHOWN[gate]].to_numpy(dtype=float)
        ks = kstest(p, "uniform").pvalue
        if ks <= 0.05:
            side = (
                "too large on average, so that the gate lets less through" if p.mean() > 0.5 else "too small on average"
            )
            said.append(f"gate '{gate}' under {kind}, KS p {ks:.3f}: mean p {p.mean():.2f}, {side}")
    head = f"Of the {len(UNIFORM)} distributions of p that have to be uniform"
    return f"{head}, not so at 0.05: {'; '.join(said)}." if said else f"{head}, all are (KS p above 0.05)."


def gate_row(gate: str, null: pd.DataFrame) -> dict[str, str]:
    """How often one gate alone passes under each null."""
    column = gate.replace(" ", "_")
    row = {"gate": gate}
    for kind, part in null.groupby("kind", sort=False):
        row[f"passes under {kind}"] = f"{(part[column + '_status'] == 'pass').sum()} of {len(part)}"
        row[f"value under {kind}"] = spread(part[column])
    return row


def spread(values: pd.Series, digits: int = 2) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.{digits}f} (sd {values.std():.{digits}f})"


def span(values: pd.Series) -> str:
    """Least and greatest."""
    return f"{values.min()} to {values.max()}"


def markdown(rows: list[dict[str, str]]) -> str:
    """A table, one column per row of results: many measures of few things read better downwards."""
    names = list(rows[0])
    if len(rows) <= 3:
        head = [names[0], *(row[names[0]] for row in rows)]
        body = [[name, *(row[name] for row in rows)] for name in names[1:]]
    else:
        head, body = names, [list(row.values()) for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def figures(found: pd.DataFrame, null: pd.DataFrame, out: Path) -> None:
    """Both tables as pictures."""
    from workbench.figures.gates import p_uniform
    from workbench.figures.gates import recovery as recovery_figure

    parts = [
        pd.DataFrame({"kind": f"{gate}, {kind}", "p": part[column]})
        for gate, column in SHOWN.items()
        for kind, part in null.groupby("kind", sort=False)
    ]
    for name, figure in (("recovery", recovery_figure(found)), ("p_uniform", p_uniform(pd.concat(parts)))):
        write_text(out / "figures" / f"{name}.html", figure.to_html(include_plotlyjs=True))


PAGE = """# The planted world: what the instruments find where the truth is known

Everything on this page is planted. `workbench.planted` draws cells whose gene programs follow the hematopoiesis graph (six branches,
one program each, fading with every step away from the branch's tip), with donors, tissues, batches, dropout, and twelve sets of
nuisance genes by which cell types can be told apart just as well; and a checkpoint in which one head encodes how near branches are on
the graph, among random heads of the same norms that read everything. The command, which goes on where it was stopped:

    {command}

## Recovery

{n_seeds} worlds (seeds {first} to {last}; smaller seeds were used to make the world), {n_heads} heads, {n_anchors} anchors from {n_cells}
cells of three donors; heads are ranked on three other donors. Truth: dimension {truth}. Everything below is about the head that the screen
puts first. Mean and sd over seeds; gates of spec {spec}.

{recovery}

{missed}

The dimension is the rank of the planted matrix, not of the cells: it comes out alike where the signal is removed from the cells or every gene is
shuffled over them ([calibration of dimension](calibration_dimension.md)). So "within 1 in 60 of 60" says that the estimators read that rank, and no more.

The overlap of `qk` and `ov` has a closed form and is 1 if the right head is chosen; for `attention` it is estimated from patterns, and
the row-stochastic operator is dominated by one uniform direction, which costs the adaptor some of the signal. That the planted head is
found among heads does not mean that it beats plain expression: the row "above identity" says how often it does. The gates alone are no
evidence for a head: plain expression and random heads hold the graph as well and pass many of them. What tells the planted head from
these is the screen.

## Null

{n_draws} draws, the planted head through the gates all the same. Shuffled ruler: cells as planted, the ruler's stages changed places.
Rewired ruler: a random graph of the same degrees. Signal removed: the state of a cell has nothing to do with its label. {passed} of
{n_draws} pass all seven gates.

{nulls}

{gates}

Gate 5 permutes labels over anchors, so its p has to be uniform only where anchors do not know their labels (signal removed). Under a
null ruler the latent still recognises cell types: the adaptor learns the wrong places of the stages it was shown, finds the same stages
there in other donors, and permuted labels do worse. Gate 5 then passes more often than its p says, whatever the ruler; this is why it
is not evidence for a graph, and why gate 6 exchanges whole stages and fits again. Gate 6's own null is that of a shuffled ruler and of
removed signal: there its p has to be uniform. A rewired graph keeps some of the real one (leaves stay leaves: rank correlation with the
real distances 0.13, sd 0.06, 30 rewirings), so there it need not be. {uneven}
"""


if __name__ == "__main__":
    main()
