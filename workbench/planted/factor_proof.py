"""Are planted factors and their programs found again, and do the controls lose: one task per world, for the sweep engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from workbench.evidence.screen import score_head
from workbench.factors.factorise import svd_factors
from workbench.factors.gene_sets import GeneSets
from workbench.factors.programs import enrich
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import CONTROLS, IDENTITY, control
from workbench.planted.cells import World, make_world, planted_cells
from workbench.planted.checkpoint import PlantedModel, plant_world
from workbench.planted.proof import EXTERNAL, INTERNAL, operators_of, placed_cells

PLANTED = "the planted head"
ANOTHER = "another head of the same norms"
FOUND = 0.9
_ALPHA = 0.05


def planted_sets(world: World) -> GeneSets:
    """Gene sets of a world: its programs, and as decoys its nuisance sets and as many sets of background genes.

    Parameters
    ----------
    world
        World from `make_world`, whose genes the sets are made of.

    Returns
    -------
    GeneSets
        Terms ``program NAME``, ``nuisance 00`` and ``background 00``.
    """
    genes, shape = np.array(world.genes), world.shape
    sets = {f"program {name}": tuple(genes[world.program == i]) for i, name in enumerate(shape.branches)}
    sets |= {f"nuisance {i:02d}": tuple(genes[world.nuisance == i]) for i in range(shape.n_nuisance)}
    rest = genes[(world.program < 0) & (world.nuisance < 0)]
    size = shape.genes_per_nuisance
    sets |= {f"background {i:02d}": tuple(rest[i * size : (i + 1) * size]) for i in range(len(rest) // size)}
    return GeneSets(world.name, sets, dict.fromkeys(sets, "planted"))


def planted_factors(planted: PlantedModel) -> Float[np.ndarray, "gene program"]:
    """Read loadings of the planted operator's factors, in closed form, strongest first.

    The operator is proportional to P M P^T, with P the programs' genes (0 or 1) and M the nearness of branches; it is
    centred like the operators that are judged.

    Parameters
    ----------
    planted
        Planted checkpoint with the world that it encodes; its weights are not looked at.
    """
    world = planted.world
    return np.linalg.svd(centred(world.members @ world.nearness @ world.members.T))[0][:, : len(world.tips)]


def centred(matrix: Float[np.ndarray, "gene gene"]) -> Float[np.ndarray, "gene gene"]:
    """An operator without what all genes share, which tells no gene from another: in attention it is the first factor.

    Parameters
    ----------
    matrix
        Operator, rows read; the mean of each column is taken off.
    """
    return np.asarray(matrix, dtype=np.float64) - matrix.mean(0)


def factor_recovery(seed: int, kind: str) -> pd.DataFrame:
    """One world: factors of the planted head and of controls beside what was planted.

    Parameters
    ----------
    seed
        Seed of both the world and the checkpoint.
    kind
        Kind of operator: ``attention``, ``qk`` or ``ov``.

    Returns
    -------
    DataFrame
        One row per ``feature_map`` (the planted head, another head, every control), of as many factors as were planted:
        ``factors_found`` of ``n_programs`` (at least 0.9 of the length of the planted loading lies in the span of the found
        ones: factors of nearly equal strength rotate into each other), ``matched`` (one to one, |cosine| at least 0.9),
        ``programs_found`` (an enriched program, q at most 0.05, in any factor), ``decoys_found`` of ``n_decoys``, and
        ``residualised`` (the screen's correlation on donors that the adaptor was not fitted on).
    """
    world = make_world(seed)
    planted, adaptor = plant_world(world, seed), LETAdaptor()
    fitted, judged = planted_cells(world, INTERNAL), planted_cells(world, EXTERNAL)
    operators = operators_of(planted, fitted, kind)
    own = operators[planted.layer, planted.head]
    other = operators[(planted.layer + 1) % len(operators), planted.head]
    internal, external = placed_cells(world, fitted), placed_cells(world, judged)
    maps = {PLANTED: own, ANOTHER: other}
    maps |= {name: control(name, own, internal.expression, seed) for name in CONTROLS}
    truth, sets = planted_factors(planted), planted_sets(world)
    rows = []
    for name, matrix in maps.items():
        found = score_head(matrix, internal, external, world.ruler, adaptor, refits=0, seed=seed)[0]
        row = {"seed": seed, "operator": kind, "feature_map": name, "residualised": found["residualised"]}
        # The identity has no factors: every direction is as strong as every other.
        rows.append(
            {**row, **({} if name == IDENTITY else _factors(world, matrix, truth, sets, internal.expression, seed))}
        )
    return pd.DataFrame(rows)


def _factors(
    world: World, matrix: np.ndarray, truth: np.ndarray, sets: GeneSets, expression: sp.csr_matrix, seed: int
) -> dict[str, Any]:
    n = truth.shape[1]
    plain = centred(matrix)
    rank = int(np.linalg.matrix_rank(plain, tol=1e-5 * np.linalg.norm(plain, 2)))
    factors = svd_factors(plain, world.genes, min(n, rank))
    cosine = np.abs(truth.T @ factors.read)
    at, match = linear_sum_assignment(-cosine)
    found = enrich(factors.sides, world.genes, sets, expression, n_top=30, draws=5000, seed=seed)
    hits = set(found.table.loc[found.table["q"] <= _ALPHA, "term"])
    decoys = [term for term in sets.sets if not term.startswith("program")]
    return {
        "n_programs": n,
        "factors_found": int((np.linalg.norm(cosine, axis=1) >= FOUND).sum()),
        "matched": int((cosine[at, match] >= FOUND).sum()),
        "programs_found": sum(term.startswith("program") for term in hits),
        "decoys_found": sum(term in hits for term in decoys),
        "n_decoys": len(decoys),
    }
