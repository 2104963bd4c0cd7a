"""Text from elsewhere is shown, and neither obeyed by a terminal nor computed by a spreadsheet."""

import csv
import io
import logging

import pytest

from lamae.base.text import LogFormatter, csv_row, one_line, visible


def test_what_acts_and_is_not_seen_becomes_an_escape():
    assert visible("a\x1b[2Jb\x07\x9b\r\u202e") == r"a\x1b[2Jb\x07\x9b\r\u202e"
    assert visible("µV – aVR\tÄ\n次") == "µV – aVR\tÄ\n次"
    assert one_line("a\nb\tc") == r"a\nb\tc"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\t=1"),
        ("-5", "-5"),
        ("-1.5e3", "-1.5e3"),
        (-5, "-5"),
        ("a=b", "a=b"),
        ("", ""),
        ("a\nb", "a\\nb"),
    ],
)
def test_a_cell_is_no_formula_and_stays_a_line(cell, expected):
    assert csv_row([cell]) == [expected]
    stream = io.StringIO()
    csv.writer(stream).writerow(csv_row([cell, "x"]))
    assert len(stream.getvalue().splitlines()) == 1


def test_a_log_line_is_not_obeyed():
    record = logging.LogRecord("lamae", logging.INFO, __file__, 0, "record %s", ("\x1b]0;title\x07",), None)
    assert LogFormatter("%H").format(record).endswith(r"I record \x1b]0;title\x07")
