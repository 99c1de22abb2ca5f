"""``workbench benchmark`` from cells to report, on planted counts and a tiny random checkpoint; a planted leak is caught."""

from __future__ import annotations

import json
import shutil
import sysconfig
import venv
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from fixtures_benchmark import METHODS, synthetic_cells, write

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.errors import EvaluationError
from workbench.evidence.embeddings import OnPanel
from workbench.evidence.methods import Listed, own_methods, three_layers
from workbench.evidence.protocol import NotRunError, OutOfTimeError
from workbench.evidence.readouts import Encoder, Represented
from workbench.evidence.representations import dense, permuted
from workbench.files import read_arrays, read_json, write_arrays
from workbench.recipes.benchmark.bench import INTERNAL, Bench, replaced_by_noise
from workbench.recipes.benchmark.campaign import attempted, audit
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.run import run_benchmark


def table(out, name):
    return pd.read_csv(out / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""], dtype={"scope": str})


@pytest.fixture(scope="module")
def bench(campaign):
    return Bench(read_config(campaign.path, BenchmarkConfig), campaign.out)


@pytest.fixture(scope="module")
def split(bench):
    return next(iter(bench.splits.values()))


def test_a_campaign_leaves_every_table_and_figure(campaign):
    out = campaign.out
    names = {
        "scores",
        "splits",
        "costs",
        "methods",
        "audit",
        "summary",
        "comparisons",
        "tally",
        "ranks",
        "campaign_costs",
    }
    assert names <= {path.stem for path in (out / "tables").glob("*.csv")}
    # Named by their files, wherever those lie.
    assert set(table(out, "splits")["data"]) == {"cells.h5ad", "other.h5ad"}
    figures = {path.stem for path in (out / "figures").glob("*.html")}
    kinds = ("", "_transfer")
    assert {f"benchmark_{what}{kind}" for what in ("endpoints", "differences", "tally") for kind in kinds} <= figures
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "wins / ties / loses" in page and "winner" not in page.lower()


def test_rows_are_tidy_and_each_stands_once(campaign):
    scores = table(campaign.out, "scores")
    assert not scores.duplicated(["method", "split", "scope", "endpoint", "metric"]).any()
    assert set(scores["method"]) == set(METHODS) and set(scores["kind"]) == {"donor holdout", "transfer"}
    assert scores.loc[scores["status"] == "ok", "value"].notna().all()
    assert scores.loc[scores["status"] != "ok", "value"].isna().all()
    held = table(campaign.out, "splits").set_index("split")["test_donors"]
    for name, own in scores[scores["scope"] != "all"].groupby("split"):
        assert set(own["scope"]) == set(str(held[name]).split("+"))


def test_planted_types_are_found_and_chance_is_not(campaign):
    means = table(campaign.out, "summary").query("kind == 'donor holdout' and endpoint == 'stage'")
    accuracy = means[means["metric"] == "balanced accuracy"].set_index("method")["value"]
    assert accuracy["raw log1p"] > 0.9 and accuracy["PCA-10"] > 0.9 and accuracy["anchor head, labels permuted"] < 0.5


def test_no_cell_is_on_both_sides_and_donors_are_whole(bench):
    for one in bench.splits.values():
        sides = bench.sides(one)
        assert not set(sides.train.cells.names) & set(sides.test.names)
        if one.kind == "donor holdout":
            assert not set(sides.train.donor) & set(sides.truth.donor)


def test_stages_of_a_training_side_are_balanced(campaign, bench, split):
    few = replace(
        bench,
        config=bench.config.model_copy(update={"splits": bench.config.splits.model_copy(update={"per_stage": 3})}),
    )
    assert np.bincount(few.sides(split).train.stage).max() == 3
    assert list(few.sides(split).train.cells.names) == sorted(few.sides(split).train.cells.names)


