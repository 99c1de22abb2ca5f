"""Objects of a user's own are the same exactly if their code, what it calls and what they hold are."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.engine.fingerprint import UnknownError, fingerprint

SOURCE = """
import numpy as np
CENTRE = 1.0

def helper(x):
    return x * 2  # a comment

class Mine:
    scale = 3

    def __init__(self, k=2):
        self.k, self.kinds = k, {"a", "b", "c"}

    def fit(self, X, y):
        if y in {"one", "two", "three"}:
            return [helper(x) for x in X]
        return np.mean(X) - CENTRE
"""


def made(source=SOURCE, *arguments, name="__main__"):
    """An object of a class as if typed at a prompt: there is no file of its source."""
    module = ModuleType(name)
    exec(compile(source, "<prompt>", "exec"), vars(module))
    return module.Mine(*arguments)


def test_the_same_code_and_settings_are_the_same_and_comments_do_not_count():
    same = [made(), made(SOURCE.replace("  # a comment", "")), made("\n\n" + SOURCE), made(SOURCE, 2)]
    assert len({fingerprint(one) for one in same}) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("x * 2", "x * 3"), ("CENTRE = 1.0", "CENTRE = 2.0"), ("scale = 3", "scale = 4"), ("np.mean", "np.sum")],
)
def test_what_the_code_calls_and_reads_counts(old, new):
    assert fingerprint(made()) != fingerprint(made(SOURCE.replace(old, new)))


def test_what_an_object_holds_counts():
    ways = [made(SOURCE, k) for k in (1, 1.0, True, "1", None, np.arange(3), np.arange(3.0), [1], (1,), torch.ones(2))]
    ways += [made(SOURCE, functools.partial(max, n)) for n in (1, 2)]
    ways += [made(SOURCE, np.random.default_rng(n)) for n in (1, 2)]
    ways += [made(SOURCE, torch.nn.Linear(2, n)) for n in (1, 2)]
    assert len({fingerprint(one) for one in ways}) == len(ways)


def test_estimators_are_known_by_their_parameters():
    ways = [PCA(3), PCA(4), make_pipeline(StandardScaler(), PCA(3)), make_pipeline(StandardScaler(), PCA(4))]
    assert len({fingerprint(one) for one in ways}) == 4
    assert fingerprint(make_pipeline(StandardScaler(), PCA(3))) == fingerprint(ways[2])


def test_an_object_that_holds_itself_has_an_end():
    one, other = made(), made()
    one.me, other.me = one, other
    assert fingerprint(one) == fingerprint(other) != fingerprint(made())


def test_a_function_of_ones_own_module_counts_by_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helpers_of_a_user.py").write_text("def helper(x):\n    return x\n")
    source = SOURCE.replace("def helper(x):\n    return x * 2  # a comment\n", "")
    by_name = made("from helpers_of_a_user import helper\n" + source)
    by_module = made("import helpers_of_a_user\n" + source.replace("helper(x)", "helpers_of_a_user.helper(x)"))
    inside = made(source.replace("return [helper", "import helpers_of_a_user as h\n            return [h.helper"))
    before = [fingerprint(one) for one in (by_name, by_module, inside)]
    module = sys.modules["helpers_of_a_user"]
    (tmp_path / "helpers_of_a_user.py").write_text("def helper(x):\n    return x + 1\n")
    exec(compile("def helper(x):\n    return x + 1\n", "<prompt>", "exec"), vars(module))
    by_name.fit.__globals__["helper"] = module.helper
    after = [fingerprint(one) for one in (by_name, by_module, inside)]
    assert not set(before) & set(after)


def test_what_cannot_be_told_apart_is_said():
    for held in (threading.Lock(), (n for n in range(3)), open(__file__)):
        with pytest.raises(UnknownError):
            fingerprint(made(SOURCE, held))


def test_another_process_finds_the_same():
    code = SOURCE + "\nfrom workbench.engine.fingerprint import fingerprint\nprint(fingerprint(Mine(2)))"
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
