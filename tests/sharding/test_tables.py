"""Tables as editors, spreadsheets and pandas leave them are taken for what they say, or refused by file and line."""

from pathlib import Path

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.base.tables import Table, subject_number, whole_number
from lamae.sharding.columns import typed_column, with_columns
from lamae.sharding.options import PackOptions
from lamae.sharding.selection import decide_splits
from lamae.sharding.sources import Entry


def entries(*keys):
    return [Entry(key, key, None, None) for key in keys]


def splits_of(tmp_path, content: bytes, *keys: str):
    (tmp_path / "folds.csv").write_bytes(content)
    found = entries(*keys)
    decide_splits(found, PackOptions(splits_from=str(tmp_path / "folds.csv"), split_fractions=[1.0, 0.0, 0.0]))
    return [entry.split for entry in found]


@pytest.mark.parametrize(
    "content",
    [
        b"study_id,fold\n40,8\n41,9\n42,10\n",
        b"\xef\xbb\xbfstudy_id,fold\r\n40,8\r\n41,9\r\n42,10\r\n",
        b"study_id,fold\r40,8\r41,9\r42,10",
        b" Study_ID , FOLD \n\n 40 , 8 \n,\n41, 9\n\n42,10\n",
        b'"study_id","fold"\n"40","8"\n "41", "9"\n"42","10"\n',
        b"study_id,fold\n40.0,8.0\n41.0,9.0\n4.2e1,10.0\n",
        b"study_id,fold\n40,8\n41,9\n42,10\n41.0,9\n",
        b"fold,study_id,,\n8,40,,\n9,41,,\n10,42,,\n",
        b"study_id,fold\n40,train\n41,Val\n42,test\n",
        b"study_id,fold,fold note,fold note\n40,8,a,b\n41,9,c,d\n42,10,e,f\n",
    ],
)
def test_one_table_in_many_spellings_gives_the_same_splits(tmp_path, content):
    assert splits_of(tmp_path, content, "40", "41", "42") == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"key;fold\nr0;1\n", "separated by ';'"),
        (b"key\tfold\nr0\t1\n", r"separated by '\\t'"),
        (b"", "is empty"),
        (b"key,fold\nr0,1\nr1\n", "line 3: fewer cells"),
        (b"key,fold\nr0,1,5\n", "line 2: more cells"),
        (b"key,fold\nr0,1\nr1,2\nr0,2\n", r"line 4: key r0 a second time, with 2 instead of 1"),
        (b"key,fold,fold\nr0,1,2\n", "2 columns are named fold"),
        (b"key,fold\nr0,inf\n", "fold of r0 is 'inf'"),
        (b"key,fold\nr0,nan\n", "fold of r0 is 'nan'"),
        (b"key,fold\nr0,\n", "fold of r0 is ''"),
        (b"key,fold\nr0,1.5\n", "fold of r0 is '1.5'"),
        ("key,fold\nr0,1\nSüd,2\n".encode("latin-1"), "not UTF-8 text"),
        ("key,fold\nr0,1\n".encode("utf-16"), "not UTF-8 text"),
        (b"record_id,fold\nr0,1\n", "needs a column key or study_id .* it has record_id, fold"),
        (b"key,fold\nq0,1\n", r"such as 'q0'\) is the key of a record of the source \(such as 'r0'\)"),
    ],
)
def test_a_fold_file_that_cannot_be_meant_is_refused_with_what_was_found(tmp_path, content, complaint):
    with pytest.raises(UsageError, match=complaint):
        splits_of(tmp_path, content, "r0", "r1")


def test_only_what_spells_a_whole_number_is_one():
    assert [whole_number(text) for text in ("17.0", "1_7", "٣", "1.5", "nan", "9007199254740993.0")] == [
        *(17, None, None, None, None, 9007199254740993)
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("key,age,age\nr0,1,2\n", "2 columns are named age"),
        ("key,age\nr0,1\nr0,2\n", "line 3: key r0 a second time"),
        (",key,age\n0,r0,1\n", "a column named ''"),
        ("key,..\nr0,1\n", r"a column named '\.\.'"),
        ("key,zarr.json\nr0,1\n", "a column named 'zarr.json'"),
    ],
)
def test_columns_that_the_index_cannot_hold_are_refused_before_packing(tmp_path, content, complaint):
    (tmp_path / "columns.csv").write_text(content)
    with pytest.raises(UsageError, match=complaint):
        with_columns(entries("r0"), str(tmp_path / "columns.csv"))


def test_a_column_of_ids_keeps_every_digit():
    ids = ["1844674407370955161", "1844674407370955162"]
    assert [bytes(row).decode() for row in typed_column(ids)] == ids
    assert [bytes(row).decode() for row in typed_column(["1_2", "34"])] == ["1_2", "34\0"]
    np.testing.assert_array_equal(typed_column(["1.5", "", "-3"]), [1.5, np.nan, -3])


def test_a_quoted_cell_may_hold_commas_and_line_breaks(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'key,text\r\nr0,"a, ""b""\r\nc"\r\nr1,x\r\n')
    assert list(Table(tmp_path / "t.csv")) == [
        (3, {"key": "r0", "text": 'a, "b"\r\nc'}),
        (4, {"key": "r1", "text": "x"}),
    ]


def test_what_is_no_regular_file_is_refused_before_it_is_waited_for(tmp_path):
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(UsageError, match="not a regular file"):
            Table(path)


@pytest.mark.parametrize("text", ["", "NaN", "#N/A", "<NA>", "NaT", "missing", "Unknown", "Anonymous", "-1"])
def test_a_cell_that_says_nothing_is_no_patient(text):
    assert subject_number(text) is None
