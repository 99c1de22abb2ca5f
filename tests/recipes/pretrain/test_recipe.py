"""``workbench pretrain`` on a few cells and genes: its files, its card, and what is wrong said before training."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest
import torch
import yaml
from damage import assert_undamaged
from helpers import tiny_cells

from workbench.cli import main
from workbench.engine.config import make_config, read_config
from workbench.engine.recipe import execute
from workbench.errors import ConfigError, OutputError
from workbench.models import load_model
from workbench.recipes.pretrain import evaluation, train
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.pretrain.recipe import RECIPE


@pytest.fixture(scope="module")
def trained(config):
    assert main(["pretrain", str(config)]) == 0
    return config.parent / "made"


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_training_is_found(config, trained, tmp_path):
    assert_undamaged(trained, tmp_path / "out", lambda out: main(["pretrain", str(config), "--out", str(out)]))


def test_it_writes_a_checkpoint_that_can_be_read_and_used(trained):
    assert {"README.md", "args.json", "best_model.pt", "training.json", "vocab.json"} <= {
        path.name for path in trained.iterdir()
    }
    model = load_model(trained)
    assert (model.config.n_layers, model.config.n_heads, model.config.d_model, model.config.n_bins) == (2, 2, 8, 11)
    assert len(model.vocabulary.genes) == 40 and not model.report.unexpected
    assert len(model.tokenizer(tiny_cells(5)).tokens()) == 5


def test_the_training_report_holds_every_setting_and_the_held_out_cells(trained):
    report = json.loads((trained / "training.json").read_text())
    assert report["settings"]["steps"] == 4 and report["settings"]["mask_ratios"] == [0.25, 0.5]
    assert report["n_train"] + report["n_held_out"] == 40 and len(report["held_out_cells"]) == report["n_held_out"] > 0
    assert [row["step"] for row in report["curve"]] == [2, 4]
    assert report["note"] == "A note of ours." and report["n_genes"] == 40
    assert report["n_parameters"] == sum(p.numel() for p in load_model(trained).parameters())


def test_the_evaluation_has_every_predictor_at_every_ratio(trained):
    rows = json.loads((trained / "training.json").read_text())["evaluation"]
    predictors = {row["predictor"].split(" (")[0] for row in rows}
    assert {"expression decoder", "MVC decoder", "gene mean", "linear regression on the other genes"} <= predictors
    assert len(rows) == 2 * len({row["predictor"] for row in rows if row["mask_ratio"] == 0.25})
    for row in rows:
        assert row["low"] <= row["mse"] <= row["high"] and row["n_values"] > 0
    best = [row["mse"] for row in rows if row["predictor"].startswith("best possible")]
    assert all(b <= row["mse"] for b, row in zip(np.repeat(best, len(rows) // 2), rows, strict=True))


def test_the_card_says_n_and_the_baselines(trained):
    card = (trained / "README.md").read_text()
    report = json.loads((trained / "training.json").read_text())
    for part in (
        f"{report['n_train']} cells trained on, {report['n_held_out']} held out",
        f"{report['n_parameters']:,} parameters, 40 genes",
        "2 layers x 2 heads, width 8",
        "mask ratios 0.25, 0.5",
        f"Mean over {report['n_held_out']} held-out cells",
        "| gene mean |",
        "| linear regression on the other genes",
        "nearest training cells |",
        "bootstrap interval",
        "Note: A note of ours.",
        "seed 1",
        "less than the gene mean",
    ):
        assert part in card, part
    for row in report["evaluation"]:
        assert f"| {row['mask_ratio']} | {row['predictor']} | {row['mse']:.1f} |" in card


@pytest.fixture(scope="module")
def of_studies(config, tmp_path_factory):
    """A training on two studies, one of them with donors, judged on a third."""
    folder = tmp_path_factory.mktemp("studies")
    for name, n_genes, seed in (("first", 30, 1), ("second", 40, 2), ("third", 30, 3)):
        cells = tiny_cells(36, n_genes, seed=seed)
        cells.obs["subject"] = [f"d{i % 6}" for i in range(36)]
        cells.write_h5ad(folder / f"{name}.h5ad")
    raw = yaml.safe_load(config.read_text())
    raw |= {"data": {"name": "first.h5ad", "donor": "subject"}, "held_out_studies": ["third"]}
    raw["studies"] = {name: {"name": f"{name}.h5ad"} for name in ("second", "third")}
    (folder / "studies.yaml").write_text(yaml.safe_dump(raw))
    assert main(["pretrain", str(folder / "studies.yaml")]) == 0
    return folder / "made"


def test_donors_cells_and_a_study_that_are_held_out_are_judged_apart(of_studies):
    report = json.loads((of_studies / "training.json").read_text())
    groups = {"donors of first": 6, "cells of second": report["n_held_out"] - 42, "study third": 36}
    assert report["held_out"] == groups and report["n_train"] == 108 - report["n_held_out"]
    rows = [(row["cells"], row["mask_ratio"]) for row in report["evaluation"] if row["predictor"] == "MVC decoder"]
    assert rows == [(group, ratio) for group in groups for ratio in (0.25, 0.5)]
    assert all(row["n_cells"] == groups[row["cells"]] for row in report["evaluation"])
    card = (of_studies / "README.md").read_text()
    assert "- Data: first.h5ad; " in card and str(of_studies.parent) not in card, "files by name, without their folders"
    assert str(of_studies.parent) not in (of_studies / "training.json").read_text()
    assert "donors of first: 6" in card and "Mean over 6 (donors of first)" in card and "| study third | 0.5 |" in card
    page = html.unescape((of_studies / "report.html").read_text())
    assert (
        "Study third, held out: with 50% of the values hidden" in page and "A checkpoint trained on 2 studies" in page
    )
    assert "of donors and studies that differ more than these they say nothing" in page


def test_two_studies_of_one_name_are_refused(config):
    with pytest.raises(ConfigError, match="Two studies are called 'cells'"):
        execute(RECIPE, read_config(config, PretrainConfig, ["studies.cells.name=pbmc68k"]), config.parent / "twice")


def test_the_report_says_how_the_model_compares_and_what_it_was_made_from(config, trained):
    report = html.unescape((trained / "report.html").read_text())
    rows = json.loads((trained / "training.json").read_text())["evaluation"]
    ours = next(row for row in rows if row["predictor"] == "expression decoder")
    assert f"With 25% of the values hidden, the expression decoder errs by {ours['mse']:.1f} bins squared" in report
    assert "Model: made (2 layers x 2 heads, width 8)" in report
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["seed"] == 1 and list(manifest["stages"]) == ["train", "evaluation", "card"]
    assert manifest["checkpoint"]["weights"] == load_model(trained).fingerprint()
    assert (
        manifest["checkpoint"]["path"] == str(trained) == yaml.safe_load((trained / "resolved.yaml").read_text())["out"]
    )


def test_the_same_configuration_gives_the_same_weights(config, trained, tmp_path):
    out = execute(RECIPE, read_config(config, PretrainConfig), tmp_path / "again").out
    assert load_model(out).fingerprint() == load_model(trained).fingerprint()
    keep = ("evaluation", "curve", "held_out_cells")
    first, second = (json.loads((folder / "training.json").read_text()) for folder in (trained, out))
    assert all(first[name] == second[name] for name in keep)


def test_a_training_with_products_in_half_precision_leaves_weights_in_single_precision(
    config, trained, tmp_path, capsys
):
    assert main(["pretrain", str(config), "--out", str(tmp_path), "--dtype", "bfloat16", "--device", "cpu"]) == 0
    assert "), bfloat16\n" in capsys.readouterr().err
    half, single = (load_model(folder).state_dict() for folder in (tmp_path, trained))
    apart = max(float((half[name] - value).abs().max()) for name, value in single.items())
    assert 0 < apart < 0.05 and all(value.dtype == torch.float32 for value in half.values())
    assert main(["pretrain", str(config), "--out", str(tmp_path / "other"), "--dtype", "float16"]) == 2
    assert "vanish in float16" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_another_note_trains_nothing_again(config, tmp_path, monkeypatch):
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 0
    weights = (tmp_path / "best_model.pt").read_bytes()
    for module, name in ((train, "train"), (evaluation, "evaluate")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("it was done again"))
    assert main(["pretrain", str(config), "--out", str(tmp_path), "--set", "note=Another one."]) == 0
    assert "Note: Another one." in (tmp_path / "README.md").read_text()
    assert (tmp_path / "best_model.pt").read_bytes() == weights


def test_an_interrupted_training_goes_on_to_the_same_weights(config, trained, tmp_path, monkeypatch):
    def breaks(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_trained", breaks)
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 130
    state = tmp_path / "stages" / "train" / "training-state"
    assert (state / "state.safetensors").is_file() and not (tmp_path / "best_model.pt").exists()
    monkeypatch.undo()
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 0
    assert load_model(tmp_path).fingerprint() == load_model(trained).fingerprint()
    assert not state.exists()


def test_an_interrupted_evaluation_trains_nothing_again(config, trained, tmp_path, monkeypatch):
    def breaks(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", breaks)
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 130
    monkeypatch.undo()
    monkeypatch.setattr(train, "train", lambda *args: pytest.fail("it trained again"))
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 0
    assert load_model(tmp_path).fingerprint() == load_model(trained).fingerprint()


@pytest.mark.parametrize("name", ["best_model.pt", "README.md", "args.json"])
def test_a_checkpoint_of_other_origin_is_not_overwritten(config, tmp_path, capsys, name):
    (tmp_path / name).write_text("somebody's")
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("OutputError: ") and f"holds {name}, which the workbench did not make" in error
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "somebody's"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("settings.stpes=3", "Unknown key 'settings.stpes': did you mean 'settings.steps'"),
        ("settings.steps=many", "Key 'settings.steps' is 'many': input should be a valid integer"),
        ("settings.mask_ratios=0.5", "Key 'settings.mask_ratios' is 0.5: input should be a valid tuple"),
        ("settings.mask_ratios=[a]", "Key 'settings.mask_ratios.0' is 'a': input should be a valid number"),
        ("otu=x", "Unknown key 'otu': did you mean 'out'"),
        ("data.nmae=x", "Unknown key 'data.nmae': did you mean 'data.name'"),
    ],
)
def test_wrong_keys_and_values_are_said_before_anything_is_done(config, tmp_path, capsys, override, said):
    assert main(["pretrain", str(config), "--out", str(tmp_path / "new"), "--set", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ConfigError: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_said_before_training(config, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(train, "train", lambda *args: pytest.fail("it trained"))
    with pytest.raises(OutputError, match="file/model' cannot be written .*choose another"):
        execute(RECIPE, read_config(config, PretrainConfig), tmp_path / "file" / "model")


def test_settings_that_do_not_fit_each_other_are_an_error(config, tmp_path, capsys):
    assert main(["pretrain", str(config), "--out", str(tmp_path), "--set", "settings.n_heads=3"]) == 2
    said = capsys.readouterr().err
    assert "The width 8 is not a multiple of the 3 heads; mend settings.d_model or settings.n_heads" in said


def test_unknown_settings_from_python():
    with pytest.raises(
        ConfigError, match="Unknown key 'settings.leraning_rate': did you mean 'settings.learning_rate'"
    ):
        make_config(PretrainConfig, out="x", settings={"leraning_rate": 1})


def test_a_dry_run_says_what_a_training_has_to_do_and_makes_nothing(config, tmp_path, capsys):
    assert main(["pretrain", str(config), "--out", str(tmp_path / "made"), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["dry_run"]
    train, evaluation, card = found["stages"]
    assert (train["passes"], train["state"]) == (4 * 6, "to make") and train["cells"] + evaluation["cells"] == 40
    assert card["why"] == "" and found["time_not_known"] == ["train", "evaluation", "card"]
    assert not (tmp_path / "made").exists()
