"""The strict header parser: takes exactly its shape, agrees with wfdb, gives up on everything else."""

import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from lamae.sharding.header import parse, parse_strict

HEADER = """40689238 2 500 5000 08:44:00 23/07/2180
40689238.dat 16 200.0(0)/mV 16 0 -31 9616 0 I
40689238.dat 16 1000.0(-12)/mV 16 0 2 -30218 0 aVF
# <subject_id>: 10000032
"""


def test_every_field_of_the_strict_shape_is_read():
    header = parse_strict(HEADER.encode(), record="40689238")
    assert header is not None
    assert (header.rate_hz, header.num_samples, header.data_file) == (500.0, 5000, "40689238.dat")
    assert header.names == ("I", "aVF")
    assert header.gains == (200.0, 1000.0)
    assert header.baselines == (0, -12)
    assert header.checksums == (9616, 65536 - 30218)
    assert header.subject == 10000032


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("40689238 2", "4068923 2"),
        ("40689238 2", "40689238/3 2"),
        ("40689238 2", "40689238 3"),
        ("40689238 2", "40689238 1"),
        (" 5000 ", " "),
        (" 500 ", " 500.5 "),
        ("dat 16 200", "dat 212 200"),
        ("dat 16 200", "dat 16x2 200"),
        ("dat 16 200", "dat 16+24 200"),
        ("200.0(0)/mV", "200.0/mV"),
        ("200.0(0)/mV", "0(0)/mV"),
        ("200.0(0)/mV", "200.0(0)/uV"),
        ("/mV 16 0", "/mV 12 0"),
        (" -31 9616 0 I", " -31 9616 0"),
        (" -31 9616 0 I", " -31 9616 4 I"),
        ("40689238.dat 16 200", "../40689238.dat 16 200"),
        ("40689238.dat 16 1000", "other.dat 16 1000"),
        ("# <sub", "stray <sub"),
        ("23/07/2180\n", "23/07/2180\r\n"),
        ("23/07", "31/06"),
        ("08:44", "24:44"),
        ("aVF", "aVÉ"),
        (HEADER, ""),
    ],
)
def test_any_departure_is_left_to_wfdb(old, new):
    assert old in HEADER
    assert parse_strict(HEADER.replace(old, new, 1).encode(), record="40689238") is None


def test_real_mimic_headers_give_what_wfdb_gives(real_data):
    headers = sorted((real_data / "mimic_iv_ecg_headers_only").glob("*.hea"))
    assert len(headers) == 2
    for path in headers:
        header = parse_strict(path.read_bytes(), record=path.stem)
        reference = wfdb.rdheader(str(path.with_suffix("")))
        assert header is not None
        assert header.names == ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
        assert list(header.names) == reference.sig_name
        assert list(header.gains) == reference.adc_gain
        assert list(header.baselines) == reference.baseline
        assert list(header.checksums) == reference.checksum
        assert (header.rate_hz, header.num_samples) == (reference.fs, reference.sig_len)
        assert header.subject == 10000032


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_the_strict_parser_takes_wfdb_reads_the_same(tmp_path_factory, data):
    """One or two characters of a good header changed, removed or added: give up, or agree with wfdb."""
    text = HEADER
    for _ in range(data.draw(st.integers(1, 2))):
        position = data.draw(st.integers(0, len(text) - 1))
        kept = data.draw(st.integers(0, 1))
        text = text[:position] + data.draw(st.sampled_from("0123456789 .-:/()#+x\n\taV")) + text[position + kept :]
    header = parse_strict(text.encode(), record="40689238")
    if header is None:
        return
    full = parse(text.encode())
    assert [(s.name, s.gain, s.baseline, s.checksum, s.file, s.units) for s in full.signals] == [
        (*signal, header.data_file, "mV")
        for signal in zip(header.names, header.gains, header.baselines, header.checksums, strict=True)
    ]
    assert (full.rate_hz, full.num_samples, full.subject) == (header.rate_hz, header.num_samples, header.subject)
    path = tmp_path_factory.mktemp("fuzz") / "40689238"
    path.with_suffix(".hea").write_text(text)
    reference = wfdb.rdheader(str(path))
    assert list(header.names) == reference.sig_name
    assert list(header.gains) == reference.adc_gain
    assert list(header.baselines) == reference.baseline
    assert [checksum % 65536 for checksum in reference.checksum] == list(header.checksums)
    assert (header.rate_hz, header.num_samples) == (reference.fs, reference.sig_len)
    assert set(reference.fmt) == {"16"}
    assert set(reference.samps_per_frame) == {1}
    assert set(reference.file_name) == {header.data_file}
    assert not any(reference.skew + reference.byte_offset if reference.skew[0] is not None else reference.byte_offset)