def test_operators_of_a_training_side_know_nothing_of_the_test_side(campaign, bench, split, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    for unit in split.held:
        file = out / "stages" / "operators" / f"operators-{unit}.safetensors"
        write_arrays(file, {name: np.full_like(array, -7) for name, array in read_arrays(file)[0].items()})
    spoiled = Bench(bench.config, out).sides(split).train.operators
    intact = bench.sides(split).train.operators
    assert np.array_equal(spoiled.head(0, 0), intact.head(0, 0)) and np.array_equal(
        spoiled.mean([1, 2]), intact.mean([1, 2])
    )


def test_the_panel_is_chosen_on_the_training_side(bench, split):
    pool = bench.pools[INTERNAL]
    inside = bench.inside(split)
    noisy = replaced_by_noise(pool, np.flatnonzero(~inside), 0)
    assert bench.panel(split, noisy) == bench.panel(split, pool) and len(bench.panel(split, pool)) == 24
    seen = np.asarray((pool.expression[np.flatnonzero(inside)] > 0).sum(0)).ravel()
    least = seen[np.isin(pool.genes, bench.panel(split, pool))].min()
    assert least >= seen[~np.isin(pool.genes, bench.panel(split, pool))].max()


def test_noise_replaces_held_out_cells_and_no_other(bench, split):
    pool, inside = bench.pools[INTERNAL], bench.inside(split)
    noisy = replaced_by_noise(pool, np.flatnonzero(~inside), 0)
    assert not (pool.expression[np.flatnonzero(inside)] != noisy.expression[np.flatnonzero(inside)]).nnz
    assert (pool.expression[np.flatnonzero(~inside)] != noisy.expression[np.flatnonzero(~inside)]).nnz
    assert (pool.stage[~inside] != noisy.stage[~inside]).any() and (pool.stage[inside] == noisy.stage[inside]).all()


@pytest.mark.slow
def test_every_own_method_passes_the_audit(bench, split):
    sides = bench.sides(split)
    noisy = bench.sides(split, replaced_by_noise(bench.pools[INTERNAL], np.flatnonzero(~bench.inside(split)), 0))
    for name, one in own_methods(bench.config, 3).items():
        found = audit(one, sides, noisy.train)
        assert found["status"] == "ok" or found["status"].startswith("not run"), (name, found)


@dataclass(frozen=True)
class Whole:
    """Takes the mean and the spread of everything that it is asked about: of the test side as well."""

    def __call__(self, train):
        def encode(cells):
            x = dense(cells)
            return (x - x.mean(0)) / (x.std(0) + 1)

        return Encoder(encode, 0)


def test_a_method_that_looks_at_the_company_of_a_test_cell_is_caught(bench, split):
    sides = bench.sides(split)
    noisy = bench.sides(split, replaced_by_noise(bench.pools[INTERNAL], np.flatnonzero(~bench.inside(split)), 0))
    found = audit(Listed(Represented(Whole()), "baseline", ""), sides, noisy.train)
    assert found["status"] == "leaks" and found["depends_on_company"] > 1e-3


def test_a_method_that_was_scaled_on_all_cells_is_caught(bench, split):
    """The leak is planted where it happens: before the split, in what every training side is made of."""
    pool, rows = bench.pools[INTERNAL], np.flatnonzero(~bench.inside(split))

    def scaled(one):
        spread = np.sqrt(
            np.asarray(one.expression.power(2).mean(0)).ravel() - np.square(one.expression.mean(0)).A1
            if hasattr(one.expression.mean(0), "A1")
            else np.asarray(one.expression.toarray().std(0))
        )
        import scipy.sparse as sp

        return replace(one, expression=sp.csr_matrix(one.expression @ sp.diags(1 / (spread + 1)).astype(np.float32)))

    leaky, noisy = bench.sides(split, scaled(pool)), bench.sides(split, scaled(replaced_by_noise(pool, rows, 0)))
    method = own_methods(bench.config, 3)["PCA-10"]
    found = audit(method, leaky, noisy.train)
    assert found["status"] == "leaks" and found["depends_on_test"] > 1e-3


def test_a_leaking_method_is_not_run_and_its_table_says_why(campaign, bench, split):
    from workbench.recipes.benchmark.campaign import benchmark_task

    config = bench.config.model_copy(update={"checkpoint": bench.config.checkpoint})
    rows = benchmark_task(config.model_dump_json(), str(campaign.out), split.name, "PCA-10", True)
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
def test_what_goes_wrong_in_a_method_becomes_a_sentence(bench, split, error, status):
    said, costs, found = attempted(Listed(Bad(error), "peer", ""), bench.sides(split), 0.0)
    assert said is None and costs == {} and found == status


def test_permuted_labels_move_targets_with_their_cells(bench, split):
    train = bench.sides(split).train
    other = permuted(train)
    assert sorted(other.stage) == sorted(train.stage) and (other.stage != train.stage).any()
    for one in other.endpoints:
        if one.name == "stage":
            names = np.array(train.ruler.stages)[other.stage]
            assert (one.target[one.cells] == names[one.cells]).all()
        if one.name == "CD4 against CD8":
            branch = np.array([name[:3] for name in np.array(train.ruler.stages)[other.stage]])
            assert (
                set(branch[one.cells]) == {"CD4", "CD8"}
                and (one.target[one.cells] == (branch[one.cells] == "CD4")).all()
            )


def test_the_three_layers_have_the_papers_number_of_parameters():
    widths = (512, *three_layers(512), 60)
    n = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert 171_000 < n < 173_000


def test_operators_on_a_panel_are_the_same_operators(bench, split):
    whole, columns = bench.stored[0].leaving(split.held), np.array([3, 1, 7])
    part = OnPanel(whole, columns)
    assert np.array_equal(part.head(1, 1), whole.head(1, 1)[np.ix_(columns, columns)]) and part.shape == whole.shape


def test_a_second_run_does_nothing_again(campaign, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    before = (out / "tables" / "scores.csv").read_bytes()
    run_benchmark(read_config(campaign.path, BenchmarkConfig), out)
    stages = read_json(out / "manifest.json")["stages"]
    assert all(stage["kept"] for stage in stages.values())
    assert (out / "tables" / "scores.csv").read_bytes() == before


@pytest.mark.slow
def test_a_peer_that_was_not_there_is_tried_again_once_something_is_installed(cells, checkpoint, tmp_path):
    # An environment with all that the worker needs but Palantir.
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "more.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "palantir.py").write_text("raise ImportError('No module named palantir')\n")
    python = tmp_path / "env" / "bin" / "python"
    small = {"methods": ["Palantir"], "ours": "PCA-10", "audit": False, "splits": {"n": 1}}
    path = write(tmp_path, checkpoint, cells, peers={"python": str(python)}, **small)
    config, out = read_config(path, BenchmarkConfig), tmp_path / "out"

    def status():
        run_benchmark(config, out)
        return table(out, "methods").set_index("method")["status"]["Palantir"]

    assert status().startswith("not run: No module named palantir")
    # Another version is there, which fails otherwise; the campaign was killed after its tasks, or had ended.
    for version, killed in (("1.0", False), ("2.0", True)):
        if killed:
            (out / "stages" / "campaign" / "done.json").unlink()
        (site / "palantir.dist-info").mkdir(exist_ok=True)
        (site / "palantir.dist-info" / "METADATA").write_text(f"Name: palantir\nVersion: {version}\n")
        (site / "palantir.py").write_text(f"raise ValueError('this is {version}')\n")
        assert status() == f"failed: RuntimeError: ValueError: this is {version}"


@pytest.mark.slow
def test_another_seed_or_ours_runs_what_depends_on_it(campaign, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    run_benchmark(read_config(campaign.path, BenchmarkConfig, ["ours=PCA-10"]), out)
    kept = {name for name, stage in read_json(out / "manifest.json")["stages"].items() if stage["kept"]}
    assert {"cells", "operators", "untrained"} <= kept and "statistics" not in kept
    assert set(table(out, "comparisons")["ours"]) == {"PCA-10"}


def test_cells_in_another_order_give_the_same_scores(campaign, cells, checkpoint, tmp_path):
    mixed = cells[np.random.default_rng(5).permutation(len(cells))].copy()
    path = write(tmp_path, checkpoint, mixed, audit=False)
    out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")
    keys = ["method", "split", "scope", "endpoint", "metric"]
    one, other = (
        table(o, "scores").query("kind == 'donor holdout'").set_index(keys)["value"] for o in (campaign.out, out)
    )
    # With permuted labels the latent hardly differs between cells, and ranks amplify the rounding of operators summed in another order.
    flat = one.index.get_level_values("method").str.contains("permuted")
    np.testing.assert_allclose(other.loc[one.index[~flat]], one[~flat], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.loc[one.index[flat]], one[flat], atol=0.05)


def test_without_donors_splits_are_stratified_and_the_report_says_so(cells, checkpoint, tmp_path, capsys):
    plain = cells.copy()
    del plain.obs["donor"]
    path = write(tmp_path, checkpoint, plain, data={"donor": None}, methods=["PCA-10"], audit=False)
    assert main(["benchmark", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in told["tally"]} == {"stratified"} and told["ours"] == "anchor head"
    assert set(table(tmp_path / "out", "scores")["scope"]) == {"all"}
    assert "easier test" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_shared_cell_ends_a_transfer_in_a_sentence(cells, checkpoint, tmp_path):
    cells[:40].copy().write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": str(tmp_path / "other.h5ad"), "cell_type": "label"}}}
    path = write(tmp_path / "run", checkpoint, cells, transfer=transfer)
    with pytest.raises(EvaluationError, match="Panel 'other' shares 40 cells with the internal data"):
        run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")


def test_labels_that_the_ruler_does_not_know_are_left_out_and_listed(checkpoint, tmp_path):
    cells = synthetic_cells()
    label = cells.obs["label"].to_numpy().copy()
    label[:4] = "soup"
    cells.obs["label"] = label
    path = write(tmp_path, checkpoint, cells, methods=["raw log1p"], audit=False)
    out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")
    assert "soup" in (out / "report.html").read_text(encoding="utf-8")
    sides = Bench(read_config(path, BenchmarkConfig), out)
    assert sum(len(sides.sides(one).test) for one in sides.splits.values() if one.disjoint) == len(cells) - 4


def test_no_known_label_at_all_is_an_error(checkpoint, tmp_path):
    cells = synthetic_cells()
    cells.obs["label"] = "soup"
    path = write(tmp_path, checkpoint, cells)
    with pytest.raises(EvaluationError, match="knows none of the labels"):
        run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")


def test_an_unknown_method_is_named_with_its_neighbour(campaign, tmp_path):
    with pytest.raises(EvaluationError, match="PCA-1.*did you mean 'PCA-10'"):
        run_benchmark(read_config(campaign.path, BenchmarkConfig, ["methods=[PCA-1]"]), tmp_path / "out")
