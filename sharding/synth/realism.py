"""How close synthetic ECGs come to real ones: the same figures for any folders of WFDB records, side by side.

    python -m lamae.sharding.synth.realism SYNTHETIC_TREE REAL_FOLDER

prints a Markdown table with one column per folder; ``docs/synth.md`` shows one. All of it is of ten seconds at 500 Hz.
Letters in names: N records, L leads in canonical order, T samples.
"""

import argparse
from pathlib import Path

import numpy as np
import wfdb
from scipy import signal

from lamae.base.errors import UsageError
from lamae.base.leads import INDEPENDENT_LEADS, LEADS, canonical_columns
from lamae.sharding.synth.heart import NUM_SAMPLES, RATE_HZ

_NUM_COMPONENTS = 3
SPREAD = (10, 50, 90)
"""Percentiles over records."""


def load_millivolts(folder: Path, *, max_records: int) -> np.ndarray:
    """float32 ``[N, 12, T]`` of the intact twelve-lead records below ``folder``, spread evenly over its listing.

    Records of another rate or length, or with missing or flat leads, are passed over; UsageError if none is left.
    """
    headers = sorted(folder.rglob("*.hea"))
    wanted = np.unique(np.linspace(0, len(headers) - 1, min(len(headers), max_records)).round().astype(int))
    records = []
    for index in wanted:
        record = wfdb.rdrecord(str(headers[index].with_suffix("")))
        columns = canonical_columns(record.sig_name)
        if (record.fs, record.sig_len) == (RATE_HZ, NUM_SAMPLES) and None not in columns:
            mv_LT = record.p_signal.T[columns]
            if np.isfinite(mv_LT).all() and (np.ptp(mv_LT, axis=1) > 0).all() and np.abs(mv_LT).max() < 20:
                records.append(mv_LT.astype(np.float32))
    if not records:
        raise UsageError(f"{folder}: no intact 12-lead record of {NUM_SAMPLES} samples at {RATE_HZ} Hz below it")
    return np.stack(records)


def filtered(mv_XT: np.ndarray, band_hz: float | tuple[float, float], kind: str) -> np.ndarray:
    """By a Butterworth filter of second order, there and back, so that nothing is delayed."""
    return signal.sosfiltfilt(signal.butter(2, band_hz, kind, fs=RATE_HZ, output="sos"), mv_XT, axis=-1)


def without_wander(mv_NLT: np.ndarray) -> np.ndarray:
    """High-passed at 0.5 Hz."""
    return filtered(mv_NLT, 0.5, "highpass")


