"""Tables on the disk: what was written is read, label by label and bit by bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from workbench.engine.tables import (
    as_text,
    from_text,
    read_table,
    read_tables,
    table_path,
    there,
    types_path,
    write_table,
)
from workbench.errors import ArtifactError

# Whatever a reader of CSV might take for something else.
LABELS = [
    *("NA", "nan", "NaN", "None", "null", "NULL", "N/A", "n/a", "<NA>", "-", "#N/A", "inf", "-inf", "Infinity"),
    *("1e5", "01", "1", "1.0", "-0", "0x10", "1_000", "1,5", "True", "False", "true", "yes", "2024-01-02", "12:30"),
    *("", " ", " a ", "a,b", 'say "so"', "two\nlines", "tab\there", "'", '"', ";", "#", "T cells, CD4+/CD45RO+"),
    *("Zelle", "Zölle", "細胞", "\N{GREEK SMALL LETTER ALPHA}\N{GREEK SMALL LETTER BETA}", "é", "\N{DNA DOUBLE HELIX}"),
    *("=1+1", "\\", "\\n", "a\\b", "\u00a0", "\ufeff", "L0H0", "gene:CD3E"),
]


def round_trip(tmp_path, table, index=None):
    path = tmp_path / "tables" / "one.csv"
    assert write_table(path, table, index) == path
    return read_table(path, index)


@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_a_label_stays_that_label(tmp_path, label):
    table = pd.DataFrame({"name": [label], "value": [0.1]})
    assert_frame_equal(round_trip(tmp_path, table), table)


def test_all_labels_together_and_as_index(tmp_path):
    table = pd.DataFrame({"name": LABELS, "n": range(len(LABELS))})
    assert_frame_equal(round_trip(tmp_path, table), table)
    named = table.set_index("name")
    assert_frame_equal(round_trip(tmp_path, named, "name"), named)


def test_a_missing_label_is_none_of_them(tmp_path):
    table = pd.DataFrame({"name": ["", None, "NA", np.nan, "nan", ""], "n": range(6)})
    again = round_trip(tmp_path, table)
    assert again["name"].isna().tolist() == [False, True, False, True, False, False]
    assert again["name"].dropna().tolist() == ["", "NA", "nan", ""]


def test_floats_come_back_bit_by_bit(tmp_path):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, 3000, dtype=np.uint64) | (rng.integers(0, 2, 3000, dtype=np.uint64) << np.uint64(63))
    values = bits.view(np.float64)
    special = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 123456789012345678.0, np.pi, np.inf, -np.inf]
    values = np.concatenate([values[np.isfinite(values)], special])
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).astype(np.float64)
    table = pd.DataFrame({"value": values, "single": single})
    again = round_trip(tmp_path, table)
    for name in table:
        assert again[name].to_numpy().tobytes() == table[name].to_numpy().tobytes()


def test_missing_numbers_stay_missing(tmp_path):
    table = pd.DataFrame({"value": [1.5, np.nan, -2.0], "all": [np.nan] * 3, "n": [1, 2, 3]})
    assert_frame_equal(round_trip(tmp_path, table), table)


def test_whole_numbers_with_missing_ones_are_numbers(tmp_path):
    table = pd.DataFrame({"n": [3, None, 2**53], "wide": [2**62, 2**62 + 1, -1]})
    again = round_trip(tmp_path, table)
    assert again["n"].dtype == np.float64 and again["n"].isna().tolist() == [False, True, False]
    assert again["wide"].dtype == np.int64 and again["wide"].tolist() == [2**62, 2**62 + 1, -1]
    nullable = pd.DataFrame({"n": pd.array([1, None, 3], dtype="Int64")})
    assert round_trip(tmp_path, nullable)["n"].tolist()[::2] == [1.0, 3.0]


def test_numbers_that_happen_to_be_whole_stay_numbers(tmp_path):
    table = pd.DataFrame({"value": [1.0, 2.0], "count": [1, 2]})
    assert round_trip(tmp_path, table).dtypes.tolist() == [np.float64, np.int64]


def test_truth_values_stay_truth_values(tmp_path):
    table = pd.DataFrame({"there": [True, False, True], "label": ["True", "False", "maybe"]})
    assert_frame_equal(round_trip(tmp_path, table), table)
    with_gaps = pd.DataFrame({"there": [True, None, False], "n": [1, 2, 3]})
    again = round_trip(tmp_path, with_gaps)
    assert again["there"].iat[0] is True and again["there"].iat[2] is False and pd.isna(again["there"].iat[1])


@pytest.mark.parametrize(
    "column",
    [[None, None, None], [np.nan, np.nan, np.nan], ["", "", ""], ["", None, ""]],
    ids=["None", "NaN", "empty labels", "empty labels and missing ones"],
)
def test_columns_of_nothing(tmp_path, column):
    table = pd.DataFrame({"name": column, "n": [1, 2, 3]})
    again = round_trip(tmp_path, table)
    assert again["name"].isna().tolist() == table["name"].isna().tolist()
    assert len(again) == 3 and again["n"].tolist() == [1, 2, 3]


def test_a_table_of_one_column_keeps_its_missing_rows(tmp_path):
    for column in ([1.5, np.nan, 2.5], ["a", None, "b"], ["", "a", ""], [None, None]):
        table = pd.DataFrame({"only": column})
        again = round_trip(tmp_path, table)
        assert len(again) == len(table) and again["only"].isna().tolist() == table["only"].isna().tolist()


def test_tables_without_rows_or_columns(tmp_path):
    empty = pd.DataFrame({"name": pd.Series(dtype=str), "value": pd.Series(dtype=float), "n": pd.Series(dtype=int)})
    again = round_trip(tmp_path, empty)
    assert list(again.columns) == ["name", "value", "n"] and len(again) == 0
    assert again["value"].dtype == np.float64 and again["n"].dtype == np.int64
    assert list(round_trip(tmp_path, pd.DataFrame(columns=["a", "b"])).columns) == ["a", "b"]
    assert round_trip(tmp_path, pd.DataFrame()).shape == (0, 0)


def test_a_column_of_several_kinds_is_text(tmp_path):
    again = round_trip(tmp_path, pd.DataFrame({"mixed": ["a", 1, 2.5, True, None]}))
    assert again["mixed"].tolist()[:4] == ["a", "1", "2.5", "True"] and pd.isna(again["mixed"].iat[4])
    # Numbers of several kinds are numbers.
    assert round_trip(tmp_path, pd.DataFrame({"mixed": [1, 2.5, None]}, dtype=object))["mixed"].tolist()[:2] == [1, 2.5]
    categories = pd.DataFrame({"kind": pd.Categorical(["01", "NA", "01"])})
    assert round_trip(tmp_path, categories)["kind"].tolist() == ["01", "NA", "01"]


def test_names_of_columns_stay(tmp_path):
    table = pd.DataFrame({"NA": [1.0], "a,b": [2.0], "1": ["01"], "two\nlines": [True], "Unnamed: 0": [3]})
    assert list(round_trip(tmp_path, table).columns) == list(table.columns)
    assert_frame_equal(round_trip(tmp_path, table), table)


def test_the_order_of_columns_may_be_changed_by_hand(tmp_path):
    path = table_path(tmp_path, "one")
    write_table(path, pd.DataFrame({"name": ["01", ""], "value": [1.0, 2.0]}))
    path.write_text("value,name\n1.0,01\n2.0,\n", encoding="utf-8")
    again = read_table(path)
    assert again["name"].tolist() == ["01", ""] and again["value"].tolist() == [1.0, 2.0]


def test_rows_that_were_taken_out_by_hand_do_no_harm(tmp_path):
    path = table_path(tmp_path, "one")
    write_table(path, pd.DataFrame({"name": ["a", "", ""], "value": [1.0, 2.0, 3.0]}))
    path.write_text("name,value\na,1.0\n", encoding="utf-8")
    assert read_table(path)["name"].tolist() == ["a"]


# Without the file of types


def bare(tmp_path, table):
    path = table_path(tmp_path, "bare")
    write_table(path, table)
    types_path(path).unlink()
    return read_table(path)


def test_without_types_only_an_empty_field_is_missing(tmp_path):
    labels = [label for label in LABELS if label and "\r" not in label]
    again = bare(tmp_path, pd.DataFrame({"name": labels, "value": np.linspace(0, 1, len(labels))}))
    assert again["name"].tolist() == labels and again["value"].dtype == np.float64
    again = bare(tmp_path, pd.DataFrame({"name": ["a", None], "value": [None, 0.1]}))
    assert again.isna().to_numpy().tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("column", ["cell_id", "cell_type", "donor", "tissue", "batch"])
def test_without_types_standard_columns_are_text(tmp_path, column):
    again = bare(tmp_path, pd.DataFrame({column: ["01", "1", ""], "n": [1, 2, 3]}))
    assert again[column].tolist() == ["01", "1", ""] and again["n"].tolist() == [1, 2, 3]


# What is wrong


def test_a_table_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="absent.csv' cannot be read .*run the command that wrote it again"):
        read_table(table_path(tmp_path, "absent"))


@pytest.mark.parametrize("text", ["", "name,value\na,not a number\n", 'name,value\n"a,1\n', "name,value\na,1,2,3\nb\n"])
def test_a_table_that_was_cut_or_changed_is_said(tmp_path, text):
    path = table_path(tmp_path, "one")
    write_table(path, pd.DataFrame({"name": ["a"], "value": [1.0]}))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="one.csv' cannot be read") as error:
        read_table(path)
    assert "\n" not in str(error.value)


def test_whole_numbers_that_were_made_others_by_hand_are_said(tmp_path):
    path = table_path(tmp_path, "one")
    write_table(path, pd.DataFrame({"n": [1, 2]}))
    path.write_text("n\n1\n2.5\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="one.csv' cannot be read"):
        read_table(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"columns": 3}', '{"empty": {}}'])
def test_types_that_were_cut_are_said(tmp_path, text):
    path = table_path(tmp_path, "one")
    write_table(path, pd.DataFrame({"name": ["a"]}))
    types_path(path).write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="one"):
        read_table(path)


# Several


def test_tables_of_a_run_by_name(tmp_path):
    assert there(tmp_path) == set() and read_tables(tmp_path, ["a"]) == {}
    write_table(table_path(tmp_path, "a"), pd.DataFrame({"n": [1]}))
    write_table(table_path(tmp_path, "b"), pd.DataFrame({"n": [2]}))
    assert there(tmp_path) == {"a", "b"} and list(read_tables(tmp_path, ["b", "absent", "a"])) == ["b", "a"]


def test_writing_again_leaves_nothing_of_what_was_there(tmp_path):
    path = table_path(tmp_path, "a")
    write_table(path, pd.DataFrame({"name": ["01", ""], "n": [1, 2]}))
    write_table(path, pd.DataFrame({"name": [1.5, 2.5]}))
    assert read_table(path)["name"].tolist() == [1.5, 2.5]
    assert sorted(one.name for one in path.parent.iterdir()) == ["a.csv", "a.types.json"]


def test_the_same_table_is_the_same_bytes(tmp_path):
    table = pd.DataFrame({"name": LABELS, "value": np.linspace(0, 1, len(LABELS))})
    one, other = (write_table(tmp_path / name / "t.csv", table).read_bytes() for name in ("a", "b"))
    assert one == other and b"\r\n" not in one


def test_a_table_as_text_comes_back(tmp_path):
    table = pd.DataFrame({"donor": ["01", "NA", ""], "stage": [1, 2, 3], "weight": [0.1, 1 / 3, 5e-324]})
    again = from_text(as_text(table))
    assert again["donor"].tolist() == ["01", "NA", ""] and again["stage"].tolist() == [1, 2, 3]
    assert again["weight"].to_numpy().tobytes() == table["weight"].to_numpy().tobytes()
    assert from_text("name\n01\n", wanted=["name"])["name"].tolist() == ["01"]
