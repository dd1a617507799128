"""Tables as they are written by hand and by programs, in CSV and Parquet."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from late_phase.data import table_files
from late_phase.data.table_files import read, typed
from late_phase.support.errors import UserError


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_separates_cells_is_found_out(separator, end, tmp_path):
    lines = (('"a b"', "size"), ("one", "1.5"), ('"two, or; more"', "-3e2"), ("", "NA"))
    content = "\ufeff" + end.join(separator.join(line) for line in lines) + end + end
    cells = read("dataset.path", write(tmp_path, content))
    assert cells == {"a b": ["one", "two, or; more", ""], "size": ["1.5", "-3e2", ""]}


def test_parquet_is_read_as_the_same_cells(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"word": ["a", None, "c"], "number": [1.5, 2.0, None], "whole": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "t.parquet")
    cells = read("dataset.path", str(tmp_path / "t.parquet"))
    assert cells == {"word": ["a", "", "c"], "number": ["1.5", "2.0", ""], "whole": ["1", "2", "3"]}
    with pytest.raises(UserError, match=r"other\.parquet is not a Parquet file"):
        read("dataset.path", write(tmp_path, "a,b\n1,2\n", "other.parquet"))


def test_parquet_needs_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)  # as if it weren't installed
    with pytest.raises(
        UserError,
        match=r"parquet can't be read without the package pyarrow: run `pip install 'late-phase\[parquet\]'`, or give a CSV file",
    ):
        read("dataset.path", write(tmp_path, b"PAR1", "t.parquet"))


def test_columns_of_numbers_are_told_from_columns_of_texts():
    cells = {"number": ["1", "", "-2.5e3"], "text": ["a", "", "b"], "code": ["1", "2", ""], "empty text": ["x", "x", "x"]}
    columns = typed(cells, ["code"], "FILE")
    assert columns["number"].dtype == np.float64 and math.isnan(columns["number"][1]) and columns["number"][2] == -2500
    assert [list(columns[name]) for name in ("text", "code")] == [["a", "", "b"], ["1", "2", ""]]
    assert columns["text"].dtype == columns["code"].dtype == object


READING = {
    "no file": (None, r"missing\.csv can't be read \(No such file or directory\): give a CSV"),
    "0 rows": ("a,b\n", r"t\.csv has 0 rows: give a file with a line for each example below the names"),
    "empty": ("", r"t\.csv has 0 rows"),
    "a short line": ("a,b\n1,2\n3\n", r"t\.csv has 1 cells in line 3, not 2: correct this line\."),
    "a name twice": ("a,b,a\n1,2,3\n", r"t\.csv has several columns named 'a': rename all but one\."),
    "another encoding": ("größe\n1\n".encode("utf-16"), r"t\.csv is not CSV in UTF-8 \(.*\): convert it first\."),
    "an open quote": ('a,b\n"1,2\n', r"t\.csv is not CSV in UTF-8 \(unexpected end of data\)"),
}


@pytest.mark.parametrize("mistake", READING)
def test_what_is_not_a_table_is_refused(mistake, tmp_path):
    content, pattern = READING[mistake]
    path = str(tmp_path / "missing.csv") if content is None else write(tmp_path, content)
    with pytest.raises(UserError, match=rf"^dataset\.path=.*{pattern}") as error:
        read("dataset.path", path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is a directory or a device: give a CSV or Parquet file\.$"):
        read("dataset.path", str(tmp_path))


def test_an_enormous_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path, "a,b\n1,2\n")
    os.truncate(path, 2**31)  # 2 GiB, which take no place on the disk
    monkeypatch.setattr("late_phase.support.memory.available_memory", lambda: 2**35)
    monkeypatch.setattr(table_files, "_csv", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"^dataset\.path=.* needs about 40\.0 GiB of memory, .* give a file with fewer rows or"):
        read("dataset.path", path)


TYPES = {
    "a text among numbers": (
        ["1", "2", "n. a."],
        r"column 'x' of FILE has 2 numbers and 'n\. a\.' in row 3: correct it, or name it",
    ),
    "infinity": (["1", "inf"], r"column 'x' of FILE has 'inf' in row 2: replace it by a finite number"),
    "a number too large": (["1", "1e999"], r"column 'x' of FILE has '1e999' in row 2"),
    "nothing": (["", ""], r"column 'x' of FILE has no value at all: name it in dataset\.ignore"),
}


@pytest.mark.parametrize("mistake", TYPES)
def test_a_column_of_no_clear_kind_is_refused(mistake):
    cells, pattern = TYPES[mistake]
    with pytest.raises(UserError, match=pattern):
        typed({"x": cells}, (), "FILE")


def test_a_column_that_is_not_there_can_not_be_categorical():
    with pytest.raises(UserError, match=r"^dataset\.categorical names 'y', which is no column of FILE: it has x\.$"):
        typed({"x": ["1"]}, ["y"], "FILE")
