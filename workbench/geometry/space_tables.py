"""One table of everything that is measured of a space that cells lie in, with intervals over donors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.errors import EvaluationError, unknown_name
from workbench.geometry import dimension
from workbench.geometry.cosines import directions, lengths
from workbench.geometry.dimension_tables import ESTIMATORS
from workbench.geometry.effects import effects
from workbench.geometry.expression import Expression
from workbench.geometry.likeness import angle_between, cka_of, hsic, leading_scores
from workbench.geometry.neighbors import APPROXIMATE_ABOVE, Neighbors, Points, as_they_are, distinct, find_neighbors
from workbench.geometry.overlap import BatchNeighbors, area_over_log_k, check_ks, overlap
from workbench.geometry.quality import embedding_quality
from workbench.geometry.space_draws import DRAWS, Draws, Labels, Measured, Rows, draw_units
from workbench.geometry.spaces import CONSTANT, deviations, first_share, numbered, shared_axes, spread, unit_variance

SCFOUNDRY = "scfoundry"
CONVENTIONS = ("", SCFOUNDRY)
# Shares of the cells that dimension is measured on as well, and how many cells that takes.
_PARTS, _FEWEST = (2, 4, 8), 50


def measure_space(
    points: Points,
    *,
    expression: Expression | BatchNeighbors | None = None,
    cell_type: Labels | None = None,
    batch: Labels | None = None,
    donor: Labels | None = None,
    estimators: Iterable[str] = tuple(ESTIMATORS),
    scales: dimension.Scales | None = None,
    ks: Sequence[int] = (15, 30, 50),
    trust_k: int | None = 15,
    order: Int[np.ndarray, " cell"] | None = None,
    n_draws: int = DRAWS,
    convention: str = "",
    seed: int,
) -> Measured:
    """Everything that is measured of one space: how many dimensions, how isotropic, how faithful to expression, whose variance.

    Parameters
    ----------
    points
        Cells in the space, one row each, finite.
    expression
        From `expression.expression_neighbors`, or neighbours of anything else inside batches; made once for all spaces of the cells. Without
        it nothing is said of neighbourhoods; without residuals in it, nothing of trustworthiness and likeness.
    cell_type, batch
        Label of each cell, empty where it has none: such cells count in no figure that needs the label.
    donor
        Donor of each cell, as in `draw_units`; the same cells in several spaces are drawn alike.
    estimators
        Names of `dimension_tables.ESTIMATORS` to take.
    scales
        Neighbourhood sizes of the estimators; those of `dimension.Scales` by default.
    ks
        Neighbourhood sizes of R_NX, for which `expression` has neighbours.
    trust_k
        Neighbourhood size of trustworthiness and continuity against the residuals, the slowest of all; None leaves them out, as are
        batches of more than 50,000 cells.
    order
        Order of the cells, such as that of a hash of their names: dimension is measured on its first half, quarter and eighth as well, so that it
        is seen to grow with the cells. None leaves that out.
    n_draws
        Draws of donors behind the intervals; with fewer than 2 there are none.
    convention
        Empty; or ``scfoundry``, for the measures of scFoundry 0.2.1 by its definitions.
    seed
        Seed of the draws and of approximate searches.

    Returns
    -------
    Measured
        With ``table``: ``measure``, ``scope``, ``value``, ``low`` and ``high`` (95 %: value -+ t sd over draws of donors with replacement, neighbours as they
        were found), ``n`` (cells behind the value), ``note``.

    Raises
    ------
    EvaluationError
        If points are not finite, all the same, or fewer than the neighbours; or if labels or `expression` are of other cells.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.space_tables import measure_space
    >>> plane = np.random.default_rng(0).normal(size=(300, 2)) @ np.eye(2, 5)
    >>> table = measure_space(plane, n_draws=0, seed=0).table.set_index(["measure", "scope"])["value"]
    >>> [round(float(table[name]), 1) for name in (("participation ratio", "covariance"), ("maximum likelihood", "raw"))]
    [2.0, 2.1]
    """
    if convention not in CONVENTIONS:
        raise EvaluationError(unknown_name("convention", convention, CONVENTIONS[1:]))
    points = as_they_are(points, 2)
    for name, labels in (("cell_type", cell_type), ("batch", batch)):
        if labels is not None and len(labels) != len(points):
            raise EvaluationError(
                f"There are {len(points)} cells, but {len(labels)} values of {name}; give one of each."
            )
    rows = Rows(draw_units(len(points), donor, n_draws=n_draws, seed=seed))
    theirs = convention == SCFOUNDRY
    constant = ~(deviations(points) > CONSTANT)
    still = f"{constant.sum()} constant coordinates left out" if constant.any() else ""
    _axes(rows, points, theirs, still)
    _cosines(rows, points, cell_type, theirs)
    _dimension(rows, points, list(estimators), scales or dimension.Scales(), theirs, still, seed)
    if order is not None and not theirs:
        _curve(rows, points, list(estimators), scales or dimension.Scales(), order, seed)
    if expression is not None:
        _faithful(rows, points, expression, ks, None if theirs else trust_k, theirs, seed)
    _effects(rows, points, cell_type, batch, theirs)
    return rows.measured()


def _axes(rows: Rows, points: np.ndarray, theirs: bool, still: str) -> None:
    """Participation ratio and spectral anisotropy."""
    draws, n = rows.draws, len(points)
    own = spread(points, draws.unit)
    if not theirs:
        rows.add(
            "participation ratio", "covariance", shared_axes(own.covariance()),
            draws.of(lambda w: shared_axes(own.covariance(w))), n,
        )  # fmt: skip

    def at_unit_variance(weights: np.ndarray | None) -> float:
        covariance = own.covariance(weights)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > CONSTANT)
        return shared_axes(covariance * inverse * inverse[:, None])

    drawn = draws.of(at_unit_variance)
    rows.add(
        "participation ratio",
        "unit variance",
        at_unit_variance(None),
        drawn,
        n,
        "changes when points are turned",
        still,
    )
    scope = "about the origin" if theirs else "covariance"
    drawn = draws.of(lambda w: first_share(own.covariance(w, centred=not theirs)))
    rows.add("spectral anisotropy", scope, first_share(own.covariance(centred=not theirs)), drawn, n)


def _cosines(rows: Rows, points: np.ndarray, cell_type: Labels | None, theirs: bool) -> None:
    draws = rows.draws
    held = lengths(points) > 0
    absent = f"{(~held).sum()} cells at the origin left out" if not held.all() else ""
    every = directions(points, None, draws.unit)
    rows.add("cosine", "all", every.cosines()[0], draws.of(lambda w: every.cosines(w)[0]), int(held.sum()), absent)
    if cell_type is None:
        return
    group, _ = numbered(cell_type)
    known = group >= 0
    if not known.any():
        return
    own = directions(points, group, draws.unit)
    drawn = draws.of(lambda w: own.cosines(w, balanced=theirs)).reshape(-1, 3)
    for i, scope in ((1, "within cell types"), (2, "between cell types")):
        rows.add("cosine", scope, own.cosines(balanced=theirs)[i], drawn[:, i], int((known & held).sum()), absent)


def _dimension(
    rows: Rows,
    points: np.ndarray,
    names: list[str],
    scales: dimension.Scales,
    theirs: bool,
    still: str,
    seed: int,
) -> None:
    """Intrinsic dimension; neighbours stay as they are in the draws, as a cell drawn twice would be its own neighbour."""
    for name in names:
        if name not in ESTIMATORS:
            raise EvaluationError(unknown_name("estimator", name, ESTIMATORS))
    draws = rows.draws
    if theirs:
        for scope in ("raw", "standardised"):
            near = find_neighbors(points if scope == "raw" else unit_variance(points)[0], 2, seed=seed)
            ratio = dimension.log_ratios(near)
            terms = np.where(ratio > 0, ratio, np.nan)
            used = int((ratio > 0).sum())
            rows.add("TwoNN", scope, dimension.two_nn_likelihood(near), 1 / draws.means(terms), used, _search(near))
        return
    kept, where = distinct(points)
    repeated = f"{len(points) - len(kept)} repeated cells dropped" if len(kept) < len(points) else ""
    unit, n = draws.unit[where], len(kept)
    near = find_neighbors(kept, scales.most, seed=seed)
    notes = (repeated, _search(near))
    own = Draws(unit, draws.weights, draws.over)
    for name in names:
        if name == "participation ratio":
            continue
        if name == "TwoNN":
            rows.add(name, "raw", dimension.two_nn(near), _slopes(near, own), n, *notes)
            apart = find_neighbors(unit_variance(points)[0][where], 2, seed=seed)
            rows.add(name, "standardised", dimension.two_nn(apart), _slopes(apart, own), n, *notes, still)
        elif name == "maximum likelihood":
            inverse = 1 / dimension.likelihood_local(near.first(scales.k))
            rows.add(name, "raw", 1 / inverse.mean(), 1 / own.means(inverse), n, *notes)
            for k in sorted({max(3, scales.k // 4), max(3, scales.k // 2)} - {scales.k}):
                closer = (1 / dimension.likelihood_local(near.first(k))).mean()
                rows.add(name, f"k = {k}", 1 / closer, None, n, *notes)
        elif name == "local PCA":
            local = dimension.pca_local(kept, near.first(scales.k))
            rows.add(name, "raw", local.mean(), own.means(local), n, *notes)
        else:
            rows.add(name, "raw", ESTIMATORS[name](kept, near, scales), None, n, *notes)


def _curve(
    rows: Rows, points: np.ndarray, names: list[str], scales: dimension.Scales, order: np.ndarray, seed: int
) -> None:
    """Dimension of ever fewer cells: a figure at one number of cells is no dimension."""
    asked = [name for name in ("TwoNN", "maximum likelihood") if name in names]
    if not asked:
        return
    for part in _PARTS:
        kept, _ = distinct(points[np.sort(order[: len(order) // part])])
        if len(kept) < max(_FEWEST, scales.k + 1):
            break
        near = find_neighbors(kept, scales.k, seed=seed)
        for name in asked:
            value = dimension.two_nn(near) if name == "TwoNN" else 1 / (1 / dimension.likelihood_local(near)).mean()
            rows.add(name, f"1/{part} of the cells", value, None, len(kept), _search(near))


def _slopes(near: Neighbors, draws: Draws, discard: float = 0.1) -> Float[np.ndarray, " draw"]:
    """`dimension.two_nn` for every draw."""
    ratio = dimension.log_ratios(near)
    order = np.argsort(ratio)
    ratio, unit = ratio[order], draws.unit[order]

    def slope(weights: np.ndarray) -> float:
        weight = weights[unit]
        below = weight.cumsum() / weight.sum()
        kept = below <= min(1 - discard, 1 - 1e-9)
        x, w = ratio[kept], weight[kept]
        return float((w * x) @ -np.log1p(-below[kept]) / ((w * x) @ x))

    return draws.of(slope)


def _faithful(
    rows: Rows,
    points: np.ndarray,
    expression: Expression | BatchNeighbors,
    ks: Sequence[int],
    trust_k: int | None,
    theirs: bool,
    seed: int,
) -> None:
    """Neighbourhoods shared with expression, trustworthiness and continuity, and likeness, inside batches."""
    reference = expression.neighbors if isinstance(expression, Expression) else expression
    ks = check_ks(ks, reference.k)
    own = reference.of(points, seed=seed)
    terms = overlap(reference, own)
    left = sum(reference.left_out.values())
    notes = [
        f"against {reference.kind}",
        f"{len(reference.left_out)} batches of {left} cells left out as too small" if left else "",
        _search(*reference.near, *own.near),
        f"{repeated} repeated cells" if (repeated := sum(near.n_duplicates for near in own.near)) else "",
    ]
    for k in ks:
        rows.mean("R_NX", f"k = {k}", terms[:, k - 1], *notes)
    if theirs:
        rows.mean("R_NX", "mean over k", terms[:, [k - 1 for k in ks]].mean(1), *notes)
        return
    rows.mean("R_NX", f"area over log k to {terms.shape[1]}", area_over_log_k(terms), *notes)
    if len(reference.names) > 1:
        for name, mine in zip(reference.names, reference.rows, strict=True):
            inside = np.full(len(points), np.nan)
            inside[mine] = terms[mine, ks[0] - 1]
            rows.mean("R_NX", f"k = {ks[0]}, batch {name}", inside, *notes)
    if isinstance(expression, Expression):
        _against_residuals(rows, points, expression, own, trust_k, notes)


def _against_residuals(
    rows: Rows, points: np.ndarray, expression: Expression, own: BatchNeighbors, trust_k: int | None, notes: list[str]
) -> None:
    reference = expression.neighbors
    trust, continuity = np.full((2, len(points)), np.nan)
    alike = []
    for i, mine in enumerate(reference.rows):
        residuals = expression.residuals[i]
        dense, here = residuals.centred(), points[mine] - points[mine].mean(0, dtype=np.float64)
        if trust_k is not None and len(mine) <= APPROXIMATE_ABOVE:
            near = {"near_x": reference.near[i], "near_y": own.near[i]}
            found = embedding_quality(dense, here, (trust_k,), **near)
            trust[mine], continuity[mine] = found.trustworthiness[0], found.continuity[0]
        plain, debiased = cka_of(hsic(dense, here), residuals.own_hsic, hsic(here, here))
        scores = residuals.scores
        alike.append((debiased, plain, angle_between(scores, leading_scores(here, scores.shape[1]))))
    if trust_k is not None:
        large = sum(len(mine) > APPROXIMATE_ABOVE for mine in reference.rows)
        why = (
            f"{large} batches of more than {APPROXIMATE_ABOVE:,} cells left out, as all pairs are needed"
            if large
            else ""
        )
        for measure, terms in (("trustworthiness", trust), ("continuity", continuity)):
            if large == len(reference.rows):
                rows.add(measure, f"k = {trust_k}", np.nan, None, 0, *notes, why)
            rows.mean(measure, f"k = {trust_k}", terms, *notes, why)
    sizes = np.array([len(mine) for mine in reference.rows], dtype=float)
    for name, values in zip(("debiased CKA", "plain CKA", "principal angle"), np.array(alike).T, strict=True):
        known = np.isfinite(values)
        value = np.average(values[known], weights=sizes[known]) if known.any() else np.nan
        rows.add(name, "expression", value, None, int(sizes[known].sum()), *notes)


def _effects(rows: Rows, points: np.ndarray, cell_type: Labels | None, batch: Labels | None, theirs: bool) -> None:
    if cell_type is None and batch is None:
        return
    none: Int[np.ndarray, " cell"] = np.zeros(len(points), dtype=int)
    group, block = (none if labels is None else numbered(labels)[0] for labels in (cell_type, batch))
    known: Bool[np.ndarray, " cell"] = (group >= 0) & (block >= 0)
    kept = points if known.all() else points[known]
    if len(kept) < 3 or (kept == kept[0]).all():
        return
    draws = rows.draws
    sums = effects(kept, group[known], block[known], draws.unit[known])
    value = sums.partial()
    drawn = draws.of(lambda w: sums.partial(w)).reshape(-1, 2, 2)
    forms = ((0, "per coordinate"),) if theirs else ((0, "per coordinate"), (1, "whole space"))
    for row, effect in ((0, "cell type"), (1, "batch")):
        for column, form in forms:
            if np.isfinite(value[row, column]):
                said = "changes when points are turned" if column == 0 else ""
                rows.add(
                    "partial eta squared",
                    f"{effect}, {form}",
                    value[row, column],
                    drawn[:, row, column],
                    int(known.sum()),
                    said,
                )


def _search(*near: Neighbors) -> str:
    """What to say of a search; nothing where all were exact."""
    approximate = [one for one in near if not one.exact]
    return f"approximate neighbours, recall {min(one.recall for one in approximate):.3f}" if approximate else ""
