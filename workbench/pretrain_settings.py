"""How a small scGPT is trained from scratch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from workbench.settings import Strict


class PretrainSettings(Strict):
    """Shape of the model, and how it is trained."""

    d_model: PositiveInt = Field(default=64, description="Width of the residual stream; a multiple of n_heads.")
    n_layers: PositiveInt = Field(default=6, description="Number of layers.")
    n_heads: PositiveInt = Field(default=4, description="Heads per layer.")
    d_mlp: PositiveInt = Field(default=64, description="Width of each layer's MLP.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of activations that a training step drops.")
    n_bins: int = Field(default=51, ge=3, description="Bins of expression values, the one for zero included.")
    max_tokens: int = Field(default=1200, ge=2, description="Longest sequence that the checkpoint will be used with.")
    n_genes: PositiveInt | None = Field(
        default=None,
        description="Most genes of the vocabulary: those of most studies, then of most cells; all by default.",
    )
    steps: PositiveInt = Field(default=4000, description="Number of training steps.")
    batch_size: PositiveInt = Field(default=32, description="Cells per step.")
    genes_per_cell: PositiveInt = Field(
        default=200,
        description="Genes sampled afresh per cell and step; memory of the attention grows with its square.",
    )
    mask_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.25, 0.5, 0.75),
        min_length=1,
        description="Shares of the values that are hidden; each cell of a step gets one of them.",
    )
    learning_rate: PositiveFloat = Field(
        default=1e-3,
        description="Largest learning rate of AdamW; after the warm-up it falls along a cosine to a hundredth.",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay of AdamW.")
    warmup: NonNegativeInt = Field(default=200, description="Steps over which the learning rate rises to its largest.")
    held_out: float = Field(
        default=0.15,
        gt=0,
        lt=1,
        description="Share of the donors never trained on, where data.donor names them, else of the cells; by a hash of their names.",
    )
    validate_every: PositiveInt = Field(default=200, description="Steps between looks at the held-out cells.")
    save_every: PositiveInt = Field(
        default=200, description="Steps between states that an interrupted training goes on from."
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="The one seed of the training.")
