"""Quality rules: each fires on what it describes, keeps quiet just below its threshold, and does what it is told."""

import csv

import numpy as np
import pytest

from sharding.files import DirectoryFiles
from sharding.format import NO_SAMPLE
from sharding.leads import LEADS
from sharding.measures import Measures
from sharding.quality import LEAD_FLAGS, RECORD_FLAGS, QualityConfig, assess
from sharding.recording import Recording, RejectError, read_recording
from tests.sharding.wfdbtree import plausible_signal

RATE_HZ, GAIN, BASELINE = 500.0, 200.0, -30
SECOND = np.arange(5000) / RATE_HZ
V3 = LEADS.index("V3")


def recording(samples: np.ndarray, *, present: np.ndarray | None = None) -> Recording:
    present = np.ones(12, bool) if present is None else present
    return Recording(samples, np.full(12, GAIN), np.full(12, BASELINE, np.int16), present, RATE_HZ, None, True)


@pytest.fixture
def samples() -> np.ndarray:
    """Ten seconds, int16 [12, 5000], of leads that break no rule."""
    calm = plausible_signal(LEADS, num_samples=5000, seed=3, gain=GAIN).astype(float)
    calm -= np.linspace(calm[0], calm[-1], 5000)
    return (np.clip(calm * 0.3, -400, 400).T + BASELINE).astype(np.int16)


def flags(samples: np.ndarray, config: QualityConfig | None = None, **options) -> dict[str, set[str]]:
    """Flag names by lead, with the record's own under ``record`` and the unusable leads under ``masked``."""
    found = assess(Measures(recording(samples, **options)), config or QualityConfig())
    by_lead = {
        name: {flag for bit, flag in enumerate(LEAD_FLAGS) if found.lead_flags[lead] >> bit & 1}
        for lead, name in enumerate(LEADS)
    }
    by_lead["record"] = {flag for bit, flag in enumerate(RECORD_FLAGS) if found.record_flags >> bit & 1}
    by_lead["masked"] = {name for lead, name in enumerate(LEADS) if not found.usable[lead]}
    return {name: value for name, value in by_lead.items() if value}


def adc(millivolt) -> np.ndarray:
    return np.rint(np.asarray(millivolt) * GAIN + BASELINE).astype(np.int16)


def test_calm_leads_carry_no_flag(samples):
    assert flags(samples) == {}


def test_zero_and_flat_leads_are_masked(samples):
    samples[V3] = BASELINE
    assert flags(samples) == {"V3": {"zero", "flat", "flat_run"}, "masked": {"V3"}}
    noise = np.random.default_rng(0).integers(0, 5, 5000)
    samples[V3] = 700 + noise
    assert flags(samples) == {"V3": {"flat"}, "masked": {"V3"}}
    samples[V3] = 700 + 2 * noise
    assert flags(samples) == {}


def test_a_run_of_one_value(samples):
    samples[V3, 1003 : 1003 + 500] = samples[V3, 1003]
    samples[V3, 1003 + 500] += 5
    samples[V3, 1002] -= 5
    assert flags(samples) == {}
    samples[V3, 1003 + 500] = samples[V3, 1003]
    samples[V3, 1003 + 501] += 5
    assert flags(samples) == {"V3": {"flat_run"}}


def test_every_long_run_is_found_wherever_it_starts(samples):
    for start in range(0, 4400, 37):
        run = samples.copy()
        run[V3, start : start + 520] = 7
        assert flags(run) == {"V3": {"flat_run"}}, start


def test_clipping_counts_as_saturated(samples):
    clipped = adc(np.clip(3 * np.sin(2 * np.pi * 1.3 * SECOND), -9, 2.8))
    samples[V3] = clipped
    assert flags(samples) == {"V3": {"saturated"}}
    samples[V3] = adc(1.5 * np.sin(2 * np.pi * 1.3 * SECOND))
    assert flags(samples) == {}


def test_amplitude_beyond_any_heart(samples):
    samples[V3, 100:150] = adc(-10.1)
    assert flags(samples) == {}, "50 samples are a tenth of a second: a spike"
    samples[V3, 100:151] = adc(-10.1)
    assert flags(samples) == {"V3": {"amplitude"}}
    samples[V3, 100:151] = adc(-9.9)
    assert flags(samples) == {}


def test_baseline_wander(samples):
    samples[V3] = adc(0.9 * np.sin(2 * np.pi * 0.1 * SECOND) + 0.2 * np.sin(2 * np.pi * 1.2 * SECOND))
    assert flags(samples) == {}
    samples[V3] = adc(1.2 * np.sin(2 * np.pi * 0.1 * SECOND) + 0.2 * np.sin(2 * np.pi * 1.2 * SECOND))
    assert flags(samples) == {"V3": {"wander"}}


