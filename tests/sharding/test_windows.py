"""Windows of long recordings, padding of short ones, and what archives of fixed length fill up with."""

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lamae.base.errors import UsageError
from lamae.cli.app import app
from lamae.evaluate.labels.sources import build_labels
from lamae.evaluate.labels.store import read_labels
from lamae.sharding.format import NO_SAMPLE, ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack
from lamae.sharding.quality import RECORD_FLAGS, QualityConfig
from lamae.sharding.recording import Recording
from lamae.sharding.verify import verify
from lamae.sharding.windows import cut, mark_padding, window_key, window_starts
from tests.sharding.packing import rejects_of
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def recording(samples, *, rate_hz=500.0, present=None):
    present = np.ones(12, bool) if present is None else present
    return Recording(samples, np.full(12, 200.0), np.zeros(12, np.int16), present, rate_hz, None, fast=True)


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, size=(12, num_samples)).astype(np.int16)


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 1000), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_all_windows_tile_a_record_and_lose_less_than_half_a_window(length, window, overlap):
    starts = window_starts(length, window, kind="all", overlap=overlap)
    assert starts[0] == 0
    assert np.diff(starts).tolist() == [max(1, round(window * (1 - overlap)))] * (len(starts) - 1)
    assert all(2 * (length - start) >= window for start in starts[1:])
    assert 2 * (length - (starts[-1] + window)) < window
    assert window_starts(length, window, kind="first", overlap=overlap) == [0]
    (middle,) = window_starts(length, window, kind="centre", overlap=overlap)
    assert middle == max(0, length - window) // 2


def test_a_window_holds_the_samples_that_were_recorded_and_no_sample_after_the_end():
    samples = noise(1200)
    window = cut(recording(samples), 750, num_samples=500)
    np.testing.assert_array_equal(window.samples[:, :450], samples[:, 750:])
    assert (window.samples[:, 450:] == NO_SAMPLE).all()


@pytest.mark.parametrize(("before", "after"), [(300, 200), (0, 200), (300, 0), (10, 10)])
@pytest.mark.parametrize("last", [0, NO_SAMPLE])
def test_silence_of_all_leads_at_the_ends_is_no_sample(before, after, last):
    samples = noise(2000)
    samples[:, :before] = 0
    samples[:, 2000 - after :] = last
    expected = samples.copy()
    for stretch in (slice(0, before), slice(2000 - after, 2000)):
        if stretch.stop - stretch.start >= 50:
            expected[:, stretch] = NO_SAMPLE
    recorded = mark_padding(recording(samples), min_samples=50)
    np.testing.assert_array_equal(samples, expected)
    assert recorded == (before if before >= 50 else 0, 2000 - after if after >= 50 else 2000)


def test_silence_of_some_leads_or_in_the_middle_is_left_as_it_is():
    samples = noise(2000)
    samples[:11, :400] = 0
    samples[:, 900:1100] = 0
    before = samples.copy()
    assert mark_padding(recording(samples), min_samples=50) == (0, 2000)
    np.testing.assert_array_equal(samples, before)
    present = np.arange(12) < 11  # the twelfth lead is not there
    samples[11] = NO_SAMPLE
    assert mark_padding(recording(samples, present=present), min_samples=50) == (400, 2000)
    assert (samples[:11, :400] == NO_SAMPLE).all()
    assert mark_padding(recording(np.zeros((12, 300), np.int16)), min_samples=50) == (
        0,
        300,
    )  # silent throughout: flat leads


def test_keys_of_windows_stay_in_the_order_of_records():
    keys = ["A", "A+", "A+w", "A-b", "A0", "A=b", "A@", "AB", "A_b", "Aa"]
    assert sorted(keys) == keys
    windows = [window_key(key, n, 13) for key in keys for n in (0, 1, 12)]
    assert sorted(windows) == windows
    assert windows[2] == "A#0012"
    assert max(len(window_key("k" * 90, n, 10_000)) + len(".json") for n in (0, 9999)) <= 100


