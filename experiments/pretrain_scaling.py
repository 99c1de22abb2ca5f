"""How the masked-value error of `workbench pretrain` on held-out cells falls with the cells that it is trained on, and with the steps.

    python experiments/pretrain_scaling.py experiments/pretrain_blood_studies.yaml --docs docs/pretraining.md
        --set data.name=KANG.h5ad --set studies.combat.name=COMBAT.h5ad --out artifacts/pretrain_scaling

Every training has the settings of the configuration but for its cells and steps; the learning rate falls to its end in each. Shares of the
cells are nested, drawn by the seed, and nobody who is held out is ever among them. Errors are squared bins of the same cells and masks for
all. Killed, it goes on in the middle of a training. Twenty-two minutes of the processor with the shares and steps that are the default.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.engine.config import read_config
from workbench.engine.folder import hold
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_text
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.pretraining import train, validate
from workbench.models.scgpt.pretraining_data import TrainingData
from workbench.pretrain_settings import PretrainSettings
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.pretrain.context import PretrainContext
from workbench.seeds import generator

SHARES, STEPS = (0.1, 0.3, 1.0), (250, 1000)
START, END = "<!-- the table of experiments/pretrain_scaling.py -->", "<!-- its end -->"


def fewer(data: TrainingData, share: float, seed: int) -> TrainingData:
    """The same cells, but a share of those that are trained on; smaller shares lie in larger ones.

    Parameters
    ----------
    data
        Cells as `workbench pretrain` has them.
    share
        Share of the cells that stay, above 0 and up to 1.
    seed
        Seed of the draw.
    """
    kept = generator(seed, "share of the cells").permutation(data.train)[: max(1, round(share * len(data.train)))]
    return replace(data, train=np.sort(kept))


def errors(data: TrainingData, settings: PretrainSettings, share: float, steps: int, state: Path) -> pd.DataFrame:
    """Train, and judge on each group that is held out: a row for each.

    Parameters
    ----------
    data, settings
        All cells, and how to train on them.
    share, steps
        Share of the cells to train on, and length of the training.
    state
        Folder from which an interrupted training goes on.
    """
    few, asked = (
        fewer(data, share, settings.seed),
        settings.model_copy(update={"steps": steps, "validate_every": steps}),
    )
    began = time.process_time()
    with tqdm(total=steps, unit="step", desc=f"{len(few.train):,} cells", leave=False) as bar:
        model, _ = train(few, asked, state, lambda step, _: bar.update(step - bar.n))
    spent = time.process_time() - began
    return judged(model, data, settings).assign(cells=len(few.train), steps=steps, seconds=spent)


def judged(model: HookedScGPT, data: TrainingData, settings: PretrainSettings) -> pd.DataFrame:
    """Errors of both decoders on each group that is held out.

    Parameters
    ----------
    model
        Trained model, on the processor.
    data, settings
        As in `errors`.
    """
    rows = []
    for group, held_out in data.held_out_groups.items():
        expression, mvc = validate(model, replace(data, held_out=held_out), settings)
        rows.append({"group": group, "expression": expression, "mvc": mvc})
    return pd.DataFrame(rows)


def page(rows: pd.DataFrame) -> str:
    """A line for each training, errors of both decoders by group.

    Parameters
    ----------
    rows
        As `errors` gives them, of all trainings.
    """
    groups = list(dict.fromkeys(rows["group"]))
    lines = [
        f"| cells trained on | steps | processor s | {' | '.join(groups)} |",
        "|---|---|---|" + "---|" * len(groups),
    ]
    for (cells, steps), own in rows.groupby(["cells", "steps"]):
        by = own.set_index("group")
        cell = [f"{by.loc[group, 'expression']:.1f}, {by.loc[group, 'mvc']:.1f}" for group in groups]
        spent = own["seconds"].iloc[0]
        lines.append(f"| {cells:,} | {steps:,} | {'' if np.isnan(spent) else f'{spent:,.0f}'} | {' | '.join(cell)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print or write the table.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("artifacts/pretrain_scaling"))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="shares of the cells to train on")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="lengths of trainings")
    parser.add_argument(
        "--also", type=Path, help="a checkpoint that was trained with this configuration, for the last line"
    )
    parser.add_argument("--docs", type=Path, help="page that gets the table between its two comments")
    given = parser.parse_args(argv)
    try:
        config = read_config(given.config, PretrainConfig, given.sets)
        with hold(given.out):
            context = PretrainContext(config, given.out)
            data, settings = context.data, config.settings
            tasks = [Task(f"{share} {steps}", (share, steps)) for steps in given.steps for share in given.shares]
            identity = {"settings": settings.model_dump(mode="json"), "data": data.fingerprint()}
            rows = run_sweep(
                given.out,
                identity,
                tasks,
                lambda share, steps: errors(data, settings, share, steps, given.out / f"{share}-{steps}"),
            )
            if given.also:
                said = read_json(given.also / "training.json")
                whole = judged(load_checkpoint(given.also), data, settings)
                whole = whole.assign(cells=said["n_train"], steps=said["settings"]["steps"], seconds=float("nan"))
                rows = pd.concat([rows, whole], ignore_index=True)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    table = page(rows)
    if given.docs:
        text = given.docs.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        write_text(given.docs, f"{before}{START}\n\n{table}\n\n{END}{after}")
    else:
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
