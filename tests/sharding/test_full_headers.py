"""Headers of every kind that hea(5) allows, and what people write instead: taken as meant, or rejected by name."""

import re

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from lamae.base.leads import LEADS
from lamae.sharding.files import DirectoryFiles
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.header import HeaderError, parse
from lamae.sharding.reading import RejectError, read_header
from lamae.sharding.recording import audit, read_recording, shape_of
from tests.sharding.wfdbtree import plausible_signal, write_record

SIGNAL = plausible_signal(LEADS)


@pytest.fixture
def tree(tmp_path):
    write_record(tmp_path / "rec", SIGNAL, names=LEADS, comments=["<subject_id>: 17"])
    return tmp_path


def edit(tree, pattern, new, *, count=0):
    """Replace in the header of ``rec``, as text of one byte per character."""
    path = tree / "rec.hea"
    path.write_bytes(re.sub(pattern.encode("latin-1"), new.encode("latin-1"), path.read_bytes(), count=count))


def read(tree, record="rec"):
    return read_recording(DirectoryFiles(tree), record)


def rejection(tree, record="rec"):
    with pytest.raises(RejectError) as caught:
        read(tree, record)
    return str(caught.value)


def in_utf8(text):
    return text.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("gain", "unit"),
    [
        *(("200", "/mV"), ("200", "/mv"), ("200", "/MV"), ("200", "/millivolt"), ("200", "/millivolts"), ("200", "")),
        *(("0.2", "/uV"), ("0.2", "/UV"), ("0.2", "/microvolt"), ("0.2", "/Microvolts"), ("200", "/")),
        *(("0.2", f"/{in_utf8('µV')}"), ("0.2", "/\xb5V"), ("0.2", f"/{in_utf8('μV')}"), ("2e-1", f"/{in_utf8('µv')}")),
        *(("0.0002", "/nV"), ("200000", "/V"), ("2e5", "/volt"), ("2E2", "/mV"), ("2.e+2", "/mV"), ("+200.", "/mV")),
        *(("0", "/mV"), ("0", ""), ("0.0", "/mV")),
    ],
)
def test_every_spelling_of_a_voltage_becomes_adc_units_per_millivolt(tree, gain, unit):
    edit(tree, r"200\.0\(0\)/mV", f"{gain}(0){unit}")
    np.testing.assert_allclose(read(tree).gain, 200.0, rtol=1e-12)


@pytest.mark.parametrize("unit", ["NU", "mmHg", "mV?", "mkV", "ADU", "\xc3\x82\xb5V", "\xe6V", "Vm", "m", "mV/s"])
def test_what_is_no_voltage_is_rejected_by_lead_and_unit(tree, unit):
    edit(tree, r"200\.0\(0\)/mV( .* aVF)", f"200(0)/{unit}\\1")
    text = rejection(tree)
    assert text.startswith("units: lead aVF is in ")
    assert repr(unit.encode("latin-1").decode(errors="surrogateescape"))[1:-1] in text


def test_only_the_twelve_leads_need_to_be_voltages(tree):
    write_record(tree / "rec", np.c_[SIGNAL, SIGNAL[:, 0]], names=(*LEADS, "pleth"))
    edit(tree, r"200\.0\(0\)/mV( .* pleth)", r"200(0)/NU\1")
    np.testing.assert_array_equal(read(tree).samples, SIGNAL.T)


def test_an_uncalibrated_signal_in_other_units_is_no_guess(tree):
    edit(tree, r"200\.0\(0\)/mV", "0(0)/uV")
    assert rejection(tree).startswith("gain: lead I is in uV and not calibrated")


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        ("200.0(0)/mV", "200.0 (0)/mV"),
        ("200.0(0)/mV", "200.0(0) /mV"),
        ("200.0(0)/mV", "200.0(0)/ mV"),
        ("200.0(0)/mV", "0,2(0)/uV"),
        ("200.0(0)/mV", "200.0(0.5)/mV"),
        ("200.0(0)/mV", "2e(0)/mV"),
        ("200.0(0)/mV", "nan(0)/mV"),
        ("/mV 16 0", "/mV 16.5 0"),
        ("rec.dat 16 ", "rec.dat 16y "),
        ("rec.dat 16 ", "rec.dat "),
    ],
)
def test_a_line_that_cannot_be_read_to_its_end_rejects_the_record_instead_of_losing_the_lead(tree, pattern, new):
    edit(tree, re.escape(pattern), new, count=1)
    text = rejection(tree)
    assert text.startswith("bad_header: signal line 1 cannot be read: 'rec.dat ")
    assert text.endswith("mend the header or fetch it again")


