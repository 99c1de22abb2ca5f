"""What the fast tests find: one fault at a time is put into a copy of the package, and the tests of its module run there.

    python experiments/seeded_faults.py

Prints a line for each fault as its tests end, and the table at last. `--docs docs/seeded_faults.md` writes it between the two
comments of that page. What was found is kept in `--out`, so that the next call runs only what has changed since: the module,
its tests, or the fault. Ends with 1 where fewer than `--least` of the faults are found. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- the table of experiments/seeded_faults.py -->", "<!-- its end -->"
_COPIED = ("workbench", "tests", "experiments", "pyproject.toml")
_LIMIT = 600


@dataclass(frozen=True)
class Fault:
    """A change of one place that makes a module compute something else.

    Attributes
    ----------
    module
        File under workbench/.
    right, wrong
        Text that the file has once, and what is put in its place.
    what
        What is wrong then, in a few words.
    """

    module: str
    right: str
    wrong: str
    what: str


FAULTS = (
    Fault("stats.py", "(null >= observed - 1e-12)", "(null > observed + 1e-12)", "equal draws do not count for p"),
    Fault("stats.py", "* len(kept) / np.arange", "* len(p) / np.arange", "q counts the tests without p"),
    Fault("stats.py", "values.var(ddof=1) * (1 / n", "values.var() * (1 / n", "variance over n, not n - 1"),
    Fault(
        "stats.py",
        "test_share / (1 - test_share)))",
        "(1 - test_share) / test_share))",
        "train / test, not test / train",
    ),
    Fault("stats.py", "stdtrit(self.df, 0.8)", "stdtrit(self.df, 0.9)", "power of 90 %, not 80 %"),
    Fault("stats.py", "2 * min((null <= observed)", "min((null <= observed)", "one-sided p of the signed ranks"),
    Fault(
        "ablation/effects.py",
        "np.unique(w[:_TOLD_BY], axis=1).shape[1])",
        "w.shape[0])",
        "interval as if of many cells or donors",
    ),
    Fault("stats.py", "draws, [0.025, 0.975])", "draws, [0.05, 0.95])", "interval of 90 %, not 95 %"),
    Fault(
        "operators/fitness.py",
        "in (same, same[::-1]))",
        "in (same[::-1], same))",
        "displacement taken off where the control agrees less",
    ),
    Fault(
        "operators/reference.py",
        "return self.levels[0].agreement - LOSS",
        "return self.levels[0].agreement - 4 * LOSS",
        "a file is fit where the control agrees far less",
    ),
    Fault(
        "ablation/pairs.py",
        "both - singles[a] - singles[b]",
        "both - singles[a] + singles[b]",
        "sign of a single effect",
    ),
    Fault(
        "ablation/nulls.py",
        "np.maximum(size, width / 2) + _POWER",
        "np.maximum(size, width) + _POWER",
        "whole interval for half of it",
    ),
    Fault(
        "ablation/nulls.py",
        "(1 + len(sizes)) + 1e-9) - 1",
        "(1 + len(sizes)) + 1e-9)",
        "one null draw too many may be larger",
    ),
    Fault(
        "ablation/nulls.py",
        "stdtr(degrees, (null - size) / more) +",
        "stdtr(degrees, (np.abs(null) - size) / more) +",
        "a draw's sign does not count for one side",
    ),
    Fault("ablation/nulls.py", "own**2 - draws**2", "(own - draws) ** 2", "errors are taken apart, not variances"),
    Fault(
        "ablation/nulls.py", "draws / (draws - 1)) / n", "draws / (draws - 1)) / draws", "over donors, not over cells"
    ),
    Fault(
        "ablation/metrics.py",
        "total / n.clamp(min=1)",
        "total / run.masked.shape[1]",
        "mean over all values, not the masked",
    ),
    Fault(
        "ablation/metrics.py",
        "(counts - own)[..., None]",
        "counts[..., None]",
        "the cell stays in the count of its stage",
    ),
    Fault(
        "ablation/metrics.py",
        "[np.argsort(np.argsort(ids))]",
        "[np.argsort(ids)]",
        "order for rank: the mask depends on gene order",
    ),
    Fault(
        "ablation/attribution.py", "(step + 0.5) / steps", "step / steps", "left ends, not midpoints, of the integral"
    ),
    Fault("ablation/attribution.py", "side / (2 * len(signs))", "side / len(signs)", "the second-order term twice"),
    Fault(
        "ablation/edits.py",
        "new = x - self.along(x, ablation)",
        "new = self.along(x, ablation)",
        "the direction is kept, the rest removed",
    ),
    Fault("ablation/reference.py", "counts[:-1]\n", "counts[1:]\n", "counts of the next gene"),
    Fault(
        "operators/let.py",
        "-2.0 * beta * weighted / math",
        "-2.0 * weighted / math",
        "a factor missing in the gradient of the angles",
    ),
    Fault(
        "operators/let.py", "square - 2 * np.dot(mean, b)", "square + 2 * np.dot(mean, b)", "sign in the reconstruction"
    ),
    Fault(
        "operators/adaptor.py",
        "self.bias_ = mean + (found.b",
        "self.bias_ = (found.b",
        "the mean is missing in the bias",
    ),
    Fault("operators/readout.py", "n_yes * (n_yes + 1) / 2", "n_yes * (n_yes - 1) / 2", "off by n in AUROC"),
    Fault(
        "operators/readout.py",
        "table.sum(2), table.sum(1)",
        "table.sum(1), table.sum(2)",
        "wrong axis: precision for recall",
    ),
    Fault("operators/cross_validation.py", "np.std(values, ddof=1)", "np.std(values)", "sd over n, not n - 1"),
    Fault(
        "operators/readout_weights.py",
        "offset=readout.offset / temperature",
        "offset=readout.offset",
        "only half of the logits is cooled",
    ),
    Fault(
        "operators/controls.py",
        "/ np.sqrt(n_cells)[:, None]",
        "/ n_cells[:, None]",
        "noise by n cells, not by their root",
    ),
    Fault(
        "operators/controls.py",
        "corrected_difference(one - other, test_share)",
        "corrected_difference(other - one, test_share)",
        "sign of what ours adds",
    ),
    Fault("operators/operator.py", "[one - other for", "[other - one for", "sign of the drift"),
    Fault(
        "geometry/dimension.py",
        "-np.log1p(-np.arange(1, kept + 1) / n)",
        "-np.log1p(-np.arange(kept) / n)",
        "off by one in the empirical distribution",
    ),
    Fault("geometry/dimension.py", "(near.shape[1] - 1) / total", "near.shape[1] / total", "k for k - 1"),
    Fault("geometry/dimension.py", "(n * (n - 1) / 2)", "(n * n / 2)", "pairs of a point with itself"),
    Fault(
        "geometry/quality.py",
        "(2 * n - 3 * of_k - 1)",
        "(2 * n - 3 * of_k + 1)",
        "sign of 1 in the scale of trustworthiness",
    ),
    Fault(
        "geometry/quality.py",
        "np.abs(ranks - own) / own)",
        "np.abs(ranks - own) / ranks)",
        "relative to the other space's rank",
    ),
    Fault(
        "geometry/shape.py",
        "moran(freed(e[order]))",
        "moran(e[order])",
        "permuted residuals are not freed of the plane",
    ),
    Fault("evidence/permutation.py", "/ (2 * scale)", "/ scale", "each pair counts twice"),
    Fault("evidence/statistics.py", "(6 * n)))", "(12 * n)))", "factor in Nemenyi's difference"),
    Fault(
        "factors/factorise.py",
        "factors.strength * of_read * of_write",
        "factors.strength * of_read",
        "the strength keeps what was cut from one side",
    ),
    Fault(
        "factors/stability.py",
        "both / (2 * self.n_top - both)",
        "both / (2 * self.n_top)",
        "union counts the shared twice",
    ),
    Fault(
        "factors/necessity.py",
        "v[0] - v[2:] for scores",
        "v[2:] - v[0] for scores",
        "sign of the drops that rank factors",
    ),
    Fault(
        "capture/pairs.py", "sums[head, genes[first + i]]", "sums[head, genes[i]]", "later queries go to the first rows"
    ),
    Fault(
        "cells/scale.py", "(1 - LOST) * self.shared", "LOST * self.shared", "a cell may lose nine tenths of its total"
    ),
    Fault("geometry/cosines.py", "n**2 - copies", "n**2 - n", "pairs of a copy with itself"),
    Fault("geometry/residual.py", "n_clusters / (n_clusters - 1)", "1.0", "the bootstrap's correction is missing"),
    Fault(
        "geometry/expression.py",
        "mean + mean * mean / theta), -limit",
        "mean + mean / theta), -limit",
        "a square missing in the variance",
    ),
    Fault(
        "operators/shift.py",
        "float(np.vdot(chance, squares)) / (n * k)",
        "float(np.vdot(chance, squares)) / n",
        "spread by cells, not by numbers",
    ),
    Fault("evidence/probing.py", "values.std(ddof=1)", "values.std()", "sd over n, not n - 1"),
    Fault(
        "evidence/latent_measures.py",
        "np.abs(single - 0.5).argmax()",
        "single.argmax()",
        "an axis that is upside down is never the best",
    ),
    Fault(
        "dictionaries/alike.py",
        "np.log(within) + 1e-12",
        "np.log(within) - 1e-12",
        "features just within the factor are left out",
    ),
    Fault("models/scgpt/binning.py", "quantiles[e] * (n - 1)", "quantiles[e] * n", "off by one in the bin edges"),
)


def text_with(fault: Fault, root: Path) -> str:
    """Text of the module with the fault in it.

    Parameters
    ----------
    fault
        Fault that is put in.
    root
        Folder that holds workbench/.
    """
    text = (root / "workbench" / fault.module).read_text(encoding="utf-8")
    if (n := text.count(fault.right)) != 1:
        raise SystemExit(
            f"workbench/{fault.module} has '{fault.right.strip()}' {n} times, not once; mend the list of faults."
        )
    return text.replace(fault.right, fault.wrong)


def tests_of(fault: Fault, root: Path) -> list[str]:
    """Test files of the module, by the layout that `make test-changed` goes by.

    Parameters
    ----------
    fault
        Fault whose module is looked at.
    root
        Folder that holds workbench/ and tests/.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from changed import asked_by

    return asked_by([f"workbench/{fault.module}"], root)