def test_keys_of_more_than_ten_thousand_windows_are_padded_by_need(tmp_path):
    write_record(tmp_path / "in" / "a", np.resize(plausible_signal(MIMIC_LEADS, num_samples=500), (10_002, 12)))
    write_record(tmp_path / "in" / "b", plausible_signal(MIMIC_LEADS, num_samples=4, seed=1))
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=0.004, windows="all", overlap=0.5)
    assert shard_set.keys == [f"a#{n:05d}" for n in range(10_001)] + ["b#0000", "b#0001", "b#0002"]
    assert shard_set.record_keys[9_999:10_002] == ["a", "a", "b"]
    write_record(tmp_path / "long" / ("k" * 90), np.resize(plausible_signal(MIMIC_LEADS), (10_002, 12)))
    write_record(tmp_path / "long" / "a", plausible_signal(MIMIC_LEADS, num_samples=4))
    packed(tmp_path / "long", tmp_path / "rest", seconds=0.004, windows="all", overlap=0.5)
    assert rejects_of(tmp_path / "rest") == {"k" * 90: "long_name"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Four records of 1, 3, 8.5 and 20 s."""
    folder = tmp_path_factory.mktemp("archive")
    for place, length in enumerate((500, 1500, 4250, 10000)):
        signal = plausible_signal(MIMIC_LEADS, num_samples=length, seed=place)
        write_record(folder / f"r{place}", signal, comments=[f"<subject_id>: {70 + place}"])
    return folder


def packed(source, out, **options):
    pack(source, out, options=PackOptions(shard_size=2, split_fractions=[1.0, 0.0, 0.0], **options))
    assert verify(out).problems == []
    return ShardSet.open(out)


def test_every_window_holds_what_wfdb_reads(archive, tmp_path):
    shard_set = packed(archive, tmp_path / "all", seconds=3.0, windows="all", overlap=0.5)
    assert shard_set.num_samples == 1500
    assert shard_set.keys == sorted(shard_set.keys)
    assert shard_set.keys[:4] == ["r0#0000", "r1#0000", "r2#0000", "r2#0001"]
    assert sorted(set(shard_set.record_keys)) == ["r0", "r1", "r2", "r3"]
    starts = shard_set.column("extra/window_start_s")
    for row, record in enumerate(shard_set.record_keys):
        begin = round(starts[row] * 500)
        read = wfdb.rdrecord(str(archive / record), sampfrom=begin, physical=False)
        expected = np.full((12, 1500), NO_SAMPLE)
        for lead, name in enumerate(("I", "II", "III", "aVR", "aVL", "aVF", *(f"V{n}" for n in range(1, 7)))):
            samples = read.d_signal[:1500, read.sig_name.index(name)]
            expected[lead, : len(samples)] = samples
        np.testing.assert_array_equal(shard_set.read(row), expected)
        assert shard_set.column("subject")[row] == 70 + int(record[1])
    assert shard_set.manifest["lead_flags"]["gaps"] == 0, "what fills a window's length is no fault of the recording"


def test_with_a_length_the_rate_is_the_one_that_most_records_have(tmp_path):
    for number in range(4):
        signal = plausible_signal(MIMIC_LEADS, num_samples=1000 + 37 * number, seed=number)
        write_record(tmp_path / "in" / f"a{number}", signal)
    for number in range(3):
        write_record(tmp_path / "in" / f"b{number}", plausible_signal(MIMIC_LEADS, num_samples=2000), rate_hz=1000)
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=2.0)
    assert (shard_set.rate_hz, shard_set.num_samples, shard_set.num_records) == (500, 1000, 4)
    assert rejects_of(tmp_path / "out") == {f"b{number}": "wrong_rate" for number in range(3)}
    assert packed(tmp_path / "in", tmp_path / "resampled", seconds=2.0, rate_hz=250.0).num_records == 7


def test_a_user_s_column_may_not_have_the_name_of_one_that_windows_make(archive, tmp_path):
    table = tmp_path / "columns.csv"
    table.write_text("key,window_start_s\n" + "".join(f"r{n},{n}\n" for n in range(4)))
    with pytest.raises(UsageError, match="--seconds makes a column window_start_s itself; rename or leave out this"):
        packed(archive, tmp_path / "out", seconds=3.0, columns_from=str(table))
    assert not (tmp_path / "out").exists()
    whole = packed(archive, tmp_path / "whole", columns_from=str(table))
    assert whole.column("extra/window_start_s")[0] == int(whole.keys[0][1])


def test_windows_do_not_depend_on_workers(archive, tmp_path):
    one = packed(archive, tmp_path / "one", seconds=2.0, windows="all", rate_hz=250)
    two = packed(archive, tmp_path / "two", seconds=2.0, windows="all", rate_hz=250, workers=2)
    assert one.index_hash == two.index_hash
    assert one.manifest["shards"] == two.manifest["shards"]


def test_one_window_keeps_the_record_s_key(archive, tmp_path):
    for kind, start in (("first", 0.0), ("centre", 8.5)):
        shard_set = packed(archive, tmp_path / kind, seconds=3.0, windows=kind)
        assert shard_set.keys == shard_set.record_keys == ["r0", "r1", "r2", "r3"]
        assert shard_set.column("extra/window_start_s")[3] == start
    packed(archive, tmp_path / "long", seconds=3.0, min_seconds=2.0)
    assert rejects_of(tmp_path / "long") == {"r0": "too_short"}


def test_a_record_that_an_archive_filled_up_is_assessed_by_what_was_recorded(tmp_path):
    signal = plausible_signal(MIMIC_LEADS, num_samples=1500, seed=3)
    signal[:500] = signal[1400:] = 0
    write_record(tmp_path / "in" / "a", signal)
    write_record(tmp_path / "in" / "b", plausible_signal(MIMIC_LEADS, num_samples=1500, seed=4))
    shard_set = packed(tmp_path / "in", tmp_path / "out")
    adc = shard_set.read(0)
    assert (adc[:, :500] == NO_SAMPLE).all()
    assert (adc[:, 1400:] == NO_SAMPLE).all()
    assert (adc[:, 500:1400] != NO_SAMPLE).all()
    assert not shard_set.column("lead_flags")[0].any()
    assert shard_set.manifest["readers"]["padded"] == 1
    assert (packed(tmp_path / "in", tmp_path / "kept", padding_s=0.0).read(0) != NO_SAMPLE).all()


def test_windows_are_cut_from_what_was_recorded_and_not_from_padding(tmp_path):
    signal = plausible_signal(MIMIC_LEADS, num_samples=3000, seed=3)
    signal[:600] = signal[2600:] = 0
    write_record(tmp_path / "in" / "a", signal)
    write_record(tmp_path / "in" / "b", plausible_signal(MIMIC_LEADS, num_samples=3000, seed=4))
    for kind, starts in (("first", [1.2]), ("centre", [2.2]), ("all", [1.2, 3.2])):
        shard_set = packed(tmp_path / "in", tmp_path / kind, seconds=2.0, windows=kind)
        assert shard_set.column("extra/window_start_s")[: len(starts)].tolist() == starts
        for row in range(len(starts)):
            assert (shard_set.read(row) != NO_SAMPLE).all()
    packed(tmp_path / "in", tmp_path / "long", seconds=2.0, min_seconds=5.0)
    assert rejects_of(tmp_path / "long") == {"a": "too_short"}


def test_a_recording_of_half_an_hour_becomes_its_windows(tmp_path):
    signal = np.resize(plausible_signal(MIMIC_LEADS, num_samples=10_000, seed=3), (462_600, 12))
    write_record(tmp_path / "in" / "I01", signal, rate_hz=257)
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=10.0, windows="all")
    assert (shard_set.num_records, shard_set.num_samples, shard_set.rate_hz) == (180, 2570, 257)
    assert shard_set.manifest["readers"]["fast"] == 1, "one record"
    assert packed(tmp_path / "in", tmp_path / "first", seconds=10.0).num_records == 1


def test_gains_that_cannot_be_are_flagged_and_can_be_overridden(tmp_path):
    """LUDB's headers bring every lead to one height; the Challenge's PTB has two million units per millivolt."""
    signal = plausible_signal(MIMIC_LEADS, num_samples=1500, seed=3, gain=1000.0)
    write_record(tmp_path / "in" / "fine", signal, gain=2_000_000)
    write_record(tmp_path / "in" / "right", signal, gain=1000)
    path = write_record(tmp_path / "in" / "scaled", signal, gain=1000)
    lines = path.with_suffix(".hea").read_text().splitlines()
    lines[1:] = [line.replace("1000(0)", f"{700 + 97 * n}({n % 5})") for n, line in enumerate(lines[1:])]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
    bits = {name: 1 << RECORD_FLAGS.index(name) for name in ("gain_implausible", "gain_normalised", "duplicate")}
    flags = packed(tmp_path / "in", tmp_path / "out").column("record_flags") & ~np.uint16(bits["duplicate"])
    assert flags.tolist() == [bits["gain_implausible"], 0, bits["gain_normalised"]]
    right = packed(tmp_path / "in", tmp_path / "given", gain=1000.0)
    assert set(right.column("record_flags").tolist()) <= {bits["duplicate"]}
    assert (right.column("gain") == 1000).all()
    np.testing.assert_allclose(right.column("std_mv")[0], right.column("std_mv")[2])


def test_records_with_a_gain_that_cannot_be_are_counted_not_their_windows(tmp_path):
    for name, gain in (("fine", 2_000_000), ("right", 1000)):
        signal = plausible_signal(MIMIC_LEADS, num_samples=1500, seed=gain, gain=1000.0)
        write_record(tmp_path / "in" / name, signal, gain=gain)
    command = ["shard", str(tmp_path / "in"), str(tmp_path / "out"), "--seconds", "1", "--windows", "all", "--no-card"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    text = " ".join(done.output.split())
    assert "the gains in the headers of 1 records give no millivolts (gain_implausible)" in text
    assert "which replaces the gains of all records of a set" in text
    assert "windows flagged: gain_implausible │ 3" in text
    command[2:3] = [str(tmp_path / "given"), "--gain", "2e6"]
    text = " ".join(CliRunner().invoke(app, command, catch_exceptions=False).output.split())
    assert "warning: --gain 2e+06 gives no millivolts in 2 records (gain_implausible); pack them with another" in text
    assert "the gains in the headers" not in text


@pytest.mark.parametrize("gain", ["0(0)/adu", "1000.0(0)/adu", "-1000.0(0)/mV", "1000.0(0)/mV"])
def test_a_given_gain_stands_in_for_gains_and_units_that_cannot_be_used(tmp_path, gain):
    signal = plausible_signal(MIMIC_LEADS, num_samples=1500, gain=1000.0)
    header = write_record(tmp_path / "in" / "a", signal, gain=200).with_suffix(".hea")
    header.write_text(header.read_text().replace("200(0)/mV", gain))
    shard_set = packed(tmp_path / "in", tmp_path / "out", gain=1000.0, audit=1.0)
    assert (shard_set.column("gain") == 1000).all()
    np.testing.assert_allclose(shard_set.column("std_mv")[0].max(), signal.std(axis=0).max() / 1000, rtol=1e-6)


def test_a_record_so_slow_that_a_window_of_it_has_no_sample_is_rejected(tmp_path):
    for number in range(130):  # of which the plan looks at every other header
        rate_hz = 5 if number == 1 else 500
        write_record(tmp_path / "in" / f"{number:03d}", plausible_signal(MIMIC_LEADS, num_samples=50), rate_hz=rate_hz)
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=0.05, rate_hz=500.0)
    assert len(shard_set.keys) == 129
    assert rejects_of(tmp_path / "out") == {"001": "wrong_rate"}


@pytest.mark.parametrize(("rate_hz", "num_fine"), [(None, 4), (500.0, 4), (500.0, 1)])
def test_one_record_too_slow_for_a_sample_of_a_window_stops_no_packing(tmp_path, rate_hz, num_fine):
    for number in range(num_fine + 1):
        slow = number == num_fine
        signal = plausible_signal(MIMIC_LEADS, seed=number)
        write_record(tmp_path / "in" / f"r{number}", signal, rate_hz=1 if slow else 500)
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=0.4, rate_hz=rate_hz)
    assert (shard_set.rate_hz, shard_set.num_samples, shard_set.num_records) == (500, 200, num_fine)
    assert rejects_of(tmp_path / "out") == {f"r{num_fine}": "wrong_rate"}


def test_windows_of_less_than_a_sample_of_most_records_are_refused(tmp_path):
    for number in range(3):
        signal = plausible_signal(MIMIC_LEADS, seed=number)
        write_record(tmp_path / "in" / f"r{number}", signal, rate_hz=500 if number == 0 else 1)
    with pytest.raises(UsageError, match=r"seconds=0.4 is less than a sample at 1 Hz"):
        packed(tmp_path / "in", tmp_path / "out", seconds=0.4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seconds": 0.0}, "seconds=0.0 must be above 0"),
        ({"seconds": 0.001}, r"seconds=0.001 is less than a sample at 500 Hz"),
        ({"windows": "all"}, "go with seconds"),
        ({"seconds": 2.0, "windows": "middle"}, "windows='middle' is none of first, centre, all"),
        ({"seconds": 2.0, "overlap": 0.5}, "goes with windows=all"),
        ({"seconds": 2.0, "windows": "all", "overlap": 1.0}, r"overlap=1.0 must lie in \[0, 1\)"),
        ({"min_seconds": 2.0}, "go with seconds"),
        ({"gain": -1.0}, "gain=-1.0 must be above 0"),
        ({"gain": 1e-46}, r"gain=1e-46 must lie in 1e-20..1e\+20"),
        ({"gain": 1e39}, r"gain=1e\+39 must lie in 1e-20..1e\+20"),
        ({"seconds": 2.0, "min_seconds": float("inf")}, "min_seconds=inf must be finite"),
        ({"quality": QualityConfig(hum_max_mv=float("inf"))}, "quality.hum_max_mv=inf must be finite"),
        ({"seconds": 500.0}, r"seconds=500, but the longest of the 4 records looked at has 20 s"),
    ],
)
def test_windows_that_cannot_be_are_refused(archive, tmp_path, options, named):
    with pytest.raises(UsageError, match=named):
        packed(archive, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_parts_packed_one_by_one_give_the_same(archive, tmp_path):
    from lamae.sharding import pack as packing

    whole = packed(archive, tmp_path / "whole", seconds=2.0, windows="all")
    options = PackOptions(shard_size=2, split_fractions=[1.0, 0.0, 0.0], seconds=2.0, windows="all")
    packing.plan(archive, tmp_path / "parts", options=options)
    packing.pack_part(archive, tmp_path / "parts", 1)
    again = packed(archive, tmp_path / "parts", seconds=2.0, windows="all")
    assert again.index_hash == whole.index_hash


def test_every_window_has_its_record_s_labels(archive, tmp_path):
    shard_set = packed(archive, tmp_path / "set", seconds=2.0, windows="all")
    table = tmp_path / "labels.csv"
    table.write_text("key,AF,PVC\n" + "".join(f"r{n},{n % 2},{int(n == 2)}\n" for n in range(4)))
    report = build_labels(shard_set, tmp_path / "l.zarr", source="csv", file=table, min_count=1)
    assert (report.num_source_records, report.num_labelled) == (4, shard_set.num_records)
    assert "4 of 4 records matched the source's 4, 17 windows are labelled (17 train" in str(report)
    labels = read_labels(tmp_path / "l.zarr")
    for row, record in enumerate(shard_set.record_keys):
        number = int(record[1])
        assert labels.label_NC[row].tolist() == [number % 2, number == 2]


def test_windows_of_a_record_without_a_patient_are_one_subject(tmp_path):
    for place in range(3):
        signal = plausible_signal(MIMIC_LEADS, num_samples=3000, seed=place)
        write_record(tmp_path / "in" / f"r{place}", signal)
    shard_set = packed(tmp_path / "in", tmp_path / "out", seconds=2.0, windows="all")
    subject = shard_set.column("subject")
    assert len(np.unique(subject)) == shard_set.manifest["num_subjects"] == 3
    for row, key in enumerate(shard_set.record_keys):
        assert subject[row] == -1 - int(key[1])
    assert shard_set.row_of("r1") == shard_set.row_of("r1#0000") == 3
