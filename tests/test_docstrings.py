"""What experiments/docstrings.py counts, on source whose thin descriptions are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import load_script

SOURCE = '''
"""Module."""


class Kept:
    """A class.

    Attributes
    ----------
    width : int
        Number of columns, 1 or more.
    height, depth
        Of it.
    """

    def drawn(self, *places, **options):
        """Draw it.

        Parameters
        ----------
        *places
            Where each mark is put, in pixels.
        **options
            Some.

        Returns
        -------
        str
            Four words are fine here.
        """

        def inner(x):
            """Nested.

            Parameters
            ----------
            x
                A number of five whole words.
            """


def first(n, seed, near):
    """First.

    Parameters
    ----------
    n
        Number of draws, 1 or more.
    seed
        As in `second`.
    near
        As in `Kept.nothing`.
    """


def second(n, seed):
    """Second.

    Parameters
    ----------
    n, seed
        As in `first`.
    """


def _own(x):
    """Own.

    Raises
    ------
    ValueError
        Never.
    """


class _Hidden:
    """Hidden.

    Attributes
    ----------
    x
        One.
    """
'''


@pytest.fixture
def counted(tmp_path, monkeypatch, capsys):
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "some.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)

    def count(*arguments):
        monkeypatch.setattr(sys, "argv", ["docstrings.py", *arguments])
        with pytest.raises(SystemExit) as left:
            load_script("docstrings").main()
        return left.value.code, capsys.readouterr().out.splitlines()

    return count


def test_thin_descriptions_and_private_blocks_are_counted(counted):
    code, lines = counted()
    # Public: width, height, depth, places, options; n, seed, near; n, seed. Thin: height, depth, options, near, and both seeds,
    # each of which only refers to the other.
    assert code == 1 and lines[-1].split() == ["all", "10", "6", "2"]


def test_each_is_named(counted):
    _, lines = counted("--list")
    told = [line.split(maxsplit=1)[1] for line in lines if line.startswith("workbench/some.py:")]
    assert told == [
        "Kept height, depth: Of it.",
        "Kept.drawn options: Some.",
        "Kept.drawn.inner is private and has Parameters",
        "first seed: As in `second`.",
        "first near: As in `Kept.nothing`.",
        "second seed: As in `first`.",
        "_own is private and has Raises",
    ]


def test_nothing_thin_is_no_failure(counted, tmp_path):
    (tmp_path / "workbench" / "some.py").write_text('"""Nothing."""\n')
    assert counted()[0] == 0


def test_the_package_describes_every_parameter():
    script = Path(__file__).resolve().parents[1] / "experiments" / "docstrings.py"
    done = subprocess.run(
        [sys.executable, str(script), "--list"], capture_output=True, text=True, cwd=script.parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
