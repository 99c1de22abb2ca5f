"""Readouts of a representation, and the method that is a representation with readouts on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.evidence.protocol import Answer, Cells, Fitted, Method, Said, Training
from workbench.operators.readout import BalancedMLP, Endpoint, probe
from workbench.seeds import key
from workbench.threads import one_thread

LINEAR: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """A fitted representation.

    Attributes
    ----------
    encode
        From cells to their coordinates, each cell's from that cell alone.
    n_parameters
        Numbers that were fitted.
    remembered_seconds
        Of work that was not done again because another method of the same split had done it; its cost all the same.
    """

    encode: Callable[[Cells], Float[np.ndarray, "cell width"]]
    n_parameters: int
    remembered_seconds: float = 0.0


Represent = Callable[[Training], Encoder]


def readout(kind: str, layers: tuple[int, ...], seed: int) -> Pipeline:
    """Untrained readout: the linear `probe`, or hidden layers of ReLUs by Adam until the training loss stands still.

    Parameters
    ----------
    kind
        As in `Endpoint`.
    layers
        Widths of the hidden layers; none for a linear readout.
    seed
        Of first weights and batches.
    """
    if not layers:
        return probe(kind)
    settings: dict[str, Any] = {
        "hidden_layer_sizes": layers,
        "alpha": 1e-3,
        "batch_size": 64,
        "max_iter": 200,
        "random_state": key(seed, "benchmark readout", kind) % 2**32,
    }
    return make_pipeline(StandardScaler(), (MLPRegressor if kind == "depth" else BalancedMLP)(**settings))


def parameters(model: Pipeline) -> int:
    """Numbers that a readout's last step was fitted with.

    Parameters
    ----------
    model
        Fitted `readout`.
    """
    last = model.steps[-1][1]
    parts = [*last.coefs_, *last.intercepts_] if hasattr(last, "coefs_") else [last.coef_, last.intercept_]
    return int(sum(np.size(part) for part in parts))


@dataclass(frozen=True)
class Readouts:
    """Fitted readouts by endpoint; one whose training side has a single class is absent.

    Attributes
    ----------
    models
        By the name of the endpoint: its kind, and the readout.
    """

    models: Mapping[str, tuple[str, Pipeline]]

    @classmethod
    def fit(
        cls,
        z: Float[np.ndarray, "cell width"],
        endpoints: tuple[Endpoint, ...],
        layers: tuple[int, ...] = LINEAR,
        seed: int = 0,
    ) -> Readouts:
        """Fit one readout for each endpoint.

        Parameters
        ----------
        z, endpoints
            Of the training cells.
        layers, seed
            As in `readout`.
        """
        models = {}
        with one_thread(), warnings.catch_warnings():
            # An MLP that still learns at its last epoch is a readout like any other; how good it is, the test side says.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # Fewer cells than a batch: one batch then.
            warnings.filterwarnings("ignore", "Got `batch_size`", UserWarning)
            for one in endpoints:
                target = one.target[one.cells]
                if len(set(target.tolist())) > 1:
                    models[one.name] = (one.kind, readout(one.kind, layers, seed).fit(z[one.cells], target))
        return cls(models)

    @property
    def n_parameters(self) -> int:
        """Of all of them."""
        return sum(parameters(model) for _, model in self.models.values())

    def answers(self, z: Float[np.ndarray, "cell width"]) -> dict[str, Answer]:
        """What they say of cells.

        Parameters
        ----------
        z
            Of these cells.
        """
        said = {}
        with one_thread():
            for name, (kind, model) in self.models.items():
                if kind == "depth":
                    said[name] = Answer((), model.predict(z).reshape(-1, 1))
                else:
                    said[name] = Answer(tuple(map(str, model.classes_)), model.predict_proba(z))
        return said


@dataclass(frozen=True)
class Represented(Method):
    """A representation with readouts on it.

    Attributes
    ----------
    represent
        From a training side to the fitted representation.
    layers
        Of the readouts; from the width of the representation where they depend on it.
    relabel
        What the readouts and the representation are fitted on in place of the training side; for controls.
    """

    represent: Represent
    layers: tuple[int, ...] | Callable[[int], tuple[int, ...]] = LINEAR
    relabel: Callable[[Training], Training] | None = None

    def fit(self, train: Training) -> Fitted:
        """See `Method`.

        Parameters
        ----------
        train
            The training side.
        """
        train = train if self.relabel is None else self.relabel(train)
        encoder = self.represent(train)
        z = encoder.encode(train.cells)
        layers = self.layers(z.shape[1]) if callable(self.layers) else self.layers
        return _Read(encoder, Readouts.fit(z, train.endpoints, layers, train.seed))


@dataclass(frozen=True)
class _Read:
    encoder: Encoder
    readouts: Readouts

    @property
    def n_parameters(self) -> int:
        return self.encoder.n_parameters + self.readouts.n_parameters

    @property
    def remembered_seconds(self) -> float:
        return self.encoder.remembered_seconds

    def say(self, cells: Cells) -> Said:
        z = self.encoder.encode(cells)
        return Said(self.readouts.answers(z), z)
