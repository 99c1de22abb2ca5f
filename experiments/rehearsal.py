"""A dress rehearsal of the paper's run at the real size, on random weights and random cells. It says nothing of biology.

    python experiments/rehearsal.py --cells 40 --docs docs/at_scale.md

Writes a checkpoint in the layout of the release and atlases in the schema of Tabula Sapiens, and does on them what a user would do
with the real ones, each command in a process of its own: `workbench inspect`, `known-answers`, the steps of experiments/paper.yaml with
fewer repeats, the convention `paper`, `apply`, `clean`. Stages with a pass through the model are run on `--cells`; all others on
more cells as well, with operators of the weights (`qk`), which need no pass. Printed are seconds, processor time, peak memory and disk of each
stage, then what the paper's 564,253 cells would take on this machine, which is computed and was never measured. A rehearsal that was
killed goes on: the same command on the same folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rehearsal_table import MORE, page
from rehearsal_watch import Watched, watch
from rehearsal_world import Shape, write_atlas, write_checkpoint

from workbench.engine.folder import hold
from workbench.errors import OutputError, WorkbenchError
from workbench.files import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
PAPER, JOURNAL = HERE / "paper.yaml", "rehearsal.json"
# Fewer repeats and groups than the paper's, and an anchor of each single cell, for there are few cells. Fits to random cells do not come to
# an optimum, so they are cut short.
FEW = (
    *("anchors.min_cells=1", "capture.groups=5", "evaluation.folds=5", "evaluation.holdouts=1"),
    *("evaluation.permutations=20", "evaluation.refits=4", "evaluation.head_refits=1", "evaluation.control_draws=2"),
    *("gates.refits=2", "sensitivity.ks=[3,10]", "sensitivity.alphas=[0.1]", "sensitivity.betas=[0.3183]"),
    # Few cells and random weights: their mean attention has not always a rank of 64.
    *("compaction.splits=1", "factors.n=32", "factors.splits=1", "factors.null_draws=20", "factors.bootstraps=5"),
    *("factors.program_draws=300", "cell_heads.epochs=10", "adaptor.steps=200"),
)
# Heads that are trained on cells need more of them than are passed through the model here.
FEW_CELLS = ("cell_heads=null",)
# A checkpoint and a panel that tests have time for, without gates, which would take most of it.
SMALL, SMALL_SETS = (
    Shape(3, 2, 32, 8_000, 200),
    ("panel.size=300", "factors.n=8", "compaction.ranks=[8]", "adaptor.k=4", "adaptor.steps=50", "gates=null"),
)
# Neither a pass through the model nor an embedding of the cells.
NO_PASS = ("operator=qk", "embedding=false", "anchors.min_cells=3")
CONVENTION = ("capture.convention=paper", "sensitivity=null", "gates=null", "cell_heads=null", "expected=null")
COLUMNS = ("--layer", "raw", "--gene-column", "feature_name")
NOT_THE_RELEASE = "not the release"
# Seconds of a step, and of it for each cell, on two busy cores: for the time left, which is scaled by what was seen so far.
USUAL = {
    **{"checkpoint": (10, 0), "atlas": (5, 0.01), "inspect": (6, 0), "known-answers": (20, 2), "dry-run": (30, 0)},
    **{"extract": (300, 8), "factors": (60, 1), "convention": (250, 6), "apply": (10, 0.01), "clean": (5, 0)},
    "without a pass": (120, 0.5),
}


@dataclass(frozen=True)
class Step:
    """A command of the rehearsal.

    Attributes
    ----------
    name, cells
        Its name in the table, one of `USUAL`, and the cells that it works on; 0 where it reads none.
    words
        The command.
    left
        File or folder that it leaves, for its size on the disk; None where it leaves nothing.
    says
        What it has to say, or the rehearsal fails.
    """

    name: str
    cells: int
    words: tuple[str, ...]
    left: Path | None = None
    says: str = ""

    @property
    def key(self) -> str:
        """Its name in the journal."""
        return f"{self.name}, {self.cells}"

    @property
    def usual(self) -> float:
        """Seconds that it takes on two busy cores."""
        fixed, each = USUAL[self.name]
        return fixed + each * self.cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=40, help="cells that are passed through the model (40)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda:1 or mps, as the commands take it (cpu)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and cells (0)")
    parser.add_argument("--out", type=Path, default=Path("artifacts/rehearsal"), help="folder (artifacts/rehearsal)")
    parser.add_argument("--docs", type=Path, help="write the tables there, as a page of the documentation")
    parser.add_argument("--so-far", action="store_true", help="do nothing, and tell what was done so far")
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        return write(options)
    if options.cells < 40:
        parser.error(f"--cells is {options.cells}; folds and holdouts need 40 or more.")
    try:
        with hold(options.out):
            return rehearse(options)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def write(options: argparse.Namespace) -> int:
    """Write what a step asks for: the checkpoint, or an atlas.

    Parameters
    ----------
    options
        Arguments; ``write`` is where it goes.
    """
    size = SMALL if options.small else Shape()
    if options.write.suffix == ".h5ad":
        write_atlas(options.write, options.seed, options.cells, size.n_genes)
    else:
        write_checkpoint(options.write, options.seed, size)
    return 0


def steps(out: Path, n: int, device: str, seed: int, small: bool = False) -> list[Step]:
    """All steps, in the order of an evening.

    Parameters
    ----------
    out
        Folder of the rehearsal.
    n
        Cells that are passed through the model.
    device
        Device as the commands take it.
    seed
        Seed of weights and cells.
    small
        Whether it is all tiny, for tests.
    """
    run = (sys.executable, "-m", "workbench.cli")
    itself = (sys.executable, str(HERE / "rehearsal.py"), "--seed", str(seed), *(["--small"] if small else []))
    checkpoint, on = out / "checkpoint", ("--device", device)
    atlas = {size: out / f"atlas-{size}.h5ad" for size in (n, *(n * times for times in MORE))}

    def configured(name: str, command: str, cells: int, where: str, sets: tuple[str, ...] = (), *more: str) -> Step:
        given = [*FEW, *(SMALL_SETS if small else ()), f"checkpoint={checkpoint}", f"data.name={atlas[cells]}", *sets]
        words = (*run, command, str(PAPER), "--out", str(out / where), *on, *more)
        return Step(name, cells, (*words, *(word for one in given for word in ("--set", one))), out / where)

    def applied(cells: int, where: str) -> Step:
        file, algorithm = out / f"labels-{cells}.h5ad", out / where / "algorithm"
        return Step(
            "apply", cells, (*run, "apply", str(algorithm), str(atlas[cells]), *COLUMNS, "--out", str(file)), file
        )

    answers = (*run, "known-answers", str(checkpoint), "--cells", str(atlas[n]), *COLUMNS, *on)
    found = [
        Step("checkpoint", 0, (*itself, "--write", str(checkpoint)), checkpoint),
        *(Step("atlas", size, (*itself, "--cells", str(size), "--write", str(path)), path) for size, path in atlas.items()),
        Step("inspect", 0, (*run, "inspect", str(checkpoint))),
        Step("known-answers", n, answers, says=NOT_THE_RELEASE),
        configured("dry-run", "run", n, "run", FEW_CELLS, "--dry-run"),
        configured("extract", "extract", n, "run", FEW_CELLS),
        configured("factors", "factors", n, "run", FEW_CELLS),
        applied(n, "run"),
        Step("clean", n, (*run, "clean", str(out / "run"), "--stages")),
        configured("convention", "extract", n, "convention", CONVENTION),
    ]  # fmt: skip
    for size in (n * times for times in MORE):
        found += [configured("without a pass", "run", size, f"run-{size}", NO_PASS), applied(size, f"run-{size}")]
    return found


def rehearse(options: argparse.Namespace) -> int:
    """Do the steps that are not done yet, and print the tables.

    Parameters
    ----------
    options
        Arguments of the command line.

    Returns
    -------
    int
        0; or 1 where a step failed or did not say what it has to.
    """
    out, asked = options.out, {name: getattr(options, name) for name in ("cells", "device", "seed", "small")}
    asked["few"] = list(FEW)
    journal = read_json(out / JOURNAL) if (out / JOURNAL).is_file() else {"asked": asked, "steps": {}}
    if journal["asked"] != asked and not options.so_far:
        raise OutputError(
            f"'{out}' holds a rehearsal of {journal['asked']}, and {asked} is asked; choose another --out."
        )
    if options.so_far or journal.get("ended"):
        tell(journal, options)
        return 0
    every = steps(out.absolute(), options.cells, options.device, options.seed, options.small)
    # The package is found in the working folder, as it is by this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    for number, step in enumerate(every, 1):
        known = Watched.of(journal["steps"].get(step.key, {"stages": {}}))
        if known.done:
            continue
        print(f"\n[rehearsal] step {number} of {len(every)}: {step.name}, {step.cells:,} cells; {left(every, journal)}", file=sys.stderr)  # fmt: skip

        def save(key: str = step.key, known: Watched = known) -> None:
            journal["steps"][key] = known.told()
            write_json(out / JOURNAL, journal)

        status = watch(step.words, known, save, options.device != "cpu")
        if status or step.says not in known.said:
            print(known.said[-2000:], file=sys.stderr)
            why = f"ended with {status}" if status else f"did not say '{step.says}'"
            print(f"[rehearsal] {step.name} {why}; the same command goes on from here.", file=sys.stderr)
            return 1
        journal["steps"][step.key] |= found(step, known)
        write_json(out / JOURNAL, journal)
    journal |= {"machine": machine(options.device), "ended": True}
    write_json(out / JOURNAL, journal)
    tell(journal, options)
    return 0


def tell(journal: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the page of what was done so far, or write it.

    Parameters
    ----------
    journal
        What is known of the steps.
    options
        Arguments of the command line.
    """
    about = {"machine": machine(options.device), "ended": False}
    text = page({**about, **journal}, PAPER)
    print(write_text(options.docs, text) if options.docs else text)


