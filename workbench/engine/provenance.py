"""What a result was made from, and where."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from workbench import __version__
from workbench.engine.code import PACKAGE, stripped
from workbench.engine.stages import peak_memory
from workbench.files import digest
from workbench.models import CellModel
from workbench.models.devices import describe_device
from workbench.requirements import REQUIRED, name_of


def describe_model(model: CellModel, checkpoint: str | Path) -> str:
    """Name and shape of a model, for captions.

    Parameters
    ----------
    model, checkpoint
        The model, and where it was read from.
    """
    release, shape = model.report.release if model.report else None, model.config
    return (
        f"{release or Path(checkpoint).name} ({shape.n_layers} layers x {shape.n_heads} heads, width {shape.d_model})"
    )


def manifest(config: dict[str, Any], model: CellModel, cells: str, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Everything that a result depends on.

    Parameters
    ----------
    config
        JSON-ready, with ``checkpoint`` and ``seed``.
    model
        The checkpoint as it was read, for its hashes.
    cells
        Content hash of the cells.
    stages
        By name: ``seconds``, ``kept`` and whatever else is known.
    """
    report = model.report
    return {
        "workbench": __version__,
        "code": _code(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "seed": config.get("seed", config.get("settings", {}).get("seed", 0)),
        "cells": cells,
        "checkpoint": {
            "path": str(config.get("checkpoint", config.get("out", ""))),
            "weights": model.fingerprint(),
            "sha256": dict(report.sha256) if report else {},
            "release": report.release if report else None,
        },
        "device": describe_device(model.device, model.dtype),
        "stages": stages,
        "peak_bytes": peak_memory(),
        "machine": {
            "python": sys.version.split()[0],
            "system": platform.system(),
            "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "packages": versions(),
    }


def _code() -> str:
    """Hash of the whole package's code; stages go by the modules that each of them uses."""
    files = sorted(PACKAGE.rglob("*.py"))
    return digest({str(file.relative_to(PACKAGE)): stripped(file.read_text(encoding="utf-8")) for file in files})


def versions() -> dict[str, str]:
    """Versions of the workbench and of all packages that it asks for."""
    return {"workbench": __version__, **{name: importlib.metadata.version(name) for name in map(name_of, REQUIRED)}}


def pairs(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The manifest as lines of a report.

    Parameters
    ----------
    manifest
        What `manifest` has returned, with all its keys.
    """
    stages = ", ".join(
        f"{name} {entry['seconds']:.1f} s{' (kept)' if entry['kept'] else ''}"
        for name, entry in manifest["stages"].items()
    )
    return [
        ("written", manifest["written"]),
        ("workbench", f"{manifest['workbench']}, code {manifest['code']}"),
        ("seed", str(manifest["seed"])),
        ("cells (content hash)", manifest["cells"]),
        ("checkpoint (hash of the weights)", manifest["checkpoint"]["weights"]),
        *((f"{name} sha256", value) for name, value in manifest["checkpoint"]["sha256"].items()),
        ("stages", stages),
        ("device", manifest["device"]),
        ("peak memory", f"{manifest['peak_bytes'] / 2**20:.0f} MiB"),
        ("python", manifest["machine"]["python"]),
        *manifest["packages"].items(),
    ]
