"""Configurations: typed, strict, and relative to their own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from workbench.ablation.settings import StudyConfig
from workbench.cells.datasets import CellMapping
from workbench.engine.config import absolute, load_cells, make_config, read_config
from workbench.engine.keys import keys_of
from workbench.errors import CellsError, ConfigError
from workbench.recipes.ablate.config import AblationConfig
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.geometry.config import GeometryConfig
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.run.config import RunConfig
from workbench.settings import NAME_OR_PATH, AdaptorConfig, DataConfig

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = "checkpoint: model\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_what_is_absent_has_its_default(written):
    config = read_config(written(SMALLEST), RunConfig)
    assert config == RunConfig(checkpoint=config.checkpoint)
    assert (config.adaptor.k, config.adaptor.alpha, config.evaluation.folds) == (10, 0.1, 5)
    assert config.adaptor.beta == pytest.approx(1 / 3.141592653589793) and config.panel.size is None


def test_everything_can_be_set(written):
    text = """
name: mine
checkpoint: model
seed: 3
data: {name: pbmc68k, backed: true, layer: raw, values: counts, depth: n, gene_column: symbol, cell_type: label, donor: d, tissue: t, batch: b, min_gene_share: 0.1}
ruler: hematopoiesis
stages: {"cluster 1": B}
panel: {size: 30}
capture: {batch_size: 4, max_tokens: 100, groups: 7, convention: paper, over_cells: sum, orientation: key x query, sums: float64}
anchors: {min_cells: 3, parts: 2}
adaptor: {k: 3, alpha: 0, beta: 0.5, steps: 9, feature_map: single, layer: 2, head: 1}
evaluation: {folds: 2, holdouts: 1, permutations: 5}
"""
    config = read_config(written(text), RunConfig)
    assert config.seed == 3 and config.stages == {"cluster 1": "B"} and config.adaptor.feature_map == "single"
    kept = {"convention": "paper", "over_cells": "sum", "orientation": "key x query", "sums": "float64"}
    assert config.capture.model_dump() == {"batch_size": 4, "max_tokens": 100, "groups": 7, **kept}
    assert config.data.backed and config.data.tissue == "t"


@pytest.mark.parametrize("name", ["demo.yaml"])
def test_the_shipped_run_configurations_are_valid(name):
    config = read_config(ROOT / "experiments" / name, RunConfig)
    assert config.checkpoint.resolve() == ROOT / "artifacts" / "scgpt-blood-mini"
    assert config.data.name == "pbmc68k" and config.ruler == "hematopoiesis"


def test_the_shipped_training_configuration_is_valid():
    config = read_config(ROOT / "experiments" / "pretrain_blood_mini.yaml", PretrainConfig)
    assert config.out.resolve() == ROOT / "artifacts" / "pretrained" and config.data.name == "pbmc68k"


def test_a_configuration_cannot_be_changed():
    config = RunConfig(checkpoint=Path("x"))
    with pytest.raises(ValidationError):
        config.seed = 3
    with pytest.raises(ValidationError):
        config.adaptor.k = 3


# What is wrong, in one sentence

WRONG = {
    "an unknown key": ("chekpoint: x\n", r"Key 'checkpoint' is missing. Unknown key 'chekpoint': did you mean 'checkpoint'"),
    "an unknown nested key": (SMALLEST + "adaptor: {kk: 3, k: 2}", r"Unknown key 'adaptor.kk': did you mean 'adaptor.k'"),
    "a key nothing is near": (SMALLEST + "zzzzzzz: 1", r"Unknown key 'zzzzzzz': known: name, checkpoint, seed"),
    "a nested key at the top": (SMALLEST + "k: 3", "Unknown key 'k'"),
    "a wrong type": (SMALLEST + "seed: many", r"Key 'seed' is 'many': input should be a valid integer"),
    "a wrong nested type": (SMALLEST + "panel: {size: big}", r"Key 'panel.size' is 'big': input should be a valid int"),
    "a value out of range": (SMALLEST + "evaluation: {folds: 1}", r"Key 'evaluation.folds' is 1: input should be greater"),
    "a seed below 0": (SMALLEST + "seed: -1", r"Key 'seed' is -1: input should be greater"),
    "a seed that libraries do not take": (SMALLEST + "seed: 4294967296", r"Key 'seed' is 4294967296: input should be less"),
    "a fraction for a number": (SMALLEST + "adaptor: {k: 2.5}", r"Key 'adaptor.k' is 2.5: input should be a valid int"),
    "a value for a section": (SMALLEST + "panel: 30", r"Key 'panel' is 30: input should be a valid dictionary"),
    "an empty section": (SMALLEST + "panel:", r"Key 'panel' is None: input should be a valid dictionary"),
    "another word": (SMALLEST + "adaptor: {feature_map: drft}", r"'adaptor.feature_map' is 'drft': input should be 'drift', 'single' or 'topk'"),
    "a stage that is no text": (SMALLEST + "stages: {a: [B]}", r"Key 'stages.a' is \['B'\]: input should be a valid string"),
    "a number as a key": (SMALLEST + "3: x", r"3"),
    "a missing key": ("seed: 1", "Key 'checkpoint' is missing"),
    "nothing at all": ("", "Key 'checkpoint' is missing"),
    "bad YAML": ("checkpoint: [x", r"is no valid YAML \(.*\)\.$"),
    "a key twice": (SMALLEST + "seed: 1\nseed: 2", r"gives 'seed' twice \(lines 2 and 3\); leave one of them out\.$"),
    "a nested key twice": (SMALLEST + "adaptor:\n  k: 1\n  alpha: 1\n  k: 2", r"gives 'k' twice \(lines 3 and 5\)"),
    "a key twice on one line": (SMALLEST + "stages: {a: B, a: T}", r"gives 'a' twice \(lines 2 and 2\)"),
    "tabs": ("data:\n\tname: x", "is no valid YAML"),
    "a list": ("- checkpoint", "holds a list, not keys and values"),
    "text": ("checkpoint", "holds a str, not keys and values"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_is_one_sentence(written, text, said):
    with pytest.raises(ConfigError, match=said) as error:
        read_config(written(text), RunConfig)
    assert "run.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_key_may_come_again_in_another_section_and_by_an_anchor(written):
    text = SMALLEST + "data: &cells {donor: a}\nname: data\npanel: {size: 2}\n"
    assert read_config(written(text), RunConfig).name == "data"
    text = "checkpoint: m\ntransfer:\n  a: &one {data: {donor: d}}\n  b: {<<: *one, stages: {x: B}}\n"
    transfer = read_config(written(text), BenchmarkConfig).transfer
    assert transfer["b"].data == transfer["a"].data and transfer["b"].stages == {"x": "B"}


def test_unknown_keys_of_named_and_listed_sections_have_their_near_matches(written):
    with pytest.raises(ConfigError, match=r"Unknown key 'cohorts.data.rol': did you mean 'cohorts.data.role'"):
        read_config(written(SMALLEST + "cohorts: {data: {rol: internal}}"), GatesConfig)
    with pytest.raises(ConfigError, match=r"'cohorts.a.data.nme': did you mean 'cohorts.a.data.name'"):
        read_config(written(SMALLEST + "cohorts: {a: {role: internal, data: {nme: x}}}"), GatesConfig)
    with pytest.raises(ConfigError, match=r"Unknown key 'contrasts.1.sorce': did you mean 'contrasts.1.source'"):
        text = "contrasts: [{target: a, source: b}, {target: a, sorce: b}]"
        read_config(written(SMALLEST + text), AblationConfig)
    with pytest.raises(
        ConfigError, match=r"Unknown key 'settings.leraning_rate': did you mean 'settings.learning_rate'"
    ):
        read_config(written("out: x\nsettings: {leraning_rate: 1}"), PretrainConfig)


def test_a_key_of_another_configuration_is_said_where_the_others_are_known(written):
    def others():
        return {"run": RunConfig, "factors": RunConfig, "ablate": AblationConfig}

    text = SMALLEST + "sweep: {}\nevaluation: {}\nsed: 1\ncohorts: {a: {role: internal}}"
    with pytest.raises(ConfigError) as error:
        read_config(written(text), GatesConfig, others=others)
    for part in ("'sweep' is one of 'workbench ablate', not", "'evaluation' is one of 'workbench run and factors'"):
        assert part in str(error.value)
    assert "Unknown key 'sed': did you mean 'seed'" in str(error.value)
    with pytest.raises(ConfigError, match="Unknown key 'sweep'"):
        read_config(written(text), GatesConfig)


def test_a_key_that_was_renamed_is_said_to_be(written):
    with pytest.raises(ConfigError, match="'panels' is called 'cohorts' now. Key 'genes' is called 'panel' now"):
        read_config(written(SMALLEST + "cohorts: {}\npanels: {}\ngenes: {size: 3}"), GatesConfig)


def test_the_other_configurations_are_not_asked_for_without_need(written):
    read_config(written(SMALLEST), RunConfig, others=lambda: pytest.fail("asked"))


def test_values_from_python_are_refused_in_the_same_words():
    with pytest.raises(ConfigError, match="The settings do not fit: Unknown key 'kk': did you mean 'k'"):
        make_config(AdaptorConfig, kk=3)
    with pytest.raises(ConfigError, match="Key 'folds' is 1: input should be greater"):
        make_config(StudyConfig, folds=1)


def test_several_mistakes_are_said_at_once(written):
    with pytest.raises(ConfigError) as error:
        read_config(written("sed: 1\nname: [x]\nadaptor: {alpha: -1}"), RunConfig)
    for part in ("'sed': did you mean 'seed'", "'name'", "'adaptor.alpha' is -1", "'checkpoint' is missing"):
        assert part in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path, written):
    with pytest.raises(
        ConfigError, match="absent.yaml' cannot be read \\(No such file or directory\\); check the path"
    ):
        read_config(tmp_path / "absent.yaml", RunConfig)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path, RunConfig)
    (tmp_path / "binary.yaml").write_bytes(b"\x89HDF\xff\xfe")
    with pytest.raises(ConfigError, match="binary.yaml' is no valid YAML"):
        read_config(tmp_path / "binary.yaml", RunConfig)


# --set


@pytest.mark.parametrize(
    ("override", "get", "expected"),
    [
        ("seed=7", lambda c: c.seed, 7),
        ("adaptor.k=3", lambda c: c.adaptor.k, 3),
        ("adaptor.alpha=1e-3", lambda c: c.adaptor.alpha, 1e-3),
        ("panel.size=null", lambda c: c.panel.size, None),
        ("panel.size=", lambda c: c.panel.size, None),
        ("capture={max_tokens: 9}", lambda c: c.capture.max_tokens, 9),
        ("stages={a: B, 'b c': T}", lambda c: c.stages, {"a": "B", "b c": "T"}),
        ("stages.cluster 1=B", lambda c: c.stages, {"cluster 1": "B"}),
        ("data.backed=true", lambda c: c.data.backed, True),
        ("name=a=b", lambda c: c.name, "a=b"),
        (" seed =8", lambda c: c.seed, 8),
    ],
)
def test_keys_are_overridden(written, override, get, expected):
    text = SMALLEST + "seed: 1\nname: x\nadaptor: {k: 5, alpha: 0.5}\npanel: {size: 4}\n"
    assert get(read_config(written(text), RunConfig, [override])) == expected


def test_the_last_override_counts_and_others_stay(written):
    config = read_config(written(SMALLEST + "adaptor: {k: 5, alpha: 0.5}"), RunConfig, ["adaptor.k=3", "adaptor.k=4"])
    assert (config.adaptor.k, config.adaptor.alpha) == (4, 0.5)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "'--set seed' is not of the form key=value or section.key=value"),
        ("=3", "is not of the form"),
        ("adaptor.kk=3", "Unknown key 'adaptor.kk': did you mean 'adaptor.k'"),
        ("adaptr.k=3", "Unknown key 'adaptr': did you mean 'adaptor'"),
        ("seed.k=3", "'seed' is a value, not a section with keys of its own"),
        ("adaptor.k=[", "the value is no valid YAML; quote it"),
        ("adaptor.k=many", "Key 'adaptor.k' is 'many'"),
        ("adaptor={k: 3, k: 4}", r"gives 'k' twice \(lines 1 and 1\)"),
    ],
)
def test_a_wrong_override_is_one_sentence(written, override, said):
    with pytest.raises(ConfigError, match=said) as error:
        read_config(written(SMALLEST + "seed: 1"), RunConfig, [override])
    assert "\n" not in str(error.value)


# Numbers

CONFIGS = (RunConfig, AblationConfig, GatesConfig, BenchmarkConfig, PretrainConfig)


def numbers(keys, before=""):
    """Names of all keys that take numbers, with what they take in words."""
    for key in keys:
        if key.form in ("", "section"):
            yield from numbers(key.keys, f"{before}{key.name}.")
        if not key.keys and ("number" in key.type or "integer" in key.type):
            yield f"{before}{key.name}", key.type


NUMBERS = sorted({(kind, name, form) for kind in CONFIGS for name, form in numbers(keys_of(kind))}, key=str)


@pytest.mark.parametrize(("kind", "name", "form"), NUMBERS, ids=[f"{k.__name__} {n}" for k, n, _ in NUMBERS])
def test_a_number_that_is_none_is_refused_where_it_is_read(written, kind, name, form):
    text = "checkpoint: model\n" if "checkpoint" in kind.model_fields else "out: model\n"
    text += "cohorts: {a: {role: internal}}\n" if kind is GatesConfig else ""
    for value in (".nan", ".inf", "-.inf", "true", "many", *([] if name.endswith("seed") else ["-1"])):
        listed = f"[{value}]" if "list" in form else value
        with pytest.raises(ConfigError, match=f"Key '{name}"):
            read_config(written(text), kind, [f"{name}={listed}"])


def test_no_key_with_a_number_was_missed():
    assert len(NUMBERS) > 80
    assert {name for _, name, _ in NUMBERS} >= {
        "adaptor.alpha",
        "sensitivity.betas",
        "settings.mask_ratios",
        "splits.n",
    }


# Paths


def test_paths_are_relative_to_the_file(tmp_path, written, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "cells.h5ad").touch()
    config = read_config(written("checkpoint: ../model\ndata: {name: cells.h5ad}\nruler: rulers/own.yaml"), RunConfig)
    assert config.checkpoint.resolve() == tmp_path.parent / "model"
    assert config.data.name == str(tmp_path / "cells.h5ad") and config.ruler == str(tmp_path / "rulers" / "own.yaml")
    assert read_config(written("out: model"), PretrainConfig).out == tmp_path / "model"


def test_the_home_folder_is_known_in_the_file_and_behind_set(tmp_path, written, monkeypatch):
    monkeypatch.setenv("HOME", str(home := tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(home))
    config = read_config(
        written("checkpoint: ~/model\ndata: {name: ~/cells.h5ad}\npanel: {file: ~/genes.txt}"), RunConfig
    )
    found = config.checkpoint, Path(config.data.name), config.panel.file
    assert found == (home / "model", home / "cells.h5ad", home / "genes.txt")
    given = [
        "checkpoint=~/model",
        "data.name=~/cells.h5ad",
        "panel.file=~/genes.txt",
        "rulers=[~/a.yaml, hematopoiesis]",
    ]
    monkeypatch.chdir(tmp_path)
    config = read_config(written("checkpoint: x\ndata: {name: y}"), RunConfig, given)
    assert (config.checkpoint, Path(config.data.name), config.panel.file) == found
    assert list(config.rulers) == [str(home / "a.yaml"), "hematopoiesis"]
    assert absolute(config)["checkpoint"] == str(home / "model")


def paths_of(kind, before=""):
    found = {}
    for key in keys_of(kind) if isinstance(kind, type) else kind:
        if key.file:
            found[before + key.name] = key.file
        inside = {"sections by name": "*.", "list of sections": "0."}.get(key.form, "")
        found |= paths_of(key.keys, f"{before}{key.name}.{inside}")
    return found


def test_the_keys_that_are_paths_are_told_by_the_models():
    common = {"checkpoint": "path", "data.name": NAME_OR_PATH}
    operators = {**common, "ruler": NAME_OR_PATH, "panel.file": "path"}
    assert paths_of(RunConfig) == {
        **operators,
        "rulers": NAME_OR_PATH,
        "genes.fits.programs": NAME_OR_PATH,
        "factors.gene_sets": NAME_OR_PATH,
        "expected": "path",
        "transfer.*.data.name": NAME_OR_PATH,
    }
    assert paths_of(GatesConfig) == {**operators, "cohorts.*.data.name": NAME_OR_PATH}
    more = {"transfer.*.data.name": NAME_OR_PATH, "peers.python": NAME_OR_PATH, "expected": "path"}
    assert paths_of(BenchmarkConfig) == {**operators, **more}
    assert paths_of(AblationConfig) == {**common, "study.ruler": NAME_OR_PATH}
    genes = {"genes.sets": NAME_OR_PATH, "genes.edges.*.path": "path", "genes.covariates": "path"}
    assert paths_of(GeometryConfig) == {**common, **genes, "scvi.python": NAME_OR_PATH}
    studies = {"data.name": NAME_OR_PATH, "studies.*.name": NAME_OR_PATH}
    assert paths_of(PretrainConfig) == {"out": "path", **studies}


def test_paths_inside_sections_are_relative_to_the_file(tmp_path, written):
    text = SMALLEST + "peers: {python: envs/python}\ntransfer: {a: {data: {name: b/c.h5ad}}}\nexpected: figures.yaml\n"
    config = read_config(written(text), BenchmarkConfig)
    assert config.peers.python == tmp_path / "envs" / "python" and config.expected == tmp_path / "figures.yaml"
    assert config.transfer["a"].data.name == str(tmp_path / "b" / "c.h5ad")
    config = read_config(written(SMALLEST + "cohorts: {a: {role: internal, data: {name: ./a.h5ad}}}"), GatesConfig)
    assert config.cohorts["a"].data.name == str(tmp_path / "a.h5ad")
    config = read_config(written(SMALLEST + "study: {ruler: own/ruler.yaml}"), AblationConfig)
    assert config.study.ruler == str(tmp_path / "own" / "ruler.yaml")
    config = read_config(written(SMALLEST + "factors: {gene_sets: own/sets.gmt}"), RunConfig)
    assert config.factors.gene_sets == str(tmp_path / "own" / "sets.gmt")
    # A bare word is an interpreter on the search path, or a collection that ships.
    config = read_config(written(SMALLEST + "peers: {python: python3}"), BenchmarkConfig)
    assert config.peers.python == Path("python3")


def test_a_resolved_configuration_works_from_anywhere(tmp_path, written, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    text = SMALLEST + "cohorts: {a: {role: internal, data: {name: ./a.h5ad}, part: [0, 2]}}\nruler: own/ruler.yaml\n"
    config = read_config(written(text), GatesConfig, ["checkpoint=other/model"])
    raw = absolute(config)
    assert raw["checkpoint"] == str(tmp_path / "other" / "model")
    path = tmp_path / "elsewhere" / "resolved.yaml"
    path.write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = read_config(path, GatesConfig)
    assert again.checkpoint == tmp_path / "other" / "model" and again.ruler == str(tmp_path / "own" / "ruler.yaml")
    assert again.cohorts["a"].part == (0, 2) and absolute(again) == raw


def test_absolute_paths_stay(written):
    config = read_config(written("checkpoint: /a/model\ndata: {name: /b/cells.h5ad}\nruler: /c/own.yaml"), RunConfig)
    assert (str(config.checkpoint), config.data.name, config.ruler) == ("/a/model", "/b/cells.h5ad", "/c/own.yaml")


def test_paths_of_overrides_are_relative_to_the_working_folder(written):
    overrides = ["checkpoint=models/a", "data.name=cells/b.h5ad"]
    config = read_config(written(SMALLEST), RunConfig, overrides)
    assert config.checkpoint == Path("models/a") and config.data.name == "cells/b.h5ad"


def test_what_ships_is_no_path_unless_such_a_file_exists(tmp_path, written):
    text = SMALLEST + "data: {name: pbmc68k}\nruler: hematopoiesis"
    config = read_config(written(text), RunConfig)
    assert (config.data.name, config.ruler) == ("pbmc68k", "hematopoiesis")
    (tmp_path / "pbmc68k").touch()
    assert read_config(written(text), RunConfig).data.name == str(tmp_path / "pbmc68k")


# Cells


def test_cells_are_loaded_with_the_mapping_that_is_given(pbmc68k):
    shipped = load_cells(DataConfig())
    assert list(shipped.obs.columns) == ["cell_type", "depth"] and (shipped.X != pbmc68k.X).nnz == 0
    other = load_cells(DataConfig(layer="raw", cell_type="louvain"))
    assert set(other.obs["cell_type"]) != set(shipped.obs["cell_type"])
    assert set(CellMapping.__dataclass_fields__) - {"embeddings"} <= set(DataConfig.model_fields)
    assert set(CellMapping.__dataclass_fields__) <= set(BenchmarkConfig.model_fields["data"].annotation.model_fields)
    with pytest.raises(CellsError, match="no obs column 'bulk_label'.*did you mean 'bulk_labels'"):
        load_cells(DataConfig(cell_type="bulk_label"))


@pytest.mark.parametrize("name", ["pbmc68k", "kang", "combat", "paper"])
def test_the_shipped_benchmarks_are_valid(name):
    config = read_config(ROOT / "experiments" / f"benchmark_{name}.yaml", BenchmarkConfig)
    assert config.name == f"benchmark_{name}" and config.splits.n >= 6 and config.ours == "anchor head"
