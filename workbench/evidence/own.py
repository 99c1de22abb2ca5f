"""A user's own class as a method of the benchmark: copied for every split, and judged like every other one."""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float

from workbench.cells.placed import PlacedCells
from workbench.engine.fingerprint import UnknownError, fingerprint
from workbench.errors import EvaluationError
from workbench.evidence.methods import OUTSIDE, OWN, Listed
from workbench.evidence.protocol import Fitted, Method, Predictions, Training
from workbench.evidence.readouts import Encoder, Represented, from_stages
from workbench.seeds import key
from workbench.threads import one_thread

_FORMS = (
    "give an object with fit(X, y) and transform(X), predict_proba(X) or predict(X), as scikit-learn has them, or a subclass of "
    "workbench.evidence.protocol.Method"
)


def own_method(name: str, made: Any) -> Listed:
    """A user's object as a method; what can be refused is refused here.

    Parameters
    ----------
    name
        What tables call it, for errors.
    made
        Object with ``fit(X, y)``, and ``transform(X)``, ``predict_proba(X)`` or ``predict(X)``, of which the first counts; or a
        `Method`. It is never fitted itself.

    Raises
    ------
    EvaluationError
        If it is a class, has no such methods, or cannot be copied.
    """
    what = f"Your own method '{name}'"
    if isinstance(made, type):
        raise EvaluationError(f"{what} is the class {made.__name__}, not an object of it; give {made.__name__}(...).")
    if _whole(made):
        kind, about = type(made).__name__, "as it predicts"
    else:
        form = _form(made)
        if not callable(getattr(made, "fit", None)) or not form:
            raise EvaluationError(
                f"{what} has no fit, or nothing to be asked with (it is a {type(made).__name__}); {_FORMS}."
            )
        kind = type(made).__name__
        about = "linear probes on transform" if form == "transform" else f"{form}; other endpoints follow from it"
    if wrong := _wrong(made.fit, 1 if _whole(made) else 2):
        raise EvaluationError(f"{what} has a fit that cannot be called ({wrong}); {_FORMS}.")
    try:
        copied(made)
    except Exception as error:
        raise EvaluationError(
            f"{what} cannot be copied, as it has to be for every split ({type(error).__name__}: {error}). Leave out of the object "
            "what cannot be, and make it in fit."
        ) from error
    try:
        identity = fingerprint(made)
    except UnknownError as error:
        identity = uuid4().hex
        print(
            f"[own] whether '{name}' is the same as before cannot be known ({error}); what it is judged in is made again",
            file=sys.stderr,
        )
    return Listed(OwnMethod(made), OWN, f"{kind}, {OUTSIDE}; {about}", identity=identity)


def copied(made: Any) -> Any:
    """A copy that nothing was fitted on: by scikit-learn's clone of an estimator, else a deep one.

    Parameters
    ----------
    made
        The object that the user gave.
    """
    from sklearn.base import BaseEstimator, clone

    return clone(made) if isinstance(made, BaseEstimator) else copy.deepcopy(made)


def _wrong(fit: Callable[..., Any], n: int) -> str:
    """Why a function cannot be called with so many arguments; empty if it can."""
    try:
        signature = inspect.signature(fit)
    except ValueError:  # a compiled one does not say what it takes
        return ""
    try:
        signature.bind(*[None] * n)
    except TypeError as error:
        return str(error)
    return ""


def _whole(made: Any) -> bool:
    """Whether it is a method in the workbench's own form."""
    return Method in type(made).__mro__


def _form(made: Any) -> str:
    forms = ("transform", "predict_proba", "predict")
    return next((one for one in forms if callable(getattr(made, one, None))), "")


