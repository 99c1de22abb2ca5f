"""Readouts of a representation, and the method that is a representation with readouts on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.cells.placed import PlacedCells
from workbench.evidence.peer_worker import diffusion_pseudotime
from workbench.evidence.protocol import PSEUDOTIME, Fitted, Method, Prediction, Predictions, Training
from workbench.operators.readout import MOST_FITTED, BalancedMLP, Endpoint, probe, sampled
from workbench.seeds import key
from workbench.threads import one_thread

LINEAR: tuple[int, ...] = ()
# As the DPT of the peers has them.
_NEIGHBOURS, _COMPONENTS = 15, 10


@dataclass(frozen=True)
class Encoder:
    """A fitted representation.

    Attributes
    ----------
    encode
        From cells to their coordinates, each cell's from that cell alone.
    n_parameters
        Numbers that were fitted on the training side.
    remembered_seconds
        Seconds of work that was not done again because another method of the same split had done it; its cost all the
        same.
    """

    encode: Callable[[PlacedCells], Float[np.ndarray, "cell width"]]
    n_parameters: int
    remembered_seconds: float = 0.0


Represent = Callable[[Training], Encoder]


def readout(kind: str, layers: tuple[int, ...], seed: int) -> Pipeline:
    """Untrained readout: the linear `probe`, or hidden layers of ReLUs by Adam until the training loss stands still.

    Parameters
    ----------
    kind
        Kind of the endpoint: ``classes``, ``binary`` or ``depth``.
    layers
        Widths of the hidden layers; none for a linear readout.
    seed
        Seed of first weights and batches; without effect on a linear readout.
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
        A `readout` after it was fitted.
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
        Kind and fitted readout by the name of the endpoint.
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
        z
            Coordinates of the training cells.
        endpoints
            What is read, with the targets of the same cells.
        layers, seed
            As `readout` takes them; linear readouts by default.
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
        """Numbers that all of them were fitted with."""
        return sum(parameters(model) for _, model in self.models.values())

    def predict(self, z: Float[np.ndarray, "cell width"]) -> dict[str, Prediction]:
        """Predictions of cells by the name of the endpoint.

        Parameters
        ----------
        z
            Coordinates of the cells, of the width that the readouts were fitted on.
        """
        found = {}
        with one_thread():
            for name, (kind, model) in self.models.items():
                if kind == "depth":
                    found[name] = Prediction((), model.predict(z).reshape(-1, 1))
                else:
                    found[name] = Prediction(tuple(map(str, model.classes_)), model.predict_proba(z))
        return found


def from_stages(
    train: Training, stages: Int[np.ndarray, " class"], chance: Float[np.ndarray, "cell class"]
) -> dict[str, Prediction]:
    """Predictions of every endpoint that follow from probabilities of stages.

    Parameters
    ----------
    train
        Training side, whose endpoints say what is right of a cell of each stage.
    stages
        Stage number of each column of `chance`; several may be of one stage.
    chance
        Probabilities of cells, which add up to one.

    Returns
    -------
    dict
        By endpoint; one of which the training side has a single class is absent.
    """
    depths, of = np.asarray(train.ruler.depths, dtype=float), {}
    for one in train.endpoints:
        if one.kind == "depth":
            of[one.name] = Prediction((), (chance @ depths[stages]).reshape(-1, 1))
            continue
        # What the target of each stage's training cells is; a stage without one has no say.
        target = dict(zip(train.cells.stage[one.cells].tolist(), one.target[one.cells].tolist(), strict=True))
        classes = ("False", "True") if one.kind == "binary" else tuple(sorted({str(t) for t in target.values()}))
        if len(set(target.values())) < 2:
            continue
        said = np.array([str(target.get(int(stage), "")) for stage in stages])
        values = chance @ (said[:, None] == np.array(classes)).astype(float)
        of[one.name] = Prediction(classes, values / np.maximum(values.sum(1, keepdims=True), 1e-300))
    return of


def fitted_on(train: Training) -> Training:
    """The training side as readouts are fitted on it: `MOST_FITTED` cells at most, drawn in the shares of their stages.

    Parameters
    ----------
    train
        Training side, which comes back as it is where it has no more cells.
    """
    cells, n = train.cells, len(train.cells)
    if n <= MOST_FITTED:
        return train
    place = np.argsort(np.argsort(cells.names, kind="stable"), kind="stable")
    rows = sampled(cells.stage, np.arange(n), place, train.seed, MOST_FITTED)
    new = np.full(n, -1)
    new[rows] = np.arange(len(rows))
    asked = [
        replace(one, target=one.target[rows], cells=new[one.cells[new[one.cells] >= 0]]) for one in train.endpoints
    ]
    return replace(train, cells=cells.take(rows), endpoints=tuple(asked))


@dataclass(frozen=True)
class Represented(Method):
    """A representation with readouts on it.

    Attributes
    ----------
    represent
        From a training side to the fitted representation.
    layers
        Hidden layers of the readouts, or a function of the representation's width that gives them; linear by default.
    relabel
        What the readouts and the representation are fitted on in place of the training side; for controls.
    pseudotime
        Whether diffusion pseudotime on the representation is told, too: from the training cell amid the earliest stage, and of
        other cells the mean over their 15 nearest training cells.
    """

    represent: Represent
    layers: tuple[int, ...] | Callable[[int], tuple[int, ...]] = LINEAR
    relabel: Callable[[Training], Training] | None = None
    pseudotime: bool = False

    def fit(self, train: Training) -> Fitted:
        """See `Method`.

        Parameters
        ----------
        train
            Training side that representation and readouts are fitted on, relabelled first where this is a control.
        """
        train = train if self.relabel is None else self.relabel(train)
        encoder = self.represent(train)
        train = fitted_on(train)
        z = encoder.encode(train.cells)
        layers = self.layers(z.shape[1]) if callable(self.layers) else self.layers
        of_time = _pseudotime(z, train) if self.pseudotime else None
        return _Read(encoder, Readouts.fit(z, train.endpoints, layers, train.seed), of_time)


@dataclass(frozen=True)
class _Read:
    encoder: Encoder
    readouts: Readouts
    pseudotime: KNeighborsRegressor | None = None

    @property
    def n_parameters(self) -> int:
        return self.encoder.n_parameters + self.readouts.n_parameters

    @property
    def remembered_seconds(self) -> float:
        return self.encoder.remembered_seconds

    def predict(self, cells: PlacedCells) -> Predictions:
        z = self.encoder.encode(cells)
        of = self.readouts.predict(z)
        if self.pseudotime is not None:
            of[PSEUDOTIME] = Prediction((), self.pseudotime.predict(z).reshape(-1, 1))
        return Predictions(of, z)


def _pseudotime(z: np.ndarray, train: Training) -> KNeighborsRegressor:
    """Diffusion pseudotime of the training cells, for others to take from their nearest."""
    depth = np.asarray(train.ruler.depths)[train.cells.stage]
    early = depth == depth.min()
    root = int(np.argmin(np.linalg.norm(z - z[early].mean(0), axis=1)))
    time = diffusion_pseudotime(z, root, _NEIGHBOURS, _COMPONENTS, key(train.seed, "pseudotime") % 2**31)[1]
    return KNeighborsRegressor(min(_NEIGHBOURS, len(z))).fit(z, time)
