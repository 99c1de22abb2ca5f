"""A user's own objects as methods: what is refused, what they are given, and what follows from what they predict."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.cluster import DBSCAN
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.evidence.audit import KEPT, RANDOM, audit
from workbench.evidence.measure import attempted
from workbench.evidence.own import own_method
from workbench.evidence.protocol import Method, Training, Trial
from workbench.evidence.readouts import Represented
from workbench.evidence.representations import raw
from workbench.evidence.ruler import load_ruler
from workbench.operators.readout import endpoints

LABELS = ("CD4 T", "CD8 T", "monocyte", "dendritic", "B")


def placed(n=12, seed=0, noise=False):
    rng, ruler = np.random.default_rng(seed), load_ruler("hematopoiesis")
    label = np.repeat(LABELS, n)
    code = rng.permutation(len(label)) % 5 if noise else np.repeat(range(5), n)
    x = rng.random((len(label), 10)) + 4 * np.eye(5, 10)[code]
    obs = pd.DataFrame({"cell_type": label}, index=[f"{seed}-{i}" for i in range(len(label))])
    obs["stage"] = ruler.place(obs["cell_type"], {})[0]
    return PlacedCells("some", obs, tuple(f"G{i}" for i in range(10)), sp.csr_matrix(x.astype(np.float32)), ruler)


@pytest.fixture(scope="module")
def trial():
    train, truth = placed(), placed(seed=1)
    asked = [tuple(endpoints(one.stage, one.ruler, frozenset(one.stage.tolist()))) for one in (train, truth)]
    return Trial(Training(train, asked[0], 0), truth, asked[1])


def predicted(made, trial):
    predictions, costs, status = attempted(own_method("mine", made), trial, 0.0)
    assert status == "ok", status
    return predictions, costs


def accuracy(predictions, trial):
    one = predictions.of["stage"]
    stages = np.array(trial.train.ruler.stages)[trial.truth.stage]
    return float((np.array(one.classes)[one.values.argmax(1)] == stages).mean())


class Given:
    """Keeps what it was given, and that nothing of it was given before."""

    seen: list = []

    def __init__(self):
        self.fitted = 0

    def fit(self, X, y):
        self.fitted += 1
        Given.seen.append((X, y, self.fitted))

    def transform(self, X):
        return X[:, :3]


def test_an_object_gets_expression_and_labels_of_the_training_side_and_a_copy_is_fitted(trial):
    made = Given()
    for _ in range(2):
        predictions, _ = predicted(made, trial)
    x, y, times = Given.seen[-1]
    assert isinstance(x, sp.csr_matrix) and (x != trial.train.cells.expression).nnz == 0
    assert y.tolist() == trial.train.cells.obs["cell_type"].tolist() and times == 1 and made.fitted == 0
    assert predictions.latent.shape == (60, 3) and "depth" in predictions.of


def test_a_latent_is_read_by_the_linear_probes_of_every_other_method(trial):
    class Same:
        def fit(self, X, y):
            return self

        def transform(self, X):
            return X

    ours, costs = predicted(Same(), trial)
    fitted = Represented(raw).fit(trial.train)
    for name, one in fitted.predict(trial.test).of.items():
        np.testing.assert_array_equal(ours.of[name].values, one.values)
    assert costs["n_parameters"] == fitted.n_parameters


@pytest.mark.parametrize("made", [LogisticRegression(), make_pipeline(TruncatedSVD(5), KNeighborsClassifier(3))])
def test_a_classifier_of_labels_is_asked_for_every_endpoint(trial, made):
    predictions, _ = predicted(made, trial)
    assert accuracy(predictions, trial) > 0.9 and predictions.latent is None
    assert {one.name for one in trial.endpoints} == set(predictions.of)
    np.testing.assert_allclose(predictions.of["stage"].values.sum(1), 1)


class Says:
    def __init__(self, what):
        self.what = what

    def fit(self, X, y):
        self.y = y
        return self

    def predict(self, X):
        return self.what(X, self.y)


def test_predicted_labels_stand_for_their_stages(trial):
    predictions, _ = predicted(Says(lambda X, y: np.array(LABELS)[X[:, :5].toarray().argmax(1)]), trial)
    assert accuracy(predictions, trial) == 1


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda X, y: y[:3], "predict gave the shape (3, 1) for 60 cells"),
        (lambda X, y: ["soup"] * X.shape[0], "predict names the label 'soup', which is none of those"),
    ],
)
def test_predictions_that_do_not_fit_become_a_sentence(trial, what, said):
    assert said in attempted(own_method("mine", Says(what)), trial, 0.0)[2]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (LogisticRegression, "is the class LogisticRegression, not an object of it"),
        (DBSCAN(), "has no fit, or nothing to be asked with .it is a DBSCAN.; give an object"),
        ("PCA", "it is a str"),
        (
            type("Short", (), {"fit": lambda self, X: self, "transform": lambda self, X: X})(),
            "fit that cannot be called",
        ),
        (type("Held", (Says,), {})(threading.Lock()), "cannot be copied, as it has to be for every split"),
    ],
)
def test_what_is_no_method_is_refused_in_a_sentence(made, said):
    with pytest.raises(EvaluationError, match=f"Your own method 'mine' .*{said}"):
        own_method("mine", made)


class Whole(Method):
    def fit(self, train):
        return Represented(raw).fit(train)


def test_the_whole_protocol_is_taken_as_it_is(trial):
    predictions, _ = predicted(Whole(), trial)
    assert accuracy(predictions, trial) > 0.9


REMEMBERED: list = []


class Remembers:
    """Scales by all that it was ever asked about, in any split: held-out cells among it."""

    def fit(self, X, y):
        return self

    def transform(self, X):
        REMEMBERED.append(np.asarray(X.mean(0)).ravel())
        return X.toarray() / (1 + np.mean(REMEMBERED, axis=0))


LABELS_SEEN: dict = {}


class Memorises:
    """Keeps the label of every training cell for good: in other splits these are held out."""

    def fit(self, X, y):
        LABELS_SEEN.update(zip((row.tobytes() for row in X.toarray()), y, strict=True))
        return self

    def predict(self, X):
        return [LABELS_SEEN.get(row.tobytes(), "B") for row in X.toarray()]


class Chance:
    def fit(self, X, y):
        self.w = np.random.default_rng().normal(size=(X.shape[1], 3))

    def transform(self, X):
        return X @ self.w


class Seeded:
    def fit(self, X, y):
        self.w = np.random.normal(size=(X.shape[1], 3))

    def transform(self, X):
        return X @ self.w


class Company:
    def fit(self, X, y):
        return self

    def transform(self, X):
        return X.toarray() - X.toarray().mean(0)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (Remembers(), KEPT),
        (Memorises(), KEPT),
        (Chance(), RANDOM),
        (Seeded(), "ok"),
        (TruncatedSVD(3), "ok"),
        (Company(), "leaks"),
    ],
)
def test_the_audit_finds_what_depends_on_other_cells_and_tells_chance_apart(trial, made, status):
    assert audit(own_method("mine", made), trial, trial.train)["status"] == status


def test_random_numbers_of_the_user_stay_as_they_were(trial):
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    predicted(Seeded(), trial)
    assert np.random.random() == expected


def test_one_that_cannot_be_told_apart_is_another_each_time(capsys):
    class Opened(Whole):
        def __init__(self):
            self.path = Path("x")

        def __reduce_ex__(self, version):
            raise TypeError("not told")

        def __deepcopy__(self, memo):
            return self

    made = Opened()
    assert own_method("mine", made).identity != own_method("mine", made).identity
    assert "whether 'mine' is the same as before cannot be known" in capsys.readouterr().err
    assert own_method("mine", Whole()).identity == own_method("other", Whole()).identity
