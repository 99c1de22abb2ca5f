"""``workbench pretrain`` as a recipe; its output folder is the checkpoint's."""

from __future__ import annotations

from functools import partial

from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage
from workbench.errors import ConfigError
from workbench.models.scgpt.pretraining import model_config
from workbench.recipes.pretrain import card, train
from workbench.recipes.pretrain.context import PretrainContext
from workbench.recipes.pretrain.evaluation import evaluation_stage
from workbench.recipes.pretrain.sections import report


def stages(context: PretrainContext) -> list[Stage]:
    """Stages of a training.

    Parameters
    ----------
    context
        Configuration and cells of the training.

    Returns
    -------
    list of Stage
        ``train``, ``evaluation`` and ``card``: another note for the card trains nothing again.

    Raises
    ------
    CellsError
        If there are too few cells to hold any out.
    ConfigError
        If the shape of the model does not fit itself, or it is to be trained in float16.
    """
    settings = context.config.settings
    if settings.d_model % settings.n_heads:
        raise ConfigError(
            f"The width {settings.d_model} is not a multiple of the {settings.n_heads} heads; mend settings.d_model or settings.n_heads."
        )
    if context.config.dtype == "float16":
        raise ConfigError("Gradients vanish in float16, so nothing is trained in it; choose dtype bfloat16 or float32.")
    model_config(settings, context.data.vocabulary)
    # How often states are saved changes no weight; the card lists it with the other settings.
    made_from = {"cells": context.data.fingerprint(), "settings": settings.model_dump(exclude={"save_every"})}
    made_from["dtype"] = context.config.dtype
    about = {"note": context.config.note, "source": context.source, "save_every": settings.save_every}
    return [
        Stage("train", partial(train.train_stage, context), made_from, tables=("curve",), files=train.FILES),
        Stage("evaluation", partial(evaluation_stage, context), after=("train",), tables=("evaluation",)),
        Stage("card", partial(card.card_stage, context), about, after=("train", "evaluation"), files=card.FILES),
    ]


def expects(context: PretrainContext) -> Expected:
    """What a training has to do: cells that are trained on, and passes with their gradients.

    Parameters
    ----------
    context
        Configuration and cells of the training.
    """
    settings, n = context.config.settings, len(context.data.train)
    loads = {
        "train": Load(n, settings.steps * min(settings.batch_size, n)),
        "evaluation": Load(len(context.data.held_out)),
    }
    return Expected(loads, f"{settings.steps:,} steps with gradients, of up to {settings.batch_size} cells each.")


RECIPE = Recipe("pretrain", PretrainContext, stages, report, expects=expects, files=(*train.FILES, *card.FILES))
