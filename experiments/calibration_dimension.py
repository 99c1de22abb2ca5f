"""How far estimators of intrinsic dimension are from the truth, and what their intervals hold.

    python experiments/calibration_dimension.py --docs docs/calibration_dimension.md

Points on shapes of known dimension; each cloud is judged by `dimension_table` as a gate run does it. And features of the planted
head of planted worlds, on cells with the signal and without, to see whose dimension it is. Four minutes on one core for 100
clouds of each shape and 10 worlds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.geometry.dimension_tables import agreement, dimension_table
from workbench.planted.cells import REMOVED, make_world, planted_cells
from workbench.planted.checkpoint import plant_world
from workbench.planted.proof import INTERNAL, operators_of, placed_cells
from workbench.seeds import generator

WIDTH = 20


def gaussian(d: int, noise: float = 0.0) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Maker of Gaussian points of d dimensions in 20, with noise in all of them.

    Parameters
    ----------
    d
        True dimension, at most 20.
    noise
        Standard deviation of the noise, where that of the points is 1.
    """

    def make(rng: np.random.Generator, n: int) -> np.ndarray:
        x = np.zeros((n, WIDTH))
        x[:, :d] = rng.normal(size=(n, d))
        return x + noise * rng.normal(size=x.shape)

    return make


def sphere(rng: np.random.Generator, n: int) -> np.ndarray:
    """Uniform points on a sphere of 5 dimensions in 6.

    Parameters
    ----------
    rng, n
        Random numbers, and how many points are drawn.
    """
    x = rng.normal(size=(n, 6))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def roll(rng: np.random.Generator, n: int) -> np.ndarray:
    """A Swiss roll: a plane that is rolled up in 3 dimensions.

    Parameters
    ----------
    rng, n
        Random numbers, and how many points are drawn.
    """
    angle = 1.5 * np.pi * (1 + 2 * rng.random(n))
    return np.column_stack([angle * np.cos(angle), 21 * rng.random(n), angle * np.sin(angle)])


# Name, true dimension, and the maker of points.
SHAPES: tuple[tuple[str, int, Callable[[np.random.Generator, int], np.ndarray]], ...] = (
    ("Gaussian", 2, gaussian(2)),
    ("Gaussian", 5, gaussian(5)),
    ("Gaussian", 10, gaussian(10)),
    ("Gaussian with noise", 5, gaussian(5, 0.1)),
    ("sphere", 5, sphere),
    ("Swiss roll", 2, roll),
)


def table(rows: pd.DataFrame) -> str:
    """Markdown of estimates and coverages.

    Parameters
    ----------
    rows
        Rows of `dimension_table` with ``shape`` and ``truth``, of all clouds.
    """
    lines = [
        "| shape | truth | estimator | mean (sd) | interval holds the truth | holds the estimator's own mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (shape, truth, name), part in rows.groupby(["shape", "truth", "estimator"], sort=False):
        mean = part["dimension"].mean()
        held = [((part["low"] <= value) & (value <= part["high"])).mean() for value in (truth, mean)]
        spread = f"{mean:.2f} ({part['dimension'].std():.2f})"
        lines.append(f"| {shape} | {truth} | {name} | {spread} | {held[0]:.0%} | {held[1]:.0%} |")
    return "\n".join(lines)


def head_dimensions(seed: int) -> pd.DataFrame:
    """Median estimate over estimators for features of the planted head and of another, on cells with and without structure.

    Parameters
    ----------
    seed
        Seed of the world, of its checkpoint, and of what is shuffled.
    """
    world = make_world(seed)
    planted = plant_world(world, seed)
    cells = planted_cells(world, INTERNAL)
    operators = operators_of(planted, cells, "qk")
    at = (planted.layer, planted.head)
    other = next(place for place in np.ndindex(*operators.shape[:2]) if place != at)
    x = placed_cells(world, cells).expression.toarray()
    removed = placed_cells(world, planted_cells(world, INTERNAL, signal=REMOVED)).expression.toarray()
    shuffled = generator(seed, "genes over cells").permuted(x, axis=0)
    found = {
        "planted head": x @ operators[at],
        "planted head, signal removed from the cells": removed @ operators[at],
        "planted head, every gene shuffled over the cells": shuffled @ operators[at],
        "another head": x @ operators[other],
    }
    tables = {name: dimension_table(y.astype(np.float64), n_subsamples=0, seed=seed) for name, y in found.items()}
    return pd.DataFrame([{"features": name, "dimension": agreement(one)["median"]} for name, one in tables.items()])


def main() -> None:
    """Simulate, print, and write between the page's markers where one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clouds", type=int, default=100)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    found = []
    with tqdm(total=len(SHAPES) * args.clouds, unit="cloud") as bar:
        for shape, truth, make in SHAPES:
            for seed in range(args.clouds):
                x = make(generator(seed, "calibration of dimension", f"{shape} {truth}"), args.points)
                found.append(dimension_table(x, seed=seed).assign(shape=shape, truth=truth))
                bar.update()
    made = table(pd.concat(found))
    heads = pd.concat([head_dimensions(seed) for seed in tqdm(range(args.worlds), unit="world")])
    lines = ["| features | median of five estimators, mean over worlds (sd) |", "| --- | --- |"]
    for name, part in heads.groupby("features", sort=False):
        lines.append(f"| {name} | {part['dimension'].mean():.2f} ({part['dimension'].std():.2f}) |")
    made += "\n\n" + "\n".join(lines)
    print(made)
    if args.docs:
        text = args.docs.read_text(encoding="utf-8")
        before, after = text.split("<!-- table -->")[0], text.split("<!-- end -->")[1]
        args.docs.write_text(f"{before}<!-- table -->\n{made}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
