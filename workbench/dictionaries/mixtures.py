"""Random mixtures of a dictionary's features: what edges between features are compared with.

A mixture reads what it writes, as a feature does. It is the like of one feature: of several random mixtures that one whose reading has the most similar
mean and spread over the activations. A feature that fires often does so because much of the activations lies along it, and then it moves what is
further up more as well; a mixture that was only made to fire as often, by a lower threshold, would not (a null that was tried, and missed its level).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.dictionaries.dictionary import Dictionary
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.tokens import Tokens
from workbench.seeds import generator

# Mixtures among which the like of each feature is looked for.
_CANDIDATES = 10


@dataclass(frozen=True)
class Mixture:
    """Features that are random mixtures, each of which fires as often as one of the dictionary, and as strongly.

    Attributes
    ----------
    encoder, directions
        What each reads and writes, rows of length 1.
    threshold, scale
        Reading above which each fires, and what the rest above it is multiplied by.
    """

    encoder: Float[Tensor, "source d_in"]
    directions: Float[Tensor, "source d_out"]
    threshold: Float[Tensor, " source"]
    scale: Float[Tensor, " source"]

    def active(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row source"]:
        """Activations at each row.

        Parameters
        ----------
        x
            Activations that the dictionary reads.
        """
        return (x @ self.encoder.T - self.threshold).relu() * self.scale


def mixtures(
    model: CellModel,
    tokens: Tokens,
    dictionary: Dictionary,
    sources: Int[np.ndarray, " source"],
    usage: pd.DataFrame,
    fitting: Fitting,
    draws: int,
    seed: int,
) -> list[Mixture]:
    """Mixtures of all features, a like of each in every draw.

    Parameters
    ----------
    model, tokens, dictionary
        The intact model, cells, and a dictionary of one of its hooks; activations of all cells are held in memory.
    sources
        Numbers of the features that are mixed, and that likes are made of.
    usage
        Rate and norm of all features, as `feature_usage` gives them.
    fitting
        How many cells go through a pass.
    draws, seed
        Number of draws, and their seed.
    """

    def work(batch: Tokens) -> Tensor:
        names = {"names_filter": dictionary.hook, "return_cache_object": False}
        _, cache = model.run_with_cache(batch, outputs=(), **names)
        return cache[dictionary.hook].flatten(2)[batch.genes.to(model.device)]

    with torch.no_grad():
        x = torch.cat(list(fitting.batches(tokens, work)))
    at = torch.as_tensor(sources)
    reads, writes = dictionary.W_enc.T[at], dictionary.directions[at]
    rate, norm = (torch.as_tensor(usage[name].to_numpy()[sources]).to(x) for name in ("rate", "norm"))
    times = (rate * len(x)).round().long().clamp(1, len(x) - 1)
    about = x.mean(0), torch.cov(x.T)
    own = _reading(reads, *about)
    found = []
    for draw in range(draws):
        rng = generator(seed, "mixtures", str(draw))
        drawn = torch.as_tensor(rng.standard_normal((_CANDIDATES * len(sources), len(sources)))).to(x)
        mix = drawn[_likes(own, _reading(drawn @ reads, *about))]
        directions, encoder = (_unit(mix @ one) for one in (writes, reads))
        ordered = (x @ encoder.T).sort(0, descending=True).values
        ends = [ordered.gather(0, (times - shift)[None])[0] for shift in (1, 0)]
        threshold = (ends[0] + ends[1]) / 2
        over = (ordered - threshold).relu()
        size = ((over**2).sum(0) / (over > 0).sum(0).clamp(min=1)).sqrt().clamp(min=1e-12)
        found.append(Mixture(encoder, directions, threshold, norm / size))
    return found


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _reading(encoder: Tensor, mean: Tensor, covariance: Tensor) -> Float[Tensor, "row 2"]:
    """Mean of what encoders of length 1 read, and the logarithm of its spread."""
    encoder = _unit(encoder)
    spread = ((encoder @ covariance) * encoder).sum(1).clamp(min=1e-24).sqrt().log()
    return torch.stack([encoder @ mean, spread], dim=1)


def _likes(own: Float[Tensor, "source 2"], drawn: Float[Tensor, "candidate 2"]) -> Int[Tensor, " source"]:
    """For each feature the candidate that reads most alike, each candidate once."""
    size = own.std(0).clamp(min=1e-12) if len(own) > 1 else torch.ones(2)
    far = torch.cdist(own / size, drawn / size)
    taken = []
    for row in far:
        taken.append(int(row.argmin()))
        far[:, taken[-1]] = torch.inf
    return torch.tensor(taken)
