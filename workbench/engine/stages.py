"""Stages of long work: done once, kept while their inputs are unchanged, done again when anything they depend on is not."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from workbench.console import each_warning_once
from workbench.engine.code import code_of
from workbench.engine.record import BEGUN, DONE, damaged, made_of, read_control
from workbench.engine.tables import table_path, types_path, write_table
from workbench.files import PART, digest, hash_file, plain, write_json

Result = dict[str, Any]
Results = Mapping[str, Result]


@dataclass(frozen=True)
class Stage:
    """A part of long work.

    Attributes
    ----------
    name
        Names its folder under ``stages/``.
    work
        Does the work. It is given its folder and the results of the stages it comes `after` (and is `beside`), and returns what later
        stages and the report need, JSON-ready. After an interruption it is called again in the same folder and may go
        on with what it finds there; what work with other inputs left is removed before.
    inputs
        Everything else that the result depends on, JSON-ready; or a function that makes it of the results so far.
    after
        Stages whose results it reads. Their keys are among its inputs.
    tables
        Names of the tables that it leaves; those that only its work can tell stand in its result under ``tables``.
    files
        Other files that it leaves, relative to the output folder.
    part
        Part of the command that it belongs to; empty: it is always asked for.
    version
        Number that stands for its code in place of the modules it uses. Who declares one has to raise it with every change
        of what is computed.
    beside
        Stages whose results it reads, too, where there are any; unlike those it comes `after` they are not done for it.
    """

    name: str
    work: Callable[[Path, Results], Result]
    inputs: Any | Callable[[Results], Any] = ()
    after: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    part: str = ""
    version: int | None = None
    beside: tuple[str, ...] = ()

    def key(self, results: Results) -> str:
        """Hash of everything that the result depends on.

        Parameters
        ----------
        results
            Of the stages that were done or kept before, by name.
        """
        below = {name: results[name]["key"] for name in self.read(results)}
        return digest(self.name, self.given(results), below, self.code)

    def read(self, results: Results) -> list[str]:
        """Stages whose results it reads, of those there are.

        Parameters
        ----------
        results
            Of the stages that were done or kept before, by name.
        """
        return [*self.after, *(name for name in self.beside if name in results)]

    def given(self, results: Results) -> Any:
        """Its inputs, JSON-ready.

        Parameters
        ----------
        results
            Of the stages that were done or kept before, by name.
        """
        return plain(self.inputs(results) if callable(self.inputs) else self.inputs)

    @property
    def code(self) -> str | int:
        """Hash of the code of its work, or the number that stands for it."""
        return code_of(self.work) if self.version is None else self.version

    def left(self, out: Path, result: Result) -> list[Path]:
        """Files that its work has left outside its folder.

        Parameters
        ----------
        out
            Output folder that the files lie in.
        result
            What its work returned, for tables that it names.
        """
        names = dict.fromkeys((*self.tables, *result.get("tables", ())))
        tables = [table_path(out, name) for name in names]
        return [*tables, *map(types_path, tables), *(out / file for file in self.files)]


KEPT, GOES_ON, TO_MAKE, OPEN = "kept", "goes on", "to make", "depends"


@dataclass(frozen=True)
class StageState:
    """What will become of a stage, known before anything is done.

    Attributes
    ----------
    name
        Name of the stage, as in `Stage.name`.
    state
        ``kept``; ``goes on`` where it was stopped; ``to make``; or ``depends`` on what stages before it will find.
    why
        Why it is made though it was made before, or which stages it depends on; empty where there is nothing to say.
    seconds
        Time that it took when it was last made in this folder; None where it never was.
    """

    name: str
    state: str
    why: str = ""
    seconds: float | None = None


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes; what it holds now where the system keeps no peak."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class StageRunner:
    """Does stages in one folder and remembers what each depended on.

    Attributes
    ----------
    out
        Output folder that holds ``stages/``.
    trust
        Whether files of finished stages are believed by their size; else their content is compared with its hash.
    seconds, reused, peak
        By stage: its time, whether it was taken as it was, and the peak memory of the process when it was made (bytes).
    results
        By stage: what its work returned, and its ``key``.
    """

    out: Path
    trust: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    reused: dict[str, bool] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    # Damage that `plan` has found, by stage and key, so that no file is hashed twice.
    _seen: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def states(self, stages: Sequence[Stage]) -> list[StageState]:
        """What will be kept, go on or be made again, and why; files of finished stages are read for it, and nothing is done.

        Parameters
        ----------
        stages
            All that will be asked for, in their order.
        """
        known, pending, found = dict(self.results), list[str](), list[StageState]()
        names = {stage.name for stage in stages}
        for stage in stages:
            folder = self.out / "stages" / stage.name
            made, begun = made_of(folder), read_control(folder / BEGUN)
            # Inputs that are made of results may be read from the tables of stages that are to be made.
            waits = [name for name in stage.after if name not in known] or (pending if callable(stage.inputs) else [])
            # One that is not asked for may be found to be kept.
            there = (name for name in stage.beside if name in names or made_of(self.out / "stages" / name))
            waits = waits or [name for name in there if name not in known]
            if waits:
                state, why = OPEN, f"depends on {', '.join(waits)}"
            else:
                key = stage.key(known)
                known[stage.name], state, why = {"key": key}, TO_MAKE, ""
                if made.get("key") == key:
                    faults = self._seen[stage.name, key] = damaged(self.out, made["files"], self.trust)
                    known[stage.name], state = {**made["result"], "key": key}, TO_MAKE if faults else KEPT
                    why = "; ".join([f"{name} was {how}" for name, how in faults.items()][:1])
                    why += f", and {len(faults) - 1} more files" if len(faults) > 1 else ""
                elif made or begun:
                    on = not made and begun.get("key") == key
                    state, why = (GOES_ON, "") if on else (TO_MAKE, _difference(stage, made or begun, known))
            if state != KEPT:
                pending.append(stage.name)
            found.append(StageState(stage.name, state, why, made.get("seconds")))
        return found

    def plan(self, stages: Sequence[Stage]) -> None:
        """Say in a line what is kept, what goes on and what is made again, before anything long; nothing in a new folder.

        Parameters
        ----------
        stages
            All that will be asked for, in their order.
        """
        found = self.states(stages)
        said = {state: [one.name for one in found if one.state == state] for state in (KEPT, GOES_ON, TO_MAKE, OPEN)}
        if said[KEPT] or said[GOES_ON]:
            said["to make if what is before them changes"] = said.pop(OPEN)
            parts = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
            print(f"[stages] {'; '.join(parts)}", file=sys.stderr)

    def run(self, stage: Stage) -> Result:
        """Do a stage, unless it is done with the same inputs and the same code and all that it left is there unchanged.

        Parameters
        ----------
        stage
            The stage; those it comes after were done or kept before.
        """
        if (known := self.kept(stage)) is not None:
            return known
        folder, key = self.out / "stages" / stage.name, stage.key(self.results)
        done, begun, made = folder / DONE, folder / BEGUN, made_of(folder)
        if folder.is_dir() and not (begun.is_file() and read_control(begun).get("key") == key):
            own = f"stages/{stage.name}/"
            left = {name: record for name, record in made.get("files", {}).items() if not name.startswith(own)}
            self._keep_changed(stage.name, damaged(self.out, left, self.trust))
            shutil.rmtree(folder)
        elif made.get("key") == key:
            self._put_away(stage, made)
        done.unlink(missing_ok=True)
        read = stage.read(self.results)
        below = {name: self.results[name]["key"] for name in read}
        about = {"key": key, "after": below, "inputs": _parts(stage.given(self.results)), "code": stage.code}
        write_json(begun, about)
        print(f"[{stage.name}] ...", file=sys.stderr)
        began = time.perf_counter()
        with each_warning_once():
            result = plain(stage.work(folder, {name: self.results[name] for name in read}))
        seconds, peak = time.perf_counter() - began, peak_memory()
        files = {
            path.relative_to(self.out).as_posix(): [path.stat().st_size, hash_file(path)]
            for path in (*stage.left(self.out, result), *_inside(folder))
        }
        made = {**about, "seconds": seconds, "peak_bytes": peak, "files": files, "result": result}
        write_json(done, {**made, "hash": digest(plain(made))})
        print(f"[{stage.name}] done in {seconds:.1f} s", file=sys.stderr)
        return self._remember(stage.name, {**result, "key": key}, seconds, peak, reused=False)

    def kept(self, stage: Stage, asked: bool = True) -> Result | None:
        """What a stage left that was done with these inputs and this code; None where it has to be done.

        A file that was changed, cut or removed since is named, and the stage has to be done again.

        Parameters
        ----------
        stage
            Stage whose inputs and files are looked at.
        asked
            Whether it will be done where it is not kept, for what is said.
        """
        if not all(name in self.results for name in stage.after):
            return None
        key, made = stage.key(self.results), made_of(self.out / "stages" / stage.name)
        if made.get("key") != key:
            return None
        if faults := self._damage(stage.name, made):
            then = "made again" if asked else "left out until it is made again"
            for name, state in faults.items():
                print(f"[{stage.name}] {name} was {state} since this stage wrote it; {then}", file=sys.stderr)
            return None
        print(f"[{stage.name}] unchanged, kept", file=sys.stderr)
        result = {**made["result"], "key": key}
        return self._remember(stage.name, result, made["seconds"], made["peak_bytes"], reused=True)

    def _put_away(self, stage: Stage, made: Mapping[str, Any]) -> None:
        """Take the files of a damaged stage out of its way; what is sound in its own folder may be gone on with."""
        damage = self._damage(stage.name, made)
        self._keep_changed(stage.name, damage)
        for name in damage:
            (self.out / name).unlink(missing_ok=True)
        for path in stage.left(self.out, made["result"]):
            path.unlink(missing_ok=True)

    def _keep_changed(self, stage: str, damage: Mapping[str, str]) -> None:
        """Put results aside that somebody has changed, who may have written notes into them."""
        for name, state in damage.items():
            path = self.out / name
            if state == "changed" and self.out / "stages" / stage not in path.parents:
                aside, n = path.with_name(f"{path.name}.changed"), 1
                while aside.exists():
                    n += 1
                    aside = path.with_name(f"{path.name}.{n}.changed")
                print(f"[{stage}] what {name} holds now is kept as {aside.name}", file=sys.stderr)
                path.replace(aside)

    def _damage(self, name: str, made: Mapping[str, Any]) -> dict[str, str]:
        """What happened to the files of a finished stage; they are not read again right after `plan` has."""
        seen = self._seen.pop((name, made["key"]), None)
        return damaged(self.out, made["files"], self.trust) if seen is None else seen

    def _remember(self, name: str, result: Result, seconds: float, peak: int, *, reused: bool) -> Result:
        self.results[name], self.seconds[name], self.peak[name], self.reused[name] = result, seconds, peak, reused
        return result

    def runtime(self) -> pd.DataFrame:
        """Seconds and peak memory of the stages so far, also written to ``tables/runtime.csv``.

        Returns
        -------
        DataFrame
            ``stage``, ``seconds``, ``peak_bytes``.
        """
        rows = [(name, seconds, self.peak[name]) for name, seconds in self.seconds.items()]
        table = pd.DataFrame(rows, columns=["stage", "seconds", "peak_bytes"])
        write_table(table_path(self.out, "runtime"), table)
        return table


def run_all(runner: StageRunner, stages: Sequence[Stage], parts: Sequence[str] = ()) -> None:
    """Do stages in their order; those of parts that are not asked for are kept where they can be.

    Parameters
    ----------
    runner
        Does them, and remembers their results.
    stages
        Each after those that it comes after.
    parts
        Parts that are asked for; all when empty.
    """
    asked = wanted(stages, parts)
    runner.plan(asked)
    for stage in stages:
        if any(stage is one for one in asked):
            runner.run(stage)
        else:
            runner.kept(stage, asked=False)


def wanted(stages: Sequence[Stage], parts: Sequence[str]) -> list[Stage]:
    """Stages of the parts that are asked for, those that belong to no part, and all that they come after.

    Parameters
    ----------
    stages, parts
        As in `run_all`.
    """
    if not parts:
        return list(stages)
    names = {stage.name for stage in stages if not stage.part or stage.part in parts}
    for stage in reversed(stages):
        names |= set(stage.after) if stage.name in names else set()
    return [stage for stage in stages if stage.name in names]


def _parts(given: Any) -> dict[str, str]:
    """Hashes of inputs by name, by which a later command says which of them are others."""
    return {name: digest(value) for name, value in (given if isinstance(given, dict) else {"": given}).items()}


def _difference(stage: Stage, made: Mapping[str, Any], known: Results) -> str:
    """Which of what a stage was begun with is otherwise now, as far as its record says."""
    below = [f"stage {name}" for name, key in made.get("after", {}).items() if known.get(name, {}).get("key") != key]
    old, new = made.get("inputs", {}), _parts(stage.given(known))
    others = (
        [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)] if "inputs" in made else []
    )
    code = ["code"] if "code" in made and made["code"] != stage.code else []
    return f"others than before: {_sentence([*below, *filter(None, others), *code]) or 'inputs or code'}"


def _sentence(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _inside(folder: Path) -> list[Path]:
    """What a stage has left in its own folder, without what says so, locks, and halves of files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.name not in (BEGUN, DONE) and path.suffix not in (".lock", PART)]