@pytest.mark.parametrize("mains_hz", [49.8, 50.0, 60.0, 60.2])
def test_mains_hum(samples, mains_hz):
    slow = 0.5 * np.sin(2 * np.pi * 1.2 * SECOND)
    samples[V3] = adc(slow + 0.09 * np.sin(2 * np.pi * mains_hz * SECOND + 1))
    assert flags(samples) == {}
    samples[V3] = adc(slow + 0.12 * np.sin(2 * np.pi * mains_hz * SECOND + 1))
    assert flags(samples) == {"V3": {"hum"}}


def test_gaps_are_recorded_and_only_large_ones_mask(samples):
    samples[V3, :2500] = NO_SAMPLE
    samples[0, 10:20] = NO_SAMPLE
    assert flags(samples) == {}
    measures = Measures(recording(samples))
    assert measures.num_missing.tolist() == [10, 0, 0, 0, 0, 0, 0, 0, 2500, 0, 0, 0]
    assert measures.min_adc[V3] == samples[V3, 2500:].min()
    samples[V3, 2500] = NO_SAMPLE
    assert flags(samples) == {"V3": {"gaps"}, "masked": {"V3"}}
    samples[V3] = NO_SAMPLE
    assert flags(samples) == {"V3": {"gaps"}, "masked": {"V3"}}


def test_missing_leads_break_no_rule(samples):
    present = np.arange(12) < 6
    samples[6:] = NO_SAMPLE
    found = flags(samples, present=present)
    assert found.pop("masked") == set(LEADS[6:])
    assert found == {name: {"missing"} for name in LEADS[6:]}


def test_contradicting_limb_leads(samples):
    samples[2, :200] += 40
    assert flags(samples) == {}, "200 of 5000 instants are an artefact"
    samples[2, :300] += 40
    assert flags(samples) == {"record": {"limb_inconsistent"}}
    samples[2] = NO_SAMPLE
    assert "record" not in flags(samples), "what is missing contradicts nothing"


def test_exchanged_names_of_avl_and_avf_are_told_apart(samples):
    samples[[4, 5]] = samples[[5, 4]]
    assert flags(samples) == {"record": {"avl_avf_exchanged"}}


def test_each_limb_rule_can_be_ignored_alone(samples):
    contradicting, exchanged = samples.copy(), samples.copy()
    contradicting[2] += 40
    exchanged[[4, 5]] = exchanged[[5, 4]]
    only_exchanged = QualityConfig(limb_inconsistent="ignore")
    assert flags(exchanged, only_exchanged) == {"record": {"avl_avf_exchanged"}}
    assert flags(contradicting, only_exchanged) == {}
    assert flags(exchanged, QualityConfig(avl_avf_exchanged="ignore")) == {"record": {"limb_inconsistent"}}
    assert flags(exchanged, QualityConfig(limb_inconsistent="ignore", avl_avf_exchanged="ignore")) == {}
    with pytest.raises(RejectError, match="quality_avl_avf_exchanged"):
        flags(exchanged, QualityConfig(limb_inconsistent="ignore", avl_avf_exchanged="reject"))


def test_actions(samples):
    samples[V3] = BASELINE
    assert flags(samples, QualityConfig(zero="ignore", flat="flag", flat_run="ignore")) == {"V3": {"flat"}}
    with pytest.raises(RejectError, match="quality_flat: V3"):
        flags(samples, QualityConfig(flat="reject"))
    samples[:] = BASELINE
    with pytest.raises(RejectError, match="no_usable_lead"):
        flags(samples)
    with pytest.raises(ValueError, match=r"quality\.hum='delete' is none of ignore, flag, mask, reject"):
        QualityConfig(hum="delete").check()
    with pytest.raises(ValueError, match=r"quality\.limb_inconsistent='mask' is none of ignore, flag, reject"):
        QualityConfig(limb_inconsistent="mask").check()


def test_rules_separate_what_experts_called_unacceptable(real_data):
    """Challenge 2011 set-a. The thresholds are physical, none was fitted to these files."""
    folder = real_data / "challenge2011_seta_subset"
    files, config = DirectoryFiles(folder), QualityConfig()
    exchanged = 1 << RECORD_FLAGS.index("avl_avf_exchanged")  # all these headers have aVL and aVF the wrong way round
    carrying, num_exchanged = {"acceptable": 0, "unacceptable": 0}, 0
    with (folder / "quality.csv").open() as file:
        for row in csv.DictReader(file):
            try:
                found = assess(Measures(read_recording(files, row["record"])), config)
            except RejectError:
                carrying[row["quality"]] += 1
                continue
            num_exchanged += bool(found.record_flags & exchanged)
            carrying[row["quality"]] += bool(found.lead_flags.any() or found.record_flags & ~exchanged)
    assert carrying["unacceptable"] >= 28
    assert carrying["acceptable"] <= 12
    assert num_exchanged > 180