@dataclass(frozen=True)
class OwnMethod(Method):
    """A user's object as a method.

    Attributes
    ----------
    made
        The object, which is copied before it is fitted.
    """

    made: Any

    def fit(self, train: Training) -> Fitted:
        """Fit a copy; chance has the campaign's seed.

        Parameters
        ----------
        train
            Training side. An object in scikit-learn's form gets the log-normalised expression of its panel, cell by gene, sparse by
            rows, and the labels of its cells as text.
        """
        with seeded(train.seed):
            made = copied(self.made)
            if _whole(made):
                return made.fit(train)
            _seed_estimator(made, train.seed)
            x, y = train.cells.expression.copy(), train.cells.obs["cell_type"].to_numpy(dtype=str)
            fitted = made.fit(x, y)
            # What scikit-learn asks for is that fit returns the object; one that returns nothing has fitted it as well.
            fitted = made if fitted is None else fitted
        if _form(fitted) != "transform":
            return _Classifier(fitted, train)
        encoder = Encoder(lambda cells: _latent(fitted, cells, train.seed), _kept(fitted))
        return Represented(lambda _: encoder).fit(train)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global random numbers of Python, NumPy and torch by a seed, and one thread, for as long as it lasts.

    Parameters
    ----------
    seed
        The one seed of the campaign.
    """
    states = random.getstate(), np.random.get_state()
    drawn = key(seed, "own method") % 2**32
    random.seed(drawn)
    np.random.seed(drawn)
    try:
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(drawn)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _seed_estimator(made: Any, seed: int) -> None:
    """Seed of every random_state that was left open."""
    from sklearn.base import BaseEstimator

    if isinstance(made, BaseEstimator):
        params = made.get_params()
        free = [one for one in params if one.rpartition("__")[2] == "random_state" and params[one] is None]
        made.set_params(**dict.fromkeys(free, key(seed, "own method") % 2**31))


def _latent(fitted: Any, cells: PlacedCells, seed: int) -> Float[np.ndarray, "cell width"]:
    with seeded(seed):
        return _checked(fitted.transform(cells.expression.copy()), len(cells), "transform")


def _checked(given: Any, n: int, what: str) -> Float[np.ndarray, "cell column"]:
    array = np.asarray(given.toarray() if sp.issparse(given) else given, dtype=np.float64)
    if array.ndim != 2 or len(array) != n or not array.shape[1]:
        raise EvaluationError(
            f"{what} gave the shape {array.shape} for {n} cells; give one row a cell, in their order."
        )
    if not np.isfinite(array).all():
        raise EvaluationError(f"{what} gave NaN or infinite values.")
    return array


@dataclass(frozen=True)
class _Classifier:
    """An object that predicts labels; what it says of other endpoints follows from them."""

    fitted: Any
    train: Training

    @property
    def n_parameters(self) -> int:
        return _kept(self.fitted)

    def predict(self, cells: PlacedCells) -> Predictions:
        form, x, y = _form(self.fitted), cells.expression.copy(), self.train.cells.obs["cell_type"].to_numpy(dtype=str)
        with seeded(self.train.seed):
            given = getattr(self.fitted, form)(x)
        stage_of = dict(zip(y.tolist(), self.train.cells.stage.tolist(), strict=True))
        labels = [str(one) for one in getattr(self.fitted, "classes_", sorted(stage_of))]
        if form == "predict":
            said = [str(one) for one in np.asarray(given).reshape(-1)]
            labels = sorted(set(said))
            given = np.array(said)[:, None] == np.array(labels)
        chance = _checked(given, len(cells), form)
        if unknown := sorted(set(labels) - set(stage_of)):
            raise EvaluationError(
                f"{form} names the label '{unknown[0]}', which is none of those that it was fitted to."
            )
        if chance.shape[1] != len(labels):
            raise EvaluationError(
                f"{form} gave {chance.shape[1]} columns for {len(labels)} labels; give one a label in the order of classes_."
            )
        stages = np.array([stage_of[one] for one in labels])
        return Predictions(from_stages(self.train, stages, chance))


def _kept(fitted: Any) -> int:
    """Numbers that an object holds after it was fitted: what it says itself, or those in its arrays."""
    said = getattr(fitted, "n_parameters", None)
    return int(said) if isinstance(said, int | np.integer) else _numbers(fitted, set())


def _numbers(value: Any, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray | np.generic):
        return int(value.size) if value.dtype.kind == "f" else 0
    if sp.issparse(value):
        return int(value.nnz)
    if isinstance(value, list | tuple):
        return sum(_numbers(one, seen) for one in value)
    if callable(getattr(value, "parameters", None)):
        return sum(int(one.numel()) for one in value.parameters() if hasattr(one, "numel"))
    held = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return sum(_numbers(one, seen) for one in held.values())