@pytest.mark.parametrize(
    "line",
    [
        *("rec 12 5e2 500", "rec 12 .5e3 500", "rec 12 500. 500", "rec 12 +500 500", "rec 12 500/1000(0) 500"),
        *(
            "rec 12 500/1e3(-5.5) 500",
            "rec 12 500(0) 500",
            "rec 12 500/500 500.0",
            "other 12 500 500",
            "a.b(1) 12 500 500",
        ),
        *(
            "rec.mat 12 500 500",
            "rec 12 500",
            "rec 12 500 0",
            "rec 12 500 10:00:00 01/01/2001",
            "\trec\t12\t500\t500\t",
        ),
        *("rec 12 500 500 10:00:00 2006", "rec 12 500 500 2014-05-08 05:05:15", "rec 12 500 500 24:00:00 30/02/2001"),
        *(
            "rec 12 500 500 00:00:00 00/00/0000",
            "rec 12 500 500 noon",
            "\xef\xbb\xbfrec 12 500 500",
            "r\xe9c 12 500 500",
        ),
    ],
)
def test_record_lines_of_every_kind_give_rate_and_length(tree, line):
    edit(tree, r"\Arec 12 500 500", line)
    recording = read(tree)
    assert recording.rate_hz == 500
    assert recording.subject == 17
    np.testing.assert_array_equal(recording.samples, SIGNAL.T)
    assert shape_of(DirectoryFiles(tree), "rec", read_header(DirectoryFiles(tree), "rec")) == (500.0, 500)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("rec 12 500Hz 500", "'500Hz' as sampling frequency"),
        ("rec 12 0 500", "'0' as sampling frequency"),
        ("rec 12 -500 500", "'-500' as sampling frequency"),
        ("rec 12 1e999 500", "'1e999' as sampling frequency"),
        ("rec 12 500 5e2", "'5e2' as number of samples"),
        ("rec 12 500 -500", "'-500' as number of samples"),
        ("rec 12, 500 500", "no WFDB header; it begins with 'rec 12, 500 500'"),
        ("my rec 12 500 500", "no WFDB header; it begins with 'my rec 12 500 500'"),
        ("rec 13 500 500", "13 signals declared, 12 signal lines"),
        ("rec 99999999999999999999 500 500", "no WFDB header"),
        ("\xff\xfer\0e\0c\0", "no WFDB header"),
    ],
)
def test_a_record_line_that_says_nothing_sure_is_rejected_with_its_words(tree, line, what):
    edit(tree, r"\Arec 12 500 500", line)
    text = rejection(tree)
    assert text.startswith("bad_header: ")
    assert what in text


def test_no_sampling_frequency_means_250_hz_and_is_counted(tree):
    edit(tree, r"\Arec 12 500 500", "rec 12")
    recording = read(tree)
    assert (recording.rate_hz, recording.notes) == (250.0, ("no_rate",))
    np.testing.assert_array_equal(recording.samples, SIGNAL.T)


