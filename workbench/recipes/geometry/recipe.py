"""``workbench geometry`` as a recipe: passes, measures of every space, and how alike they are."""

from __future__ import annotations

from functools import partial

from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage
from workbench.evidence.peers import peer_versions
from workbench.files import digest
from workbench.geometry.space_draws import MODEL
from workbench.recipes.geometry.config import UNTRAINED
from workbench.recipes.geometry.context import REFERENCE, SCVI, GeometryContext
from workbench.recipes.geometry.genes import TABLES, gene_inputs, genes_stage
from workbench.recipes.geometry.maps import maps_stage
from workbench.recipes.geometry.measures import likeness_stage, measures_stage
from workbench.recipes.geometry.passes import pass_stage
from workbench.recipes.geometry.probes import probe_stage
from workbench.recipes.geometry.reference import reference_stage
from workbench.recipes.geometry.scvi import scvi_stage
from workbench.recipes.geometry.sections import report
from workbench.recipes.loads import AT_LEAST, seconds_per_cell
from workbench.tools.common import check_cells

_FEW = 8


def stages(context: GeometryContext) -> list[Stage]:
    """Stages of a geometry; what can be refused is refused here.

    Parameters
    ----------
    context
        Configuration, cells and model of the geometry, of which nothing was done.

    Returns
    -------
    list of Stage
        ``expression``, one for each pass, ``measures``, ``likeness``, ``probe``, and ``maps`` and ``genes`` where they are asked for.

    Raises
    ------
    HookError
        If the model has no such layer.
    CellsError
        If a cell expresses none of the model's genes, or an embedding is not there or has no finite numbers.
    """
    config, inputs = context.config, context.pass_inputs
    context.model.resolve_hooks(context.hooks)
    check_cells(context.tokenizer(context.cells), context.cells.obs_names)
    measured = config.measures.model_dump(
        mode="json", include={"neighbours", "min_batch", "trustworthiness", "components"}
    )
    weights, shape = context.model.fingerprint(), vars(context.model.config)
    embedded = {key: digest(values) for key, values in context.embeddings.items()}
    batches = None if context.batches is None else digest(context.batches.tolist())
    listed = [
        Stage(
            REFERENCE,
            partial(reference_stage, context),
            {**inputs, "measures": measured, "batches": batches, "embeddings": embedded},
        )
    ]
    for name in context.passes:
        of = {"shape": str(shape)} if name == UNTRAINED else {"weights": weights}
        listed.append(Stage(name, partial(pass_stage, context, name), {**inputs, **of}))
    before: tuple[str, ...] = (REFERENCE, *context.passes)
    other: tuple[str, ...] = (REFERENCE, MODEL)
    if config.scvi is not None:
        trained = config.scvi.model_dump(mode="json", include={"epochs", "latent"})
        installed = peer_versions(config.scvi.python)
        listed.append(
            Stage(
                SCVI,
                partial(scvi_stage, context),
                {"scvi": trained, "peers": installed, "seed": config.seed},
                (REFERENCE,),
            )
        )
        before, other = (*before, SCVI), (*other, SCVI)
    labels = {
        name: digest(None if (own := context.column(name)) is None else own.tolist()) for name in ("cell_type", "donor")
    }
    how = {"bootstrap": config.measures.bootstrap, "seed": config.seed, **labels}
    listed.append(Stage("measures", partial(measures_stage, context), how, before, ("geometry", "differences")))
    alike = {"draws": config.measures.draws, "seed": config.seed}
    listed.append(Stage("likeness", partial(likeness_stage, context), alike, other, ("likeness",)))
    probed = {**config.measures.model_dump(mode="json", include={"probe_folds", "probe_cells"}), "seed": config.seed}
    streams = tuple(name for name in (MODEL, UNTRAINED) if name in context.passes)
    listed.append(Stage("probe", partial(probe_stage, context), {**probed, **inputs, **labels}, streams, ("probe",)))
    if config.measures.maps:
        drawn = {"seed": config.seed, "cell_type": labels["cell_type"]}
        listed.append(Stage("maps", partial(maps_stage, context), drawn, (MODEL,), ("maps",)))
    if config.genes is not None:
        given = {**inputs, "weights": weights, "genes": gene_inputs(context, config.genes)}
        listed.append(Stage("genes", partial(genes_stage, context), given, (), TABLES))
    return listed


def expects(context: GeometryContext) -> Expected:
    """What a geometry has to do: a pass for the model and each control, and the spaces that they leave.

    Parameters
    ----------
    context
        Configuration, cells and model of the geometry, of which nothing was done.
    """
    n, shape = len(context.cells), context.model.config
    tokens = context.tokenizer(context.cells).tokens(0, min(_FEW, n))
    seconds = seconds_per_cell(context.model, tokens) * n
    kept = 2 * 4 * n * shape.d_model * len(context.hooks)
    one = Load(n, n, memory=kept, disk=kept, seconds=seconds, basis=AT_LEAST)
    spaces = 2 * len(context.hooks) * len(context.passes)
    streams = 2 * (1 + len(context.layers))
    found = {REFERENCE: Load(n), **dict.fromkeys(context.passes, one), "measures": Load(n, tasks=spaces)}
    found["probe"] = Load(n, tasks=1 + streams * (1 + (UNTRAINED in context.passes)))
    if context.config.measures.maps:
        found["maps"] = Load(n, tasks=streams)
    if context.config.genes is not None:
        genes, wide = len(context.tokenizer(context.cells).match.genes), 8 * shape.d_model
        found["genes"] = Load(
            n, 2 * n, memory=2 * genes * wide * (1 + len(context.layers)), seconds=2 * seconds, basis=AT_LEAST
        )
    return Expected(found)


RECIPE = Recipe("geometry", GeometryContext, stages, report, expects=expects)
