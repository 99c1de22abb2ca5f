"""What works here and what is missing: sentences about machines that are made up, and about this one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import D_MODEL, N_GENES, N_HEADS, N_LAYERS

from workbench import doctor, machine, requirements
from workbench.cli import main
from workbench.doctor import Checkpoint, diagnose, diagnosis_text, read_checkpoint, told
from workbench.machine import can_write, read_machine, read_torch
from workbench.requirements import FETCH_BROWSER, OPTIONAL, REQUIRED, check, extra, find_browser, pip, read_features

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def here(tiny_checkpoint):
    return diagnose(tiny_checkpoint)


# Packages


def test_what_is_required_is_what_the_project_declares():
    # shtab completes arguments in shells and is asked for when it is used.
    assert {*REQUIRED} - {"shtab>=1.13"} == {*PROJECT["dependencies"]} - {"shtab>=1.13"}


@pytest.mark.parametrize(("name", "packages", "source"), OPTIONAL)
def test_an_optional_feature_is_brought_by_the_extra_that_it_names(name, packages, source):
    extras = PROJECT["optional-dependencies"]
    if isinstance(source, str):
        assert {*packages} <= {*extras[source]}
    else:
        assert {*packages} == {one for one in source if not one.startswith("--")}
    if packages == ("scgpt==0.2.4",):
        assert [*packages] == extras["scgpt"] and "--no-deps" in source


@pytest.mark.parametrize(
    ("requirement", "version", "fits"),
    [
        ("torch>=2.6", "2.13.0+cpu", True),
        ("torch>=2.6", "2.6.0", True),
        ("torch>=2.6", "2.5.1", False),
        ("pandas>=2.2,<3", "2.10", True),
        ("pandas>=2.2,<3", "3.0.0", False),
        ("pandas>=2.2,<3", "3.1", False),
        ("scgpt==0.2.4", "0.2.4", True),
        ("scgpt==0.2.4", "0.2.4.0", True),
        ("scgpt==0.2.4", "0.2.5", False),
        ("playwright", "1", True),
    ],
)
def test_bounds_of_versions(requirement, version, fits):
    need = check(requirement, lambda name: version)
    assert (need.problem is None) == fits and need.found == version
    assert fits or version in need.problem


def test_a_package_that_is_not_there_is_named_with_the_command_that_brings_it(here):
    need = check("pandas>=2.2,<3", lambda name: None)
    assert need.found is None and need.problem == "not installed"
    broken = dataclasses.replace(here, required=(need, check("torch>=99")))
    said = diagnosis_text(broken)
    assert not broken.works and "pandas>=2.2,<3 is required and not installed." in said and "pandas MISSING" in said
    assert f"torch>=99 is required and here in version {requirements.installed('torch')}." in said
    assert "install 'pandas>=2.2,<3' 'torch>=99'" in said and said.endswith("Something that is required is broken.")


def test_what_does_not_fit_together_is_said_though_each_version_fits(here, monkeypatch):
    monkeypatch.setattr(
        doctor, "importable", lambda need: dataclasses.replace(need, problem="cannot be imported (E: no)")
    )
    monkeypatch.setattr(doctor, "read_checkpoint", lambda path: Checkpoint(str(path), True, ""))
    said = diagnosis_text(diagnose())
    assert "h5py>=3.11 is required and cannot be imported (E: no)." in said and "torch>=2.6 is required" not in said
    assert "--upgrade --force-reinstall --no-deps 'anndata>=0.12.10'" in said and "To install" not in said
    assert not here.modules


def test_a_module_of_ours_that_cannot_be_imported_is_said(here, monkeypatch):
    monkeypatch.setattr(doctor, "import_error", lambda name: "ImportError: no" if name.endswith("estimator") else None)
    (said,) = doctor.read_modules()
    assert said == "workbench.operators.estimator cannot be imported (ImportError: no)."
    assert not dataclasses.replace(here, modules=(said,)).works


# Optional features


def features(*there, browser=None):
    found = read_features(lambda name: "99.0" if name in there else None, lambda package: browser)
    return {feature.name: feature for feature in found}


def test_features_of_an_empty_environment_say_what_brings_them():
    found = features()
    assert not any(feature.works for feature in found.values()) and all(feature.install for feature in found.values())
    assert found["sweeps on a Dask cluster"].install == (extra("dask"),)
    assert "--no-deps" in found["parity with upstream scGPT"].install[0]
    figures = found["figures as SVG or PNG"]
    assert [need.problem for need in figures.needs] == ["not installed", "not found"]
    assert figures.install == (extra("image"), FETCH_BROWSER["kaleido"])


def test_figures_need_a_browser_as_well_as_the_package():
    assert features("kaleido", browser="/somewhere/chromium")["figures as SVG or PNG"].works
    without = features("kaleido")["figures as SVG or PNG"]
    assert not without.works and without.install == (FETCH_BROWSER["kaleido"],)
    assert features("playwright")["tests in a browser"].install == (FETCH_BROWSER["playwright"],)


def test_one_of_three_packages_is_not_enough():
    notebooks = features("ipykernel", "jupytext")["notebooks"]
    assert not notebooks.works and [need.problem for need in notebooks.needs] == [None, None, "not installed"]


def test_a_browser_is_looked_for_where_its_users_look(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "fetched"))
    assert find_browser("playwright") is None
    (tmp_path / "fetched" / "chromium-1").mkdir(parents=True)
    assert find_browser("playwright") == str(tmp_path / "fetched" / "chromium-1")
    program = tmp_path / "chromium"
    program.touch(mode=0o755)
    assert find_browser("playwright") == find_browser("kaleido") == str(program)
    other = tmp_path / "other"
    other.touch(mode=0o755)
    monkeypatch.setenv("BROWSER_PATH", str(other))
    assert find_browser("kaleido") == str(other)


def test_commands_install_into_the_environment_that_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pip("a>=1") == f"{sys.executable} -m pip install 'a>=1'"
    monkeypatch.setattr(requirements, "ROOT", tmp_path)
    assert extra("dask").endswith("install 'scgpt-workbench[dask]'")
    (tmp_path / "pyproject.toml").touch()
    assert f"-e '{tmp_path}[dask]' -c {tmp_path / 'constraints.txt'}" in extra("dask")
    monkeypatch.chdir(tmp_path)
    assert extra("dask").endswith("-e '.[dask]' -c constraints.txt")
    assert extra("peers").endswith("-e '.[peers]' -c constraints-peers.txt"), "CellTypist needs an older scikit-learn"


# torch


def fake_torch(cuda=False, mps=False, built=None, cards=None):
    def properties(i):
        return SimpleNamespace(name=f"card {i}", total_memory=(i + 1) * 2**30)

    return SimpleNamespace(
        __version__="2.9.0",
        get_num_threads=lambda: 4,
        version=SimpleNamespace(cuda=built),
        cuda=SimpleNamespace(
            is_available=lambda: cuda, device_count=cards or (lambda: 2), get_device_properties=properties
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        mps=SimpleNamespace(recommended_max_memory=lambda: 2**30),
    )


def test_torch_of_this_environment(here):
    assert here.torch.version == torch.__version__ and here.torch.problem is None
    assert here.torch.devices[0].name == "cpu" and f"{torch.get_num_threads()} thread" in here.torch.devices[0].said


def test_accelerators_are_named_with_their_memory(here):
    found = read_torch(lambda: fake_torch(cuda=True))
    assert [(one.name, one.said, one.memory) for one in found.devices] == [
        ("cpu", "4 threads", None),
        ("cuda:0", "card 0", 2**30),
        ("cuda:1", "card 1", 2**31),
    ]
    assert "cuda:1  card 1, 2.0 GiB" in diagnosis_text(dataclasses.replace(here, torch=found))
    assert read_torch(lambda: fake_torch(mps=True)).devices[-1].memory == 2**30


@pytest.mark.parametrize("error", [ImportError("libcudart.so.12: cannot open\nmore"), OSError("a"), RuntimeError("")])
def test_a_broken_torch_is_a_sentence(here, error):
    def load():
        raise error

    found = read_torch(load)
    assert type(error).__name__ in found.problem and "cannot be imported" in found.problem and "\n" not in found.problem
    broken = dataclasses.replace(here, torch=found, checkpoints=())
    assert not broken.works and "--force-reinstall 'torch>=2.6'" in diagnosis_text(broken)


def test_cards_that_torch_cannot_use_break_nothing(here, tmp_path, monkeypatch):
    def no_driver():
        raise RuntimeError("no driver")

    found = read_torch(lambda: fake_torch(cuda=True, cards=no_driver))
    assert found.problem is None and "no driver" in found.note and [one.name for one in found.devices] == ["cpu"]
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "was built without CUDA" in read_torch(fake_torch).note
    assert "was built for CUDA 12.8" in read_torch(lambda: fake_torch(built="12.8")).note
    noted = dataclasses.replace(here, torch=found)
    assert noted.works and "no driver" in diagnosis_text(noted)


# The machine and its folders


def test_the_machine_and_its_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = read_machine()
    assert found.folder == str(tmp_path) and found.folder_writable and found.disk_free > 0
    assert found.cache == str(tmp_path / "cache" / "scgpt-workbench") and found.cache_writable
    assert 1 <= found.usable_cores <= found.cores and 0 < found.memory_available <= found.memory
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_file_or_nothing_is_no_folder_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    assert can_write(tmp_path) and can_write(tmp_path / "new" / "newer") and not can_write(tmp_path / "file" / "below")


def test_folders_that_cannot_be_written(here, monkeypatch):
    monkeypatch.setattr(machine, "can_write", lambda folder: False)
    closed = read_machine()
    assert closed.compiled_code is None and not closed.folder_writable and not closed.cache_writable
    broken = dataclasses.replace(here, machine=closed)
    said = diagnosis_text(broken)
    assert not broken.works and "set NUMBA_CACHE_DIR" in said and "name another with --out" in said
    only_folder = dataclasses.replace(here, machine=dataclasses.replace(closed, compiled_code="/somewhere"))
    assert only_folder.works, "who cannot write here can write elsewhere"


def test_without_psutil_the_memory_is_unknown(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    found = read_machine()
    assert found.memory is None and "memory  unknown" in diagnosis_text(dataclasses.replace(here, machine=found))


# Checkpoints


def test_a_checkpoint_in_one_line(tiny_checkpoint, tmp_path):
    found = read_checkpoint(tiny_checkpoint)
    assert found.readable and f"{N_LAYERS} layers x {N_HEADS} heads, width {D_MODEL}, {N_GENES} genes" in found.said
    absent = read_checkpoint(tmp_path / "absent")
    assert not absent.readable and "There is no checkpoint folder" in absent.said


def test_a_library_that_breaks_below_the_reader_is_one_line(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "workbench.models.inspection", None)
    found = read_checkpoint(tiny_checkpoint)
    assert not found.readable and "ModuleNotFoundError" in found.said and "\n" not in found.said


def test_the_shipped_checkpoint_is_tried_once(here, monkeypatch, tiny_checkpoint, tmp_path):
    assert [one.path for one in here.checkpoints] == [str(doctor.SHIPPED), str(tiny_checkpoint)]
    monkeypatch.setattr(doctor, "read_checkpoint", lambda path: Checkpoint(str(path), True, ""))
    monkeypatch.chdir(doctor.SHIPPED.parent)
    assert len(diagnose(doctor.SHIPPED.name).checkpoints) == len(diagnose(doctor.SHIPPED).checkpoints) == 1
    monkeypatch.setattr(doctor, "SHIPPED", tmp_path / "absent")
    assert diagnose().checkpoints == (), "an installed package ships none"


# All of it


def test_this_environment_works(here):
    assert here.works and here.problems == ()
    said = diagnosis_text(here)
    assert said.endswith("All that is required works.") and "flash-attn and torchtext are never needed" in said
    for part in (f"torch {requirements.installed('torch')}", "Machine", "disk", "notebooks", f"{N_GENES} genes"):
        assert part in said


def test_the_same_as_json(here):
    said = json.loads(json.dumps(told(here)))
    assert said["works"] is True and said["problems"] == [] and said["torch"]["version"] == torch.__version__
    assert {one["what"] for one in said["required"]} == {*REQUIRED}
    assert all(isinstance(one["works"], bool) for one in said["features"]) and len(said["features"]) == len(OPTIONAL)
    assert said["machine"]["memory"] > 2**20 and said["checkpoints"][1]["readable"] is True


def test_the_command(here, capsys, monkeypatch):
    broken = Checkpoint("somewhere", False, "It is empty.")
    for found, status in ((here, 0), (dataclasses.replace(here, checkpoints=(broken,)), 1)):
        monkeypatch.setattr(doctor, "diagnose", lambda checkpoint, found=found: found)
        assert main(["doctor", "--checkpoint", "somewhere"]) == status
        assert ("The checkpoint 'somewhere' cannot be read. It is empty." in capsys.readouterr().out) == bool(status)
        assert main(["doctor", "--json"]) == status
        assert json.loads(capsys.readouterr().out)["works"] is (status == 0)


def test_an_environment_in_which_nothing_can_be_imported_is_still_told():
    code = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "numpy", "pandas", "psutil", "transformer_lens", "pydantic"):
            raise ImportError(f"{name} is broken")
sys.meta_path.insert(0, Refuse())
from workbench.cli import main
sys.exit(main(["doctor", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert not said["works"] and "ImportError: torch is broken" in said["problems"][0] and said["checkpoints"] == []