def mark(fault: Fault, root: Path) -> str:
    """Hash of what decides whether the fault is found: the module with the fault in it, and its tests.

    Parameters
    ----------
    fault, root
        As in `tests_of`.
    """
    held = hashlib.sha256(text_with(fault, root).encode())
    for name in tests_of(fault, root):
        held.update((root / name).read_bytes())
    return held.hexdigest()[:16]


def run(fault: Fault, copy: Path) -> dict[str, object]:
    """Put a fault into the copy, run the fast tests of its module there up to the first failure, and take it out again.

    Parameters
    ----------
    fault
        Fault to put in.
    copy
        Copy of the checkout.
    """
    path, begun = copy / "workbench" / fault.module, time.monotonic()
    right, wrong = path.read_text(encoding="utf-8"), text_with(fault, copy)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "--timeout", str(_LIMIT)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    try:
        path.write_text(wrong, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests_of(fault, copy)],
            **{"cwd": copy, "env": environment, "capture_output": True, "text": True},
        )
    finally:
        path.write_text(right, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"The tests of {fault.module} did not run ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    failed = re.search(r"^(?:FAILED|ERROR) \S*?::(\w+)", done.stdout, re.MULTILINE)
    by = failed[1] if failed else ""
    return {"found": done.returncode == 1, "by": by, "seconds": round(time.monotonic() - begun, 1)}


def table(results: dict[Fault, dict[str, object]]) -> str:
    """All faults in Markdown, and below how many were found.

    Parameters
    ----------
    results
        What `run` gave for each fault.
    """
    lines = ["| `workbench/` | fault | found by |", "|---|---|---|"]
    for fault, found in results.items():
        by = f"`{found['by']}`" if found["found"] else "**nothing**"
        lines.append(f"| `{fault.module}` | {fault.what} | {by} |")
    n = sum(bool(found["found"]) for found in results.values())
    return "\n".join([*lines, "", f"Found: {n} of {len(results)} ({n / len(results):.0%})."])


def main() -> None:
    """Run what is not kept, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "artifacts" / "seeded_faults.json", help="what is kept between calls"
    )
    parser.add_argument("--docs", type=Path, help="page that gets the table between its two comments")
    parser.add_argument("--least", type=float, default=0.9, help="share that has to be found")
    given = parser.parse_args()
    kept = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    results: dict[Fault, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        copy.mkdir()
        for path in sorted(ROOT.iterdir()):
            if path.name not in _COPIED:
                (copy / path.name).symlink_to(path)
            elif path.is_dir():
                shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(path, copy / path.name)
        for number, fault in enumerate(FAULTS, 1):
            at = mark(fault, copy)
            results[fault] = kept[at] if at in kept else run(fault, copy)
            kept[at] = results[fault]
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            said = f"found by {results[fault]['by']}" if results[fault]["found"] else "NOT FOUND"
            print(
                f"{number}/{len(FAULTS)}  {fault.module}: {fault.what}: {said} ({results[fault]['seconds']} s)",
                flush=True,
            )
    text = table(results)
    print(text)
    if given.docs:
        page = given.docs.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        given.docs.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    share = sum(bool(found["found"]) for found in results.values()) / len(results)
    raise SystemExit(share < given.least)


if __name__ == "__main__":
    main()
