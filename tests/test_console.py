"""Lines as wide as the terminal, and sizes and times for people."""

from __future__ import annotations

import sys
import warnings

import pytest

from workbench.console import aligned, columns, each_warning_once, fitted, size_text, time_text


def test_long_lines_are_broken_between_words_and_stand_further_right():
    said = fitted("  name  one two three four five six\nshort", 20)
    assert said.splitlines() == ["  name  one two", "      three four", "      five six", "short"]
    assert fitted("a " * 50, None) == "a " * 50


def test_paths_and_commands_stay_whole():
    for line in (
        "/a/folder with words/and a file",
        "  workbench run a.yaml --set factors={}",
        "    pip install 'a b c d e'",
    ):
        assert fitted(line, 10) == line


def test_only_a_terminal_has_a_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert columns() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert columns() == 40


def test_empty_columns_are_left_out():
    assert aligned(("a", "b", "c"), [("1", "", "x"), ("22", "", "")]) == ["a   c", "1   x", "22"]


def test_sizes_and_times():
    sizes = (None, 3, 2048, 3 * 2**20, 5 * 2**30)
    assert list(map(size_text, sizes)) == ["unknown", "3 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
    assert [time_text(seconds) for seconds in (2, 600, 7200)] == ["2 s", "10 min", "2.0 h"]


def test_a_warning_is_shown_once_though_libraries_put_filters_on_and_off():
    def give(words):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
        warnings.warn(words, UserWarning, stacklevel=1)

    with pytest.warns(UserWarning) as seen:
        for words in ("one", "one", "other", "one"):
            give(words)
    assert len(seen) == 4, "what Python does of itself"
    with pytest.warns(UserWarning) as seen:
        with each_warning_once():
            for words in ("one", "one", "other", "one"):
                give(words)
        give("one")
    assert [str(one.message) for one in seen] == ["one", "other", "one"]