def explained_by_three(mv_NLT: np.ndarray) -> np.ndarray:
    """``[N]``: share of the variance of the eight independent leads that three principal components explain."""
    x = mv_NLT[:, list(INDEPENDENT_LEADS)]
    x = x - x.mean(axis=-1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(x @ x.transpose(0, 2, 1))
    return eigenvalues[:, -_NUM_COMPONENTS:].sum(axis=1) / eigenvalues.sum(axis=1)


def limb_residual_uv(mv_NLT: np.ndarray) -> np.ndarray:
    """``[N]``: largest departure from III = II - I, microvolt."""
    return 1000 * np.abs(mv_NLT[:, 2] - mv_NLT[:, 1] + mv_NLT[:, 0]).max(axis=-1)


def r_peaks(mv_LT: np.ndarray) -> np.ndarray:
    """Sample numbers of the heartbeats: maxima of the steepness summed over leads, at least 0.24 s apart."""
    steepness = np.sqrt((np.diff(filtered(mv_LT, (5, 25), "bandpass"), axis=-1) ** 2).sum(axis=0))
    window = round(0.08 * RATE_HZ)
    steepness = np.convolve(steepness, np.ones(window) / window, mode="same")
    peaks, _ = signal.find_peaks(steepness, height=0.35 * np.quantile(steepness, 0.98), distance=round(0.24 * RATE_HZ))
    return peaks


def heart_rate_bpm(mv_NLT: np.ndarray) -> np.ndarray:
    """``[N]``: 60 over the median RR interval; NaN with fewer than three beats."""
    peaks = map(r_peaks, mv_NLT)
    return np.array([60 * RATE_HZ / np.median(np.diff(p)) if len(p) > 2 else np.nan for p in peaks])


def spectrum_slope(mv_NLT: np.ndarray, *, band_hz: tuple[float, float]) -> np.ndarray:
    """``[N]``: exponent of the power spectrum, averaged over leads, as a power of frequency within a band."""
    frequency, power = signal.welch(mv_NLT, fs=RATE_HZ, nperseg=1024, axis=-1)
    chosen = (frequency >= band_hz[0]) & (frequency <= band_hz[1])
    log_power = np.log10(power.mean(axis=1)[:, chosen] + 1e-12)
    return np.polyfit(np.log10(frequency[chosen]), log_power.T, 1)[0]


def noise_uv(mv_NLT: np.ndarray) -> np.ndarray:
    """``[N]``: level of what lies between 70 and 150 Hz outside the QRS complexes, median lead, microvolt."""
    magnitude = np.abs(filtered(mv_NLT, (70, 150), "bandpass"))
    return 1000 * 1.4826 * np.median(np.median(magnitude, axis=-1), axis=1)


def hidden_chest_lead(mv_NLT: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray]:
    """How well the other seven independent leads predict a chest lead, R² by record, two ways.

    First with weights fitted on the record itself (what can be predicted at best), then with one set of weights fitted
    on the other half of the records (what can be predicted without knowing the body).
    """
    others = [other for other in INDEPENDENT_LEADS if other != lead]
    x, y = mv_NLT[:, others], mv_NLT[:, lead]
    gram, target = x @ x.transpose(0, 2, 1), (x @ y[:, :, None])[:, :, 0]
    own = np.linalg.solve(gram + 1e-9 * np.eye(len(others)), target[:, :, None])[:, :, 0]
    pooled = np.empty_like(own)
    scale = 1 / np.trace(gram, axis1=1, axis2=2)
    for half in (0, 1):
        of_rest = slice(1 - half, None, 2)
        grams, targets = gram[of_rest] * scale[of_rest, None, None], target[of_rest] * scale[of_rest, None]
        pooled[half::2] = np.linalg.solve(grams.sum(0), targets.sum(0))

    def r_squared(weights: np.ndarray) -> np.ndarray:
        explained = 2 * (weights * target).sum(1) - np.einsum("ni,nij,nj->n", weights, gram, weights)
        return explained / (y**2).sum(axis=-1)

    return r_squared(own), r_squared(pooled)


def rows(mv_NLT: np.ndarray) -> dict[str, str]:
    """Every figure, by name; three numbers are the 10th, 50th and 90th percentile over records."""
    steady = without_wander(mv_NLT)
    figures: list[tuple[str, np.ndarray, tuple[int, ...], int]] = [
        ("variance in three components, median / p10", explained_by_three(mv_NLT), (50, 10), 3),
        ("the same without wander (0.5 Hz high-pass)", explained_by_three(steady), (50, 10), 3),
        ("heart rate, per minute", heart_rate_bpm(mv_NLT), SPREAD, 0),
        ("III - (II - I), largest, µV, median / p99", limb_residual_uv(mv_NLT), (50, 99), 0),
        ("spectrum exponent 1 to 10 Hz", spectrum_slope(mv_NLT, band_hz=(1, 10)), SPREAD, 2),
        ("spectrum exponent 10 to 45 Hz", spectrum_slope(mv_NLT, band_hz=(10, 45)), SPREAD, 2),
        ("noise 70 to 150 Hz, µV", noise_uv(mv_NLT), SPREAD, 1),
        ("wander below 0.5 Hz, all leads, µV", 1000 * (mv_NLT - steady).std(axis=-1).mean(axis=1), SPREAD, 0),
    ]
    for lead in INDEPENDENT_LEADS:
        figures += [
            (f"{LEADS[lead]} largest deflection up, mV", steady[:, lead].max(axis=-1), SPREAD, 2),
            (f"{LEADS[lead]} largest deflection down, mV", steady[:, lead].min(axis=-1), SPREAD, 2),
            (f"{LEADS[lead]} standard deviation, mV", steady[:, lead].std(axis=-1), SPREAD, 3),
        ]
    for name in ("V1", "V3", "V5"):
        for weights, predicted in zip(("own", "shared"), hidden_chest_lead(steady, LEADS.index(name)), strict=True):
            figures.append((f"{name} from the others, {weights} weights, R² p10 / median", predicted, (10, 50), 2))
    return {"records": str(len(mv_NLT))} | {
        name: " / ".join(f"{value:.{digits}f}" for value in np.nanpercentile(values, wanted))
        for name, values, wanted, digits in figures
    }


def markdown(columns: dict[str, dict[str, str]]) -> str:
    """The table, one column per folder."""
    names = list(columns)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(columns[name][row] for name in names) + " |" for row in columns[names[0]]]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare folders of 12-lead WFDB records.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--max-records", type=int, default=500)
    arguments = parser.parse_args()
    try:
        loaded = {path.name: load_millivolts(path, max_records=arguments.max_records) for path in arguments.folders}
    except UsageError as error:
        parser.error(str(error))
    print(markdown({name: rows(mv_NLT) for name, mv_NLT in loaded.items()}))