def found(step: Step, known: Watched) -> dict[str, Any]:
    """What a finished step left: bytes on the disk, of each stage and in all; how many anchors there were.

    Parameters
    ----------
    step, known
        The step, and what it cost.
    """
    if step.left is None or not step.left.exists():
        return {}
    disk = {name: size(step.left / "stages" / name) for name in known.stages if (step.left / "stages" / name).is_dir()}
    file = step.left / "metrics.json"
    about = read_json(file)["stages"] if file.is_file() else {}
    return {"disk": {**disk, "": size(step.left)}, "anchors": about.get("heads", {}).get("n_anchors")}


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder.

    Parameters
    ----------
    path
        File or folder.
    """
    return (
        path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    )


def left(every: Sequence[Step], journal: dict[str, Any]) -> str:
    """The time left in words, by what the steps so far took beside what they usually take.

    Parameters
    ----------
    every, journal
        All steps, and what is known of those that were done.
    """
    told = {step.key: journal["steps"].get(step.key) for step in every}
    done = [step for step in every if (one := told[step.key]) and one["done"]]
    taken = sum(Watched.of(told[step.key]).seconds for step in done)
    pace = taken / sum(step.usual for step in done) if done else 1.0
    minutes = pace * sum(step.usual for step in every if step not in done) / 60
    return f"about {max(1, round(minutes))} min left"


def machine(device: str) -> dict[str, Any]:
    """Where and when the rehearsal was run.

    Parameters
    ----------
    device
        What was asked for.
    """
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} on {platform.machine()}",
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    raise SystemExit(main())
