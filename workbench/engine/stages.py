"""Stages of a run: done once, kept while their inputs are unchanged, run again when anything they depend on is not."""

from __future__ import annotations

import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import OutputError
from workbench.files import digest, plain, read_json, write_json, write_text

_BEGUN, _DONE = "begun.json", "done.json"
_SOURCES = ("py", "yaml", "json", "gmt", "js")


@cache
def code_version() -> str:
    """Hash of the package's own files, code and data."""
    root = Path(__file__).parents[1]
    out = hashlib.blake2b(digest_size=16)
    for path in sorted(path for kind in _SOURCES for path in root.rglob(f"*.{kind}")):
        out.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return out.hexdigest()


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def key_of(out: Path, name: str) -> str:
    """Key of what a stage holds now; empty where it has not ended.

    Parameters
    ----------
    out, name
        Folder of the run, and the stage.
    """
    done = out / "stages" / name / _DONE
    return str(read_json(done)["key"]) if done.is_file() else ""


def stands_on(out: Path, name: str, below: str) -> bool:
    """Whether what a stage left was made on what another stage holds now; True where the folder does not say.

    Parameters
    ----------
    out
        Folder of the run.
    name, below
        The stage, and the one whose key is among its inputs.
    """

    def last(stage: str) -> dict[str, Any] | None:
        folder = out / "stages" / stage
        if (folder / _DONE).is_file():
            return read_json(folder / _DONE)
        return {} if (folder / _BEGUN).is_file() else None

    own, under = last(name), last(below)
    if own is None or under is None:
        return True
    # Begun and not ended: nothing is known to stand on it.
    return bool(own and under) and under["key"] in own.get("inputs", [under["key"]])


@dataclass
class StageRunner:
    """Runs named stages in one folder and remembers what each depended on.

    Attributes
    ----------
    out
        Folder of the run.
    seconds, reused, peak
        Time of each stage, which were taken as they were, and the peak memory of the process when each was made (bytes).
    """

    out: Path
    seconds: dict[str, float] = field(default_factory=dict)
    reused: dict[str, bool] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            probe = self.out / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"The run folder '{self.out}' cannot be written ({error.strerror}); choose another with --out."
            ) from error

    def run(
        self, name: str, inputs: Any, work: Callable[[Path], dict[str, Any]], files: Sequence[Path] = ()
    ) -> dict[str, Any]:
        """Do a stage, unless it is done with the same inputs and the same code.

        Parameters
        ----------
        name
            Of the stage, and of its folder under ``stages/``.
        inputs
            Everything the result depends on, JSON-ready; the keys of earlier stages among it.
        work
            Does the work in the folder it is given and returns what later stages need, JSON-ready. It is called again
            in the same folder after an interruption, and may go on with what it finds there; what work with other
            inputs left is removed before.
        files
            What the stage leaves outside its folder; if one is gone, the stage is done again.

        Returns
        -------
        dict
            What `work` returned, and the stage's ``key``.
        """
        if (known := self.kept(name, inputs, files)) is not None:
            return known
        folder, key = self._place(name, inputs)
        done = folder / _DONE
        begun = folder / _BEGUN
        if folder.is_dir() and not (begun.is_file() and read_json(begun).get("key") == key):
            shutil.rmtree(folder)
        done.unlink(missing_ok=True)
        write_json(begun, {"key": key})
        print(f"[{name}] ...", file=sys.stderr)
        began = time.perf_counter()
        result = plain(work(folder))
        seconds = time.perf_counter() - began
        peak = peak_memory()
        made = {"key": key, "inputs": plain(inputs), "seconds": seconds, "peak_bytes": peak, "result": result}
        write_json(done, made)
        self.seconds[name], self.reused[name], self.peak[name] = seconds, False, peak
        print(f"[{name}] done in {seconds:.1f} s", file=sys.stderr)
        return {**result, "key": key}

    def kept(self, name: str, inputs: Any, files: Sequence[Path] = ()) -> dict[str, Any] | None:
        """What a stage left that was done with these inputs and this code; None where it was not.

        Parameters
        ----------
        name, inputs, files
            As in `run`.
        """
        folder, key = self._place(name, inputs)
        done = folder / _DONE
        if not all(file.is_file() for file in (done, *files)) or (found := read_json(done)).get("key") != key:
            return None
        self.seconds[name], self.reused[name], self.peak[name] = found["seconds"], True, found["peak_bytes"]
        print(f"[{name}] unchanged, kept", file=sys.stderr)
        return {**found["result"], "key": key}

    def _place(self, name: str, inputs: Any) -> tuple[Path, str]:
        return self.out / "stages" / name, digest(name, inputs, code_version())

    def runtime(self) -> pd.DataFrame:
        """Seconds and peak memory of the stages so far, also written to ``tables/runtime.csv``.

        Returns
        -------
        DataFrame
            ``stage``, ``seconds``, ``peak_bytes``.
        """
        rows = [(name, seconds, self.peak[name]) for name, seconds in self.seconds.items()]
        table = pd.DataFrame(rows, columns=["stage", "seconds", "peak_bytes"])
        path, text = self.out / "tables" / "runtime.csv", table.to_csv(index=False)
        if not path.is_file() or path.read_text() != text:
            write_text(path, text)
        return table
