"""Methods on splits, on planted counts and a tiny random checkpoint; a planted leak is caught."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.engine.config import read_config
from workbench.evidence.audit import LEAKING, REFUSED, audit, replaced_by_noise
from workbench.evidence.measure import attempted
from workbench.evidence.methods import Listed, own_methods, three_layers
from workbench.evidence.protocol import NotRunError, OutOfTimeError
from workbench.evidence.readouts import Encoder, Represented
from workbench.evidence.representations import dense, permuted
from workbench.files import read_arrays, write_arrays
from workbench.operators.operator import OnPanel
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.context import BenchmarkContext
from workbench.recipes.benchmark.splits import INTERNAL, panel_of
from workbench.recipes.benchmark.tasks import benchmark_task, make_trial


@pytest.fixture(scope="module")
def context(campaign):
    return BenchmarkContext(read_config(campaign.path, BenchmarkConfig), campaign.out)


@pytest.fixture(scope="module")
def holdout(context):
    return context.holdouts[0]


@pytest.fixture(scope="module")
def trial(context, holdout):
    return make_trial(context, holdout)


@pytest.fixture(scope="module")
def noisy(context, holdout):
    """The internal cells with noise in the place of those that are held out."""
    cells = context.cohorts[INTERNAL]
    return replaced_by_noise(cells, np.flatnonzero(~cells.outside(holdout.units)), 0)


def test_no_cell_is_on_both_sides_and_donors_are_whole(context):
    for one in context.holdouts:
        trial = make_trial(context, one)
        assert not set(trial.train.cells.names) & set(trial.test.names)
        if one.kind == "donor holdout":
            assert not set(trial.train.cells.donor) & set(trial.truth.donor)


def test_no_label_reaches_a_test_side(trial):
    assert list(trial.test.obs.columns) == [] and trial.test.ruler is None and trial.test.donor is None
    assert trial.test.names.tolist() == trial.truth.names.tolist() and trial.test.genes == trial.train.cells.genes


def test_stages_of_a_training_side_are_balanced(campaign, holdout):
    few = BenchmarkContext(read_config(campaign.path, BenchmarkConfig, ["splits.per_stage=3"]), campaign.out)
    cells = make_trial(few, holdout).train.cells
    assert np.bincount(cells.stage).max() == 3 and list(cells.names) == sorted(cells.names)


def test_operators_of_a_training_side_know_nothing_of_the_test_side(campaign, context, holdout, trial, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    for group in context.cohorts[INTERNAL].groups_in(holdout.units):
        file = out / "stages" / "operators" / f"operators-{group}.safetensors"
        write_arrays(file, {name: np.full_like(array, -7) for name, array in read_arrays(file)[0].items()})
    spoiled, intact = make_trial(BenchmarkContext(context.config, out), holdout).train.operators, trial.train.operators
    assert np.array_equal(spoiled.head(0, 0), intact.head(0, 0))
    assert np.array_equal(spoiled.mean([1, 2]), intact.mean([1, 2]))


def test_the_panel_is_chosen_on_the_training_side(context, holdout, noisy):
    cells, size = context.cohorts[INTERNAL], context.config.panel.size
    panel = panel_of(holdout, cells, cells, size)
    assert panel_of(holdout, noisy, noisy, size) == panel and len(panel) == 24
    inside = np.flatnonzero(cells.outside(holdout.units))
    seen = np.asarray((cells.expression[inside] > 0).sum(0)).ravel()
    chosen = np.isin(cells.genes, panel)
    assert seen[chosen].min() >= seen[~chosen].max()


def test_noise_replaces_held_out_cells_and_no_other(context, holdout, noisy):
    cells = context.cohorts[INTERNAL]
    inside = cells.outside(holdout.units)
    assert not (cells.expression[np.flatnonzero(inside)] != noisy.expression[np.flatnonzero(inside)]).nnz
    assert (cells.expression[np.flatnonzero(~inside)] != noisy.expression[np.flatnonzero(~inside)]).nnz
    assert (cells.stage[~inside] != noisy.stage[~inside]).any() and (cells.stage[inside] == noisy.stage[inside]).all()
    for kept in ("donor", "group", "fold"):
        assert cells.column(kept).tolist() == noisy.column(kept).tolist()
    first, other = cells.embeddings["cls"], noisy.embeddings["cls"]
    assert np.array_equal(first[inside], other[inside]) and (first[~inside] != other[~inside]).any()


@pytest.mark.slow
def test_every_own_method_passes_the_audit(context, holdout, trial, noisy):
    other = make_trial(context, holdout, noisy).train
    for name, one in own_methods(context.config, 3).items():
        found = audit(one, trial, other)
        assert found["status"] == "ok" or found["status"].startswith("not run"), (name, found)


@dataclass(frozen=True)
class Whole:
    """Takes the mean and the spread of everything that it is asked about: of the test side as well."""

    def __call__(self, train):
        def encode(cells):
            x = dense(cells)
            return (x - x.mean(0)) / (x.std(0) + 1)

        return Encoder(encode, 0)


def test_a_method_that_looks_at_the_company_of_a_test_cell_is_caught(context, holdout, trial, noisy):
    other = make_trial(context, holdout, noisy).train
    found = audit(Listed(Represented(Whole()), "baseline", ""), trial, other)
    assert found["status"] == "leaks" and found["depends_on_company"] > 1e-3


def test_a_method_that_was_scaled_on_all_cells_is_caught(context, holdout, noisy):
    """The leak is planted where it happens: before the split, in what every training side is made of."""

    def scaled(cells):
        spread = cells.expression.toarray().std(0)
        return replace(
            cells, expression=sp.csr_matrix(cells.expression @ sp.diags(1 / (spread + 1)).astype(np.float32))
        )

    leaky = make_trial(context, holdout, scaled(context.cohorts[INTERNAL]))
    found = audit(context.methods["PCA-10"], leaky, make_trial(context, holdout, scaled(noisy)).train)
    assert found["status"] == "leaks" and found["depends_on_test"] > 1e-3


def test_another_panel_is_a_leak(context, holdout, trial, noisy):
    other = make_trial(context, holdout, noisy.on_panel(noisy.genes[:20])).train
    found = audit(context.methods["PCA-10"], trial, other)
    assert found["status"] == "leaks" and found["depends_on_test"] == np.inf


def test_a_leaking_method_is_not_run_and_its_table_says_why(context, holdout):
    rows = benchmark_task(context.handle, holdout, "PCA-10", context.methods["PCA-10"], 0.0, REFUSED[LEAKING])
    assert rows["value"][rows["endpoint"] != "cost"].isna().all()
    assert rows["status"].str.startswith("not run: it depends on the cells").all()


class Bad:
    def __init__(self, error):
        self.error = error

    def fit(self, train):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotRunError("needs integer counts"), "not run: needs integer counts"),
        (OutOfTimeError("stopped after its 5 seconds"), "out of time: stopped after its 5 seconds"),
        (ValueError("no\nsuch  thing"), "failed: ValueError: no such thing"),
    ],
)
def test_what_goes_wrong_in_a_method_becomes_a_sentence(trial, error, status):
    listed = Listed(Bad(error), "peer", "")
    assert attempted(listed, trial, 0.0) == (None, {}, status)
    assert audit(listed, trial, trial.train)["status"] == status


def test_a_method_that_holds_a_process_is_ended_whatever_happens(trial):
    ended = []

    class Holding(Bad):
        n_parameters, close = 0, lambda self: ended.append(self)

        def fit(self, train):
            return self

        def predict(self, cells):
            raise self.error

    assert attempted(Listed(Holding(ValueError("x")), "peer", ""), trial, 0.0)[2] == "failed: ValueError: x"
    assert len(ended) == 1


def test_permuted_labels_move_targets_with_their_cells(trial):
    train = trial.train
    other = permuted(train)
    stages = np.array(train.ruler.stages)[other.cells.stage]
    assert sorted(other.cells.stage) == sorted(train.cells.stage) and (other.cells.stage != train.cells.stage).any()
    assert other.cells.donor.tolist() == train.cells.donor.tolist()
    asked = {one.name: one for one in other.endpoints}
    stage, either = asked["stage"], asked["CD4 against CD8"]
    assert (stage.target[stage.cells] == stages[stage.cells]).all()
    assert (train.ruler.place(other.cells.column("cell_type"))[0] == other.cells.stage).all()
    branch = np.array([name[:3] for name in stages])[either.cells]
    assert set(branch) == {"CD4", "CD8"} and (either.target[either.cells] == (branch == "CD4")).all()


def test_the_three_layers_have_the_papers_number_of_parameters():
    widths = (512, *three_layers(512), 60)
    n = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert 171_000 < n < 173_000


def test_operators_on_a_panel_are_the_same_operators(context):
    whole, columns = context.operators.leaving({1}), np.array([3, 1, 7])
    part = OnPanel(whole, columns)
    assert np.array_equal(part.head(1, 1), whole.head(1, 1)[np.ix_(columns, columns)]) and part.shape == whole.shape
