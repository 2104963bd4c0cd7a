"""Reading one record: samples bit for bit, and every way a record can be bad is named."""

import numpy as np
import pytest
import wfdb

from lamae.base.errors import LamaeError
from lamae.base.leads import LEADS
from lamae.sharding.files import DirectoryFiles
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.reading import RejectError
from lamae.sharding.recording import audit, read_recording
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record

REAL_SOURCES = ("ptbxl_500hz_first500", "challenge2011_seta_subset", "physionet_challenge_2020_2021")


@pytest.fixture
def tree(tmp_path):
    """A folder with one good record, ``good``."""
    write_record(tmp_path / "good", plausible_signal(MIMIC_LEADS), comments=["<subject_id>: 17"])
    return tmp_path


def rejection(tree, record="good"):
    with pytest.raises(RejectError) as caught:
        read_recording(DirectoryFiles(tree), record)
    return caught.value.reason


def test_leads_are_ordered_by_name(tree):
    recording = read_recording(DirectoryFiles(tree), "good")
    signal = plausible_signal(MIMIC_LEADS)
    assert recording.fast
    assert recording.subject == 17
    for lead, name in enumerate(LEADS):
        np.testing.assert_array_equal(recording.samples[lead], signal[:, MIMIC_LEADS.index(name)])


def test_missing_and_foreign_leads(tmp_path):
    names = ("vx", "V2", "AVR", "II")
    write_record(tmp_path / "few", plausible_signal(("I", "V2", "aVR", "II")), names=names)
    recording = read_recording(DirectoryFiles(tmp_path), "few")
    assert [LEADS[lead] for lead in np.flatnonzero(recording.present)] == ["II", "aVR", "V2"]
    assert (recording.samples[~recording.present] == NO_SAMPLE).all()
    assert (recording.gain[~recording.present] == 1).all()
    audit(DirectoryFiles(tmp_path), "few", recording)


def test_fast_reader_and_wfdb_agree_on_the_no_sample_value(tree):
    signal = plausible_signal(MIMIC_LEADS)
    signal[100:120, 3] = NO_SAMPLE
    write_record(tree / "gap", signal, baseline=7)
    recording = read_recording(DirectoryFiles(tree), "gap")
    assert recording.fast
    audit(DirectoryFiles(tree), "gap", recording)


def test_audit_stops_on_a_difference(tree):
    recording = read_recording(DirectoryFiles(tree), "good")
    recording.samples[0, 0] += 1
    with pytest.raises(LamaeError, match="good: the fast reader and wfdb disagree on samples"):
        audit(DirectoryFiles(tree), "good", recording)


def test_bad_files(tree):
    assert rejection(tree, "absent") == "missing_file"
    data = (tree / "good.dat").read_bytes()
    (tree / "good.dat").write_bytes(data[:-1])
    assert rejection(tree) == "truncated"
    (tree / "good.dat").write_bytes(data[:700] + bytes([data[700] ^ 4]) + data[701:])
    assert rejection(tree) == "checksum"
    (tree / "good.dat").unlink()
    assert rejection(tree) == "missing_file"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("good 0 500 500\n", "no_leads"),
        ("good 1 500 500\ngood.dat 16 200(0)/mV 16 0 0 0 0 pleth\n", "no_leads"),
        ("", "bad_header"),
        ("not a header at all", "bad_header"),
        ("good 2 500 0\n", "bad_header"),
        ("good/2 12 500 1000\nseg1 500\nseg2 500\n", "unsupported"),
        ("good 1 500 500\ngood.dat 16x2 200(0)/mV 16 0 0 0 0 II\n", "unsupported"),
    ],
)
def test_bad_headers(tree, header, reason):
    (tree / "good.hea").write_text(header)
    if "pleth" in header:
        (tree / "good.dat").write_bytes(bytes(1000))
    assert rejection(tree) == reason


@pytest.mark.parametrize("gain", ["200.0(0)/mV", "200/mV"])  # the fast way and stock wfdb
def test_a_record_of_a_day_is_not_read(tree, gain):
    header = (tree / "good.hea").read_text().replace("200.0(0)/mV", gain)
    (tree / "good.hea").write_text(header.replace(" 12 500 500", " 12 500 43200000"))
    assert rejection(tree) == "wrong_length"


@pytest.mark.parametrize("names", [[f"{n}" for n in range(1, 13)], ["ECG1", "ECG2"]])
def test_numbered_channels_are_no_leads(tmp_path, names):
    write_record(tmp_path / "rec", plausible_signal(LEADS[: len(names)]), names=names)
    with pytest.raises(RejectError, match=f"no_leads: signals are {', '.join(names)}; name the leads I II III"):
        read_recording(DirectoryFiles(tmp_path), "rec")


def test_a_lead_named_twice_is_rejected(tree):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace(" 0 V6", " 0 v1"))
    assert rejection(tree) == "duplicate_lead"


def test_units_of_the_slow_path_become_millivolt(tree):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "0.2(0)/uV"))
    recording = read_recording(DirectoryFiles(tree), "good")
    assert not recording.fast
    np.testing.assert_allclose(recording.gain, 200.0)
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "2(0)/mmHg"))
    assert rejection(tree) == "units"


@pytest.mark.parametrize("gain", ["-200", "1e400", "1e-46", "1e39"])
def test_gains_that_turn_or_wipe_out_the_signal_are_rejected(tree, gain):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", f"{gain}(0)/mV", 1))
    assert rejection(tree) == "gain"


def test_a_baseline_beyond_32_bits_is_rejected(tree):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "200.0(-2147483648)/mV", 1))
    assert rejection(tree) == "baseline"
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "200.0(-2147483647)/mV", 1))
    assert read_recording(DirectoryFiles(tree), "good").baseline[0] == -2147483647


def test_a_gain_of_0_is_what_wfdb_defines_it_as(tree):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "0(0)/mV"))
    assert (read_recording(DirectoryFiles(tree), "good").gain == 200).all()


def test_the_slow_path_checks_the_checksum_too(tree):
    header = (tree / "good.hea").read_text()
    (tree / "good.hea").write_text(header.replace("200.0(0)/mV", "200/mV"))
    assert not read_recording(DirectoryFiles(tree), "good").fast
    data = bytearray((tree / "good.dat").read_bytes())
    data[11] ^= 1
    (tree / "good.dat").write_bytes(data)
    assert rejection(tree) == "checksum"


@pytest.mark.parametrize("folder", REAL_SOURCES)
def test_real_records_equal_wfdb_bit_for_bit(real_data, folder):
    files = DirectoryFiles(real_data / folder)
    for record in sorted(path[:-4] for path in files.paths() if path.endswith(".hea"))[:12]:
        recording = read_recording(files, record)
        reference = wfdb.rdrecord(str(real_data / folder / record), physical=False)
        names = [name.casefold() for name in reference.sig_name]
        expected = reference.d_signal[:, [names.index(lead.casefold()) for lead in LEADS]].T
        np.testing.assert_array_equal(recording.samples, expected)
        assert recording.fast == (folder != "physionet_challenge_2020_2021")
        if recording.fast:
            audit(files, record, recording)