def test_lines_lost_and_lines_too_many_are_told_from_each_other(tree):
    whole = (tree / "rec.hea").read_bytes()
    edit(tree, r"\n", "", count=1)
    assert "12 signals declared, 11 signal lines" in rejection(tree)
    (tree / "rec.hea").write_bytes(whole)
    edit(tree, r"rec 12", "rec 11")  # the file has twelve
    assert "11 signals declared, 12 signal lines" in rejection(tree)
    (tree / "rec.hea").write_bytes(whole)
    edit(tree, r" 0 V6\n", " 0 V6\nrec.dat 16 200(0)/mV 16 0 0 0 0 VX\n")  # hea(5): not read, and the checksums agree
    np.testing.assert_array_equal(read(tree).samples, SIGNAL.T)
    edit(tree, r" -?\d+ 0 (\S+)\n", r" 0 0 \1\n")
    assert "12 signals declared, 13 signal lines" in rejection(tree)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("\n", " \t\n"),
        ("\n", "\n\n"),
        ("\n", "\n# comment\n"),
        (r"\A", "# comment\n\n"),
        (" ", "\t"),
        (r"\Z", "# m\xfcller\n"),
        (r"\Z", "# \x85 <subject_id>: 18\n"),
        (r"\Z", "\x1a\0\0"),
        (r"\n\Z", ""),
    ],
)
def test_line_ends_blanks_comments_and_encodings_do_not_matter(tree, pattern, new):
    edit(tree, pattern, new)
    recording = read(tree)
    assert recording.subject == 17
    np.testing.assert_array_equal(recording.samples, SIGNAL.T)


def test_what_a_signal_line_leaves_out_has_the_defaults_of_the_specification(tree):
    write_record(tree / "rec", SIGNAL + np.int16(5), names=LEADS)
    edit(tree, r"200\.0\(0\)/mV 16 0 ", "200.0/mV 16 5 ")
    assert (read(tree).baseline == 5).all()  # the ADC zero
    edit(tree, r"\n(rec\.dat 16).* (\S+)", r"\n\1 100 \2")
    recording = read(tree)
    assert (recording.gain == 100).all()
    assert (recording.baseline == 0).all()
    assert recording.notes == ("unchecked",)


def test_a_header_that_was_cut_anywhere_loses_no_lead_silently(tree):
    whole = (tree / "rec.hea").read_bytes().split(b"#")[0]
    assert read(tree).present.all()
    for length in range(len(whole) - len("V6\n")):
        (tree / "rec.hea").write_bytes(whole[:length])
        reasons = ("bad_header: ", "unsupported: format 1", "no_leads: signal 12 has no name; name the leads")
        assert rejection(tree).startswith(reasons)


def test_differences_start_at_the_adc_zero_where_the_header_gives_no_initial_value(tmp_path):
    (tmp_path / "rec.dat").write_bytes(bytes([1]) * 6)
    (tmp_path / "rec.hea").write_text("rec 2 500 3\nrec.dat 8 200 12 1024 1024 0 0 I\nrec.dat 8 200 12 1024 II\n")
    recording = read(tmp_path)
    assert recording.samples[:2].tolist() == [[1025, 1026, 1027]] * 2
    assert recording.baseline[:2].tolist() == [1024, 1024]


def test_skew_moves_a_lead_and_its_checksum_counts_every_sample(tree):
    edit(tree, r"rec\.dat 16( .* V2)", r"rec.dat 16:3\1")
    samples = read(tree).samples
    np.testing.assert_array_equal(samples[7], [*SIGNAL[3:, 7], NO_SAMPLE, NO_SAMPLE, NO_SAMPLE])
    np.testing.assert_array_equal(samples[:7], SIGNAL.T[:7])
    wfdb_reads = wfdb.rdrecord(str(tree / "rec"), physical=False).d_signal
    np.testing.assert_array_equal(samples, wfdb_reads.T)


def test_a_null_signal_is_a_lead_that_was_not_recorded(tree):
    write_record(tree / "rec", SIGNAL[:, 1:], names=LEADS[1:])
    edit(tree, r"\Arec 11 500 500\n", "rec 12 500 500\n~ 0 200 12 0 0 0 0 I\n")
    recording = read(tree)
    assert recording.present.tolist() == [False] + [True] * 11
    np.testing.assert_array_equal(recording.samples[1:], SIGNAL.T[1:])


