"""`workbench run` on atlases of two sizes, without a pass: a random checkpoint of the released size, cells on the disk that were never measured.

    python experiments/atlas_run.py --cells 10000 100000

Operators are of the weights (`qk`, no embedding), so that what is measured is what the stages do with cells: reading, placing them, fits and
readouts of heads, controls and baselines, export. Counts lie sparse in a backed file of 20,000 genes. Printed are seconds, processor time and peak
memory of each stage, then what the bounds are about: the largest peak beyond the operators' own arrays (heads x panel x panel x 4 bytes), minutes of the
run, and seconds a cell of the larger size over those of the smaller. Ends with 1 where a bound is missed. It says nothing about biology.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rehearsal_watch import Watched, watch
from rehearsal_world import Shape, write_atlas, write_checkpoint

HERE = Path(__file__).resolve().parent
GENES, PANEL = 20_000, 1_200
# An anchor has one in so many of the cells, so that there are about as many anchors at either size: fits take their number squared.
ANCHOR = 2_000
# Peak beyond the operators, minutes, and time a cell of the larger size over that of the smaller.
MEMORY, MINUTES, RATIO = 4 * 2**30, 45.0, 1.1
# The main job with fewer repeats; fits to random cells do not come to an optimum, so they are cut short.
SETS = (
    *(
        "data.backed=true",
        "data.layer=raw",
        "data.values=counts",
        "data.gene_column=feature_name",
        "data.cell_type=cell_type",
    ),
    *("data.donor=donor_id", "data.tissue=tissue", "operator=qk", "embedding=false", "anchors.parts=1"),
    *("evaluation.holdouts=1", "evaluation.permutations=20", "evaluation.refits=4", "evaluation.head_refits=1"),
    *("evaluation.control_draws=2", "adaptor.steps=200"),
)
SMALL = (Shape(3, 2, 32, 2_000, 200), 150, ("adaptor.k=4", "adaptor.steps=50", "anchors.min_cells=1"))


def run(out: Path, cells: int, seed: int, small: bool = False) -> dict[str, Any]:
    """Write checkpoint and atlas, run, and say what each stage cost.

    Parameters
    ----------
    out
        Folder; checkpoint and atlas in it stay, and a run that was ended goes on.
    cells
        Cells of the atlas.
    seed
        Seed of weights and cells.
    small
        Whether checkpoint and panel are tiny, for tests.
    """
    shape, panel, more = SMALL if small else (Shape(), PANEL, ())
    checkpoint = write_checkpoint(out / "checkpoint", seed, shape)
    atlas = write_atlas(out / f"atlas-{cells}.h5ad", seed, cells, shape.n_genes if small else GENES)
    given = (f"checkpoint={checkpoint}", f"data.name={atlas}", f"panel.size={panel}", f"seed={seed}", *SETS)
    given += (f"anchors.min_cells={max(5, cells // ANCHOR)}", *more)
    words = (sys.executable, "-m", "workbench.cli", "run", str(HERE / "demo.yaml"), "--out", str(out / f"run-{cells}"))
    words += tuple(word for one in given for word in ("--set", one))
    journal = out / f"cost-{cells}.json"
    known = Watched.of(json.loads(journal.read_text())) if journal.is_file() else Watched()
    if not known.done and watch(words, known, lambda: journal.write_text(json.dumps(known.told()))):
        raise SystemExit(
            f"The run of {cells:,} cells failed; the same command goes on from here.\n{known.said[-2000:]}"
        )
    operators = shape.n_layers * shape.n_heads * panel**2 * 4
    stages = {name: (one.seconds, one.processor, one.peak) for name, one in known.stages.items()}
    seconds, processor = (sum(one[i] for one in stages.values()) for i in (0, 1))
    beyond = max(one[2] for one in stages.values()) - operators
    about = {"cells": cells, "seconds": seconds, "processor": processor, "operators": operators, "beyond": beyond}
    return {**about, "stages": stages}


def report(found: list[dict[str, Any]]) -> tuple[str, bool]:
    """Tables of the stages and the bounds.

    Parameters
    ----------
    found
        What `run` gave, by rising number of cells.

    Returns
    -------
    text, met
        Whether the bounds hold, which are those of the largest number of cells.
    """
    lines = []
    for one in found:
        lines += ["", f"| {one['cells']:,} cells: stage | seconds | processor s | ms a cell | peak, GiB |"]
        lines.append("|---|---|---|---|---|")
        whole = ("in all", (one["seconds"], one["processor"], max(peak for *_, peak in one["stages"].values())))
        for name, (seconds, processor, peak) in [*one["stages"].items(), whole]:
            each = 1e3 * processor / one["cells"]
            lines.append(f"| {name} | {seconds:.1f} | {processor:.1f} | {each:.2f} | {peak / 2**30:.2f} |")
    last, first = found[-1], found[0]
    ratio = (last["processor"] / last["cells"]) / (first["processor"] / first["cells"])
    bounds = (
        ("peak beyond the operators, GiB", last["beyond"] / 2**30, MEMORY / 2**30),
        ("minutes", last["seconds"] / 60, MINUTES),
        (f"processor time a cell over that of {first['cells']:,} cells", ratio, RATIO),
    )
    lines += ["", f"| {last['cells']:,} cells | found | at most |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2f} | {most:g} |" for name, value, most in bounds]
    return "\n".join(lines), all(value <= most for _, value, most in bounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000], help="sizes (10000 100000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and cells (0)")
    parser.add_argument("--out", type=Path, default=Path("artifacts/atlas_run"), help="folder (artifacts/atlas_run)")
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # The package is found in the working folder, as it is by this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    sizes = sorted(set(options.cells))
    text, met = report([run(options.out.absolute(), n, options.seed, options.small) for n in sizes])
    print(text)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
