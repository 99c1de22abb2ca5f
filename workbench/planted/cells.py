"""Planted cells: counts in which programs follow a stage graph, among donors, tissues, batches and much that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int

from workbench.errors import EvaluationError
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.geometry.trajectories import lineage
from workbench.seeds import generator

Signal = Literal["graph", "off graph", "removed"]
GRAPH: Signal = "graph"
OFF_GRAPH: Signal = "off graph"
REMOVED: Signal = "removed"


@dataclass(frozen=True)
class WorldShape:
    """How large a world is, and how strong what is in it.

    Attributes
    ----------
    branches
        One program each: these are the dimensions of the planted manifold.
    stages_per_branch
        At most so many stages of each branch, and of each branch that they come from.
    genes_per_program, n_nuisance, genes_per_nuisance, n_background
        Genes of each program; sets of genes that vary together, half of them up when the others go down, and have
        nothing to do with the graph; genes that go their own ways.
    cells_per_group
        Cells of each donor x tissue x stage.
    signal
        Log-fold change of a program's genes from no to full activity.
    spread
        Standard deviation of a cell's activity around its stage's, in every program alike: so the cloud fills as many
        dimensions as there are programs.
    nuisance, stage_nuisance, donor_nuisance
        Log-fold change per unit of a nuisance level; standard deviations of these levels over stages, and over donors,
        tissues and cells. Stages are recognisable by nuisance as well.
    batch
        Standard deviation of a log effect per gene and donor x tissue.
    dispersion
        Shape of the gamma whose Poisson draws are the counts: the negative binomial's variance is mean + mean^2 /
        dispersion.
    dropout
        Share of counts that are lost afterwards, from 0 to 1.
    depth
        Counts of a cell before that, in the middle; the logarithm varies by 0.3 (sd).
    """

    branches: tuple[str, ...] = ("erythroid", "megakaryocyte", "granulocyte", "monocyte", "B", "T")
    stages_per_branch: int = 6
    genes_per_program: int = 12
    n_nuisance: int = 12
    genes_per_nuisance: int = 8
    n_background: int = 40
    cells_per_group: int = 6
    signal: float = 1.5
    spread: float = 0.25
    nuisance: float = 0.8
    stage_nuisance: float = 0.7
    donor_nuisance: float = 1.0
    batch: float = 0.2
    dispersion: float = 4.0
    dropout: float = 0.1
    depth: float = 1500.0


@dataclass(frozen=True)
class World:
    """What was planted.

    Attributes
    ----------
    seed, shape, ruler
        Seed, sizes and stage graph that it was made from.
    stages
        Stage numbers of the ruler that occur.
    tips
        Deepest stage of each branch, where its program is fully active.
    activity
        Activity of each program in each stage: 1 minus the ruler distance to the tip, in units of the largest among the
        stages.
    genes
        Names that say what a gene is: ``PLANTED-ERYTHROID-00``, ``NUISANCE-00-00``, ``BACKGROUND-000``.
    program, nuisance
        Number of each gene's program or nuisance set, -1 where it has none.
    sign
        1, or -1 for the genes of a nuisance set that go down.
    base
        Log expression of each gene without any effect.
    """

    seed: int
    shape: WorldShape
    ruler: Ruler
    stages: Int[np.ndarray, " stage"]
    tips: Int[np.ndarray, " program"]
    activity: Float[np.ndarray, "stage program"]
    genes: tuple[str, ...]
    program: Int[np.ndarray, " gene"]
    nuisance: Int[np.ndarray, " gene"]
    sign: Int[np.ndarray, " gene"]
    base: Float[np.ndarray, " gene"]

    @property
    def name(self) -> str:
        """For captions."""
        return f"planted world, seed {self.seed}"

    @property
    def members(self) -> Float[np.ndarray, "gene program"]:
        """1 where a gene is of a program, otherwise 0."""
        return (self.program[:, None] == np.arange(len(self.tips))).astype(float)

    @property
    def nearness(self) -> Float[np.ndarray, "program program"]:
        """How near the branches of two programs are on the graph, 1 for one and the same."""
        return np.exp(-4 * self.ruler.distances[np.ix_(self.tips, self.tips)])


def make_world(seed: int, ruler: Ruler | str = "hematopoiesis", shape: WorldShape | None = None) -> World:
    """Draw a world.

    Parameters
    ----------
    seed
        Seed of the genes' base levels and of every cell drawn from the world.
    ruler
        Stage graph that programs follow: the name of a shipped ruler, or a ruler.
    shape
        Numbers of genes and cells, and strengths of all effects; those of `WorldShape` by default.

    Raises
    ------
    EvaluationError
        If a branch does not exist, or fewer than two are asked for.
    """
    ruler, shape = load_ruler(ruler) if isinstance(ruler, str) else ruler, shape or WorldShape()
    if len(shape.branches) < 2:
        raise EvaluationError(f"A planted world needs two branches or more; found {len(shape.branches)}.")
    own = {branch: np.flatnonzero(np.array(ruler.branches) == branch) for branch in dict.fromkeys(ruler.branches)}
    wanted = sorted({int(stage) for branch in shape.branches for stage in lineage(ruler, branch)})
    first = {branch: members[: shape.stages_per_branch] for branch, members in own.items()}
    stages = np.array([stage for stage in wanted if stage in first[ruler.branches[stage]]])
    tips = np.array([max(first[branch], key=lambda s: (ruler.depths[s], -s)) for branch in shape.branches])
    distances = ruler.distances[np.ix_(stages, tips)]
    activity = 1 - distances / ruler.distances[np.ix_(stages, stages)].max()
    n, m, per = len(shape.branches), shape.n_nuisance, shape.genes_per_nuisance
    names = [f"PLANTED-{branch.upper()}-{i:02d}" for branch in shape.branches for i in range(shape.genes_per_program)]
    names += [f"NUISANCE-{i:02d}-{j:02d}" for i in range(m) for j in range(per)]
    names += [f"BACKGROUND-{i:03d}" for i in range(shape.n_background)]
    nothing = np.full(shape.n_background, -1)
    in_programs, in_nuisance = np.repeat(np.arange(n), shape.genes_per_program), np.repeat(np.arange(m), per)
    program = np.concatenate([in_programs, np.full(m * per, -1), nothing])
    nuisance = np.concatenate([np.full(len(in_programs), -1), in_nuisance, nothing])
    up_down = np.tile([1, -1], m * per)[: m * per]
    sign = np.concatenate([np.ones_like(in_programs), up_down, np.ones_like(nothing)])
    base = generator(seed, "planted base").normal(0.5, 0.8, len(names))
    return World(seed, shape, ruler, stages, tips, activity, tuple(names), program, nuisance, sign, base)


def planted_cells(
    world: World, donors: Sequence[str], tissues: Sequence[str] = ("marrow", "blood"), *, signal: Signal = "graph"
) -> AnnData:
    """Counts of some donors' cells.

    Every random number is keyed by what it belongs to, so a donor's cells are the same in whatever company.

    Parameters
    ----------
    world
        World from `make_world`, which fixes genes, stages and seed.
    donors
        Names of the donors; a name is what the donor's random numbers hang on.
    tissues
        Names of the tissues. A donor has each stage in one of them, or in a second one as well, by chance.
    signal
        ``graph``: programs follow the graph. ``off graph``: stages differ in programs and nuisance, but program levels
        are drawn at random for each stage. ``removed``: a cell's state is drawn without regard to its label.

    Returns
    -------
    AnnData
        Integer counts (CSR, float32); ``obs``: ``cell_type`` (the stage), ``donor``, ``tissue``; ``uns["workbench"]`` as
        `datasets.load` makes it.

    Examples
    --------
    >>> from workbench.planted.cells import WorldShape, make_world, planted_cells
    >>> world = make_world(0, shape=WorldShape(branches=("B", "T"), cells_per_group=2))
    >>> cells = planted_cells(world, ["D1"], ["blood"])
    >>> cells.shape, cells.obs["tissue"].unique().tolist()
    ((30, 160), ['blood'])
    """
    shape, names = world.shape, np.array(world.ruler.stages)[world.stages]
    mark = "" if signal == GRAPH else signal.replace(" ", "-") + "-"
    parts, rows = [], []
    for donor in donors:
        for at, stage in enumerate(names):
            chance = generator(world.seed, "planted tissues", donor, stage)
            order = chance.permutation(len(tissues))
            for tissue in [tissues[t] for t in order[: 1 + int(chance.random() < 0.3)]]:
                parts.append(_group(world, at, donor, tissue, signal))
                rows += [
                    (f"{mark}{donor}-{tissue}-{stage}-{i:02d}", stage, donor, tissue)
                    for i in range(shape.cells_per_group)
                ]
    obs = pd.DataFrame(rows, columns=["cell", "cell_type", "donor", "tissue"]).set_index("cell")
    obs.index.name = None
    cells = AnnData(sp.csr_matrix(np.concatenate(parts)), obs=obs, var=pd.DataFrame(index=list(world.genes)))
    cells.uns["workbench"] = {
        "name": f"{world.name} ({signal})",
        "source": f"planted, not real: synthetic counts on the {world.ruler.name} graph, seed {world.seed}, signal {signal}",
        "columns": ["cell_type", "donor", "tissue"],
        "mapping": {},
        "values": "counts",
    }
    return cells


def _group(world: World, at: int, donor: str, tissue: str, signal: Signal) -> np.ndarray:
    """Counts of the cells of a donor, tissue and stage."""
    shape, seed, n = world.shape, world.seed, world.shape.cells_per_group
    stage = world.ruler.stages[world.stages[at]]
    rng = generator(seed, "planted cells", signal, donor, tissue, stage)
    state = (rng.integers(len(world.stages), size=n) if signal == REMOVED else np.full(n, at)).tolist()
    mean = np.stack([_activity(world, s, signal) for s in state])
    level = np.stack([_levels(world, "stage", str(world.stages[s])) * shape.stage_nuisance for s in state])
    activity = mean + shape.spread * rng.standard_normal(mean.shape)
    around = _levels(world, "donor", donor) + _levels(world, "tissue", tissue) + rng.standard_normal(level.shape)
    level = level + shape.donor_nuisance * around
    effect = np.tile(world.base, (n, 1))
    for of_gene, values, strength in ((world.program, activity, shape.signal), (world.nuisance, level, shape.nuisance)):
        has = of_gene >= 0
        effect[:, has] += strength * values[:, of_gene[has]] * world.sign[has]
    effect += shape.batch * generator(seed, "planted batch", donor, tissue).standard_normal(len(world.genes))
    rate = np.exp(effect)
    depth = np.exp(rng.normal(np.log(shape.depth), 0.3, (n, 1)))
    rate *= depth / rate.sum(1, keepdims=True)
    counts = rng.poisson(rng.gamma(shape.dispersion, rate / shape.dispersion))
    return np.where(rng.random(counts.shape) < shape.dropout, 0, counts).astype(np.float32)


def _activity(world: World, at: int, signal: Signal) -> np.ndarray:
    if signal == OFF_GRAPH:
        return np.asarray(generator(world.seed, "off graph", str(world.stages[at])).random(world.activity.shape[1]))
    return world.activity[at]


def _levels(world: World, kind: str, name: str) -> np.ndarray:
    return np.asarray(generator(world.seed, "planted nuisance", kind, name).standard_normal(world.shape.n_nuisance))