def test_checksums_of_0_in_every_line_were_never_filled_in_but_one_of_them_is_wrong(tree):
    edit(tree, r" -?\d+ 0 (\S+)\n", r" 0 0 \1\n")
    recording = read(tree)
    assert (recording.fast, recording.notes) == (True, ("unchecked",))
    audit(DirectoryFiles(tree), "rec", recording)
    edit(tree, r"200\.0\(0\)", "200")
    recording = read(tree)
    assert (recording.fast, recording.notes) == (False, ("unchecked",))
    write_record(tree / "rec", SIGNAL, names=LEADS)
    edit(tree, r" -?\d+ 0 aVL\n", " 0 0 aVL\n")
    assert rejection(tree).startswith("checksum: lead aVL; ")
    edit(tree, r"200\.0\(0\)", "200")
    assert rejection(tree).startswith("checksum: lead aVL; ")


@pytest.mark.parametrize("name", ["visit.01", "a(1)", "müller", "x+y=z", "rec.mat", "-", "~1", "a&b;$c"])
def test_the_audit_takes_names_that_wfdb_does_not(tmp_path, name):
    write_record(tmp_path / name, SIGNAL, names=LEADS, comments=[f"{name}.dat", "<subject_id>: 3"])
    recording = read(tmp_path, name)
    assert recording.fast == name.isascii()
    if recording.fast:
        audit(DirectoryFiles(tmp_path), name, recording)


def test_signals_may_be_in_several_files_and_in_any_that_is_inside_the_source(tree):
    write_record(tree / "rec", SIGNAL[:, :9], names=LEADS[:9])
    (tree / "sub").mkdir()
    (tree / "sub" / "rec.XYZ").write_bytes(bytes(8) + SIGNAL[:, 9:].astype(">i2").tobytes())
    lines = "".join(
        f"sub/rec.XYZ 61+8 200(0)/mV 16 0 0 {SIGNAL[:, k].sum() % 65536} 0 {LEADS[k]}\n" for k in (9, 10, 11)
    )
    edit(tree, r"\Arec 9", "rec 12")
    edit(tree, r"\Z", lines)
    np.testing.assert_array_equal(read(tree).samples, SIGNAL.T)
    edit(tree, "sub/rec.XYZ 61\\+8( .* V6)", r"sub/rec.XYZ 16\1")
    assert "the lines of sub/rec.XYZ differ in format or offset" in rejection(tree)
    for name in ("/etc/passwd", "../rec.dat"):
        (tree / "rec.hea").write_text(f"rec 1 500 500\n{name} 16 200 16 0 0 0 0 I\n")
        assert f"{name} is outside the source" in rejection(tree)


def encoded(values, fmt):
    """``values`` [T, n] as signal(5) stores them in a file of format ``fmt``."""
    flat = values.reshape(-1)
    a, b, c = flat[0::3] & 1023, flat[1::3] & 1023, flat[2::3] & 1023
    even, odd = flat[0::2] & 4095, flat[1::2] & 4095
    columns = {
        "24": (flat, flat >> 8, flat >> 16),
        "212": (even, even >> 8 | odd >> 8 << 4, odd),
        "310": (a << 1, a >> 7 | (c & 31) << 3, b << 1, b >> 7 | c >> 5 << 3),
        "311": (a, a >> 8 | b << 2, b >> 6 | c << 4, c >> 4),
    }
    if fmt in columns:
        return np.stack([column & 255 for column in columns[fmt]], axis=1).astype("u1").tobytes()
    whole = {"80": (values + 128, "u1"), "160": (values + 32768, "<u2"), "61": (values, ">i2"), "32": (values, "<i4")}
    whole["8"] = np.diff(values, axis=0, prepend=values[:1]), "i1"
    numbers, kind = whole[fmt]
    return numbers.astype(kind).tobytes()


def write_header(folder, fmt, values, first):
    names = zip(LEADS, values.T, strict=False)
    lines = [f"rec.dat {fmt} 30 16 0 {row[0]} {row.sum() % 65536} 0 {name}" for name, row in names]
    (folder / "rec.hea").write_text("\n".join([first, *lines]))


