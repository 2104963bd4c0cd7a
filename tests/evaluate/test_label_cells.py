"""Cells of label files as programs and people write them: the right codes, or a refusal; never other codes."""

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.csvrows import items, likelihoods, text_items

WHERE = "file.csv, line 7"


@pytest.mark.parametrize(
    "text",
    [
        "['I2510', 'E785']",
        "['I2510' 'E785']",
        "['I2510'\n 'E785']",
        '["I2510", "E785"]',
        '["I2510","E785"]',
        "('I2510', 'E785')",
        "{'I2510', 'E785'}",
        "[['I2510', 'E785']]",
        "[np.str_('I2510'), np.str_('E785')]",
        "array(['I2510', 'E785'], dtype=object)",
        "array(['I2510', 'E785'], dtype='<U5')",
        "frozenset({'I2510', 'E785'})",
        "[I2510, E785]",
        "I2510,E785",
        "I2510; E785",
        "I2510|E785",
        " I2510 E785 ",
    ],
)
def test_every_spelling_of_a_list_gives_its_words(text):
    assert items(text, "diagnoses", WHERE) == ["I2510", "E785"]


def test_what_numpy_and_python_print_is_read():
    codes = ["I2510", "E785", "I10"]
    printed = [codes, tuple(codes), np.array(codes), np.array(codes, dtype=object), list(np.array(codes))]
    for value in printed:
        assert items(str(value), "c", WHERE) == items(repr(value), "c", WHERE) == codes
    assert items("('I10',)", "c", WHERE) == ["I10"]
    for nothing in ("[]", "()", "{}", "set()", "array([], dtype=object)"):
        assert items(nothing, "c", WHERE) == []


@pytest.mark.parametrize(
    "text",
    [
        "['I2510', 'E785'",
        "['I2510', 'E7",
        "'I2510', 'E785']",
        "['I2510', ..., 'E785']",
        "['I2510' ... 'E785']",
        "I2510, E785...",
        "['I2510', 'E785…",
        "[b'I10']",
        "{'I10': 1}",
        "[['I10'], ['E785']]",
        "__import__('os')",
    ],
)
def test_a_cell_that_was_cut_or_is_no_list_is_refused_by_line(text):
    with pytest.raises(UsageError, match=r"^file.csv, line 7: diagnoses is .*not a list of words, or one that was cut"):
        items(text, "diagnoses", WHERE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AFIB", ["AFIB"]),
        ("AFIB;LBBB", ["AFIB", "LBBB"]),
        ("AFIB | LBBB", ["AFIB", "LBBB"]),
        ("Sinus  rhythm. ", ["Sinus rhythm"]),
        ("AV block (1st degree), old", ["AV block (1st degree), old"]),
        ("Wolff-Parkinson-White's", ["Wolff-Parkinson-White's"]),
        ("['Sinus rhythm', 'AF']", ["Sinus rhythm", "AF"]),
        ("[Sinus rhythm, AF]", ["Sinus rhythm", "AF"]),
        ("['Sinus rhythm' 'AF']", ["Sinus rhythm", "AF"]),
        ("(AF, LBBB (old))", ["AF", "LBBB (old)"]),
        ("(AF); (LBBB)", ["(AF)", "(LBBB)"]),
        ("(AF), (LBBB)", ["(AF), (LBBB)"]),
        ("(old) infarct (anterior)", ["(old) infarct (anterior)"]),
        ("[AF", ["[AF"]),
        ("(", ["("]),
    ],
)
def test_names_keep_their_blanks_commas_and_brackets(text, expected):
    assert text_items(text, "diagnosis", WHERE, ";|") == expected


def test_names_can_be_separated_by_other_characters_and_cut_ones_are_refused():
    assert text_items("AF, LBBB/RBBB", "diagnosis", WHERE, ",/") == ["AF", "LBBB", "RBBB"]
    assert text_items("a]b^c-d", "diagnosis", WHERE, "]^-") == ["a", "b", "c", "d"]
    assert text_items("AF;LBBB", "diagnosis", WHERE, "") == ["AF;LBBB"]
    for mapping in ("{'NORM': 100.0, 'SR': 0.0}", '{"AF": 1}'):
        with pytest.raises(UsageError, match=r"line 7: diagnosis is .* which --source ptbxl reads .* NORM;SR"):
            text_items(mapping, "diagnosis", WHERE, ";|")
    for cut in ("AF; LBB...", "['AF', 'LB"):
        with pytest.raises(UsageError, match=r"line 7: diagnosis is"):
            text_items(cut, "diagnosis", WHERE, ";|")


@pytest.mark.parametrize(
    "text",
    [
        "{'NORM': 100.0, 'SR': 0.0}",
        '{"NORM": 100.0, "SR": 0.0}',
        "{'NORM': 100, 'SR': 0}",
        "{'NORM': '100.0', 'SR': '0'}",
        "{'NORM': np.float64(100.0), 'SR': np.float64(0.0)}",
    ],
)
def test_statements_are_read_from_python_and_json(text):
    assert likelihoods(text, "scp_codes", WHERE) == {"NORM": 100, "SR": 0}


@pytest.mark.parametrize(
    "value", ["None", "'high'", "-1.0", "100.5", "float", "nan", "NaN", "Infinity", "True", "[80.0]", "null", ""]
)
def test_likelihoods_that_are_no_percentage_are_refused_by_line_and_cell(value):
    for quote in "'\"":
        with pytest.raises(UsageError, match=r"^file.csv, line 7: scp_codes is .*NORM"):
            likelihoods(f"{{{quote}NORM{quote}: {value}}}", "scp_codes", WHERE)


@pytest.mark.parametrize("text", ["['NORM']", "NORM", "{'NORM': 100.0, 'SR'", "{'NORM'}", "100.0"])
def test_what_is_no_mapping_of_statements_is_refused(text):
    with pytest.raises(UsageError, match=r"line 7: scp_codes is .*not statements with likelihoods"):
        likelihoods(text, "scp_codes", WHERE)