@pytest.mark.parametrize("fmt", ["80", "160", "24", "32", "61", "212", "310", "311", "8"])
def test_every_format_gives_the_samples_that_were_written(tmp_path, fmt):
    wanted = plausible_signal(LEADS, num_samples=600, gain=30).astype(np.int64)
    data = encoded(wanted, fmt)
    (tmp_path / "rec.dat").write_bytes(data)
    for first in ("rec 12 500 600", "rec 12 500"):
        write_header(tmp_path, fmt, wanted, first)
        np.testing.assert_array_equal(read(tmp_path).samples, wanted.T)
    (tmp_path / "rec.dat").write_bytes(data[:-10])
    write_header(tmp_path, fmt, wanted, "rec 12 500 600")
    assert rejection(tmp_path).startswith(f"truncated: rec.dat has {len(data) - 10} of {len(data)} bytes")


@pytest.mark.parametrize("fmt", ["516", "524"])
def test_compressed_signals_are_read_and_need_a_length(tmp_path, fmt):
    wanted = plausible_signal(LEADS[:8], num_samples=600).astype(np.int64)
    wfdb.io.wr_dat_file("rec.dat", fmt, wanted, 0, write_dir=str(tmp_path))
    write_header(tmp_path, fmt, wanted, "rec 8 500 600")
    np.testing.assert_array_equal(read(tmp_path).samples[:8], wanted.T)
    write_header(tmp_path, fmt, wanted, "rec 8 500")
    assert f"bad_header: no length, and rec.dat is compressed (format {fmt})" in rejection(tmp_path)


def test_what_wfdb_says_of_a_file_holds_no_path_of_this_run(tmp_path):
    lines = [f"rec.dat 516 200 16 0 0 1 0 {name}" for name in LEADS]
    (tmp_path / "rec.hea").write_text("\n".join(["rec 12 500 600", *lines]))
    (tmp_path / "rec.dat").write_bytes(b"no FLAC")
    text = rejection(tmp_path)
    assert "rec.dat" in text
    assert "/" not in text
    assert text == rejection(tmp_path)
    (tmp_path / "rec.dat").write_bytes(b"fLaC and then no more of it")
    assert "/tmp" not in rejection(tmp_path)
    assert rejection(tmp_path) == rejection(tmp_path)


def test_values_beyond_16_bits_are_rejected_and_never_taken_for_no_sample(tmp_path):
    for value in (40000, -32768):
        wanted = plausible_signal(LEADS).astype("<i4")
        wanted[7, 2] = value
        (tmp_path / "rec.dat").write_bytes(wanted.tobytes())
        lines = [f"rec.dat 32 200 16 0 0 {wanted[:, k].sum() % 65536} 0 {LEADS[k]}" for k in range(12)]
        (tmp_path / "rec.hea").write_text("\n".join(["rec 12 500 500", *lines]))
        assert rejection(tmp_path).startswith("not_16_bit: lead III spans ")


_number = st.integers(-40000, 40000)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.5, 1e6), base=_number, gain=st.floats(1e-3, 1e6), checksum=_number, skew=st.integers(0, 9),
    offset=st.integers(0, 99), unit=st.sampled_from(["mV", "µV", "x/y"]), name=st.sampled_from(["I", "V 2", "5x", ""]),
)  # fmt: skip
def test_what_is_written_by_the_specification_is_read_back(rate, base, gain, checksum, skew, offset, unit, name):
    line = f"r.dat 16:{skew}+{offset} {gain!r}({base})/{unit} 12 7 {base} {checksum} 0 {name}"
    header = parse(f"r 1 {rate!r}/1(2) 77 1:2:3\n{line}\n".encode())
    signal = header.signals[0]
    assert (header.rate_hz, header.num_samples) == (rate, 77)
    assert (signal.skew, signal.offset, signal.gain, signal.units) == (skew, offset, gain, unit)
    assert (signal.baseline, signal.initial, signal.checksum) == (base, base, checksum % 65536)
    assert signal.name == name


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_bytes_make_the_parser_fail_otherwise_than_with_a_reason(data):
    text = b"rec 2 500 500\nrec.dat 16 200(0)/mV 16 0 1 2 0 I\nrec.dat 16 200(0)/mV 16 0 1 2 0 II\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    try:
        header = parse(text)
    except HeaderError:
        return
    assert header.num_segments is not None or len(header.signals) <= header.num_signal_lines
