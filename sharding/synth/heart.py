"""The heart as a source: a moving dipole and six small sources under the chest electrodes.

After McSharry, Clifford, Tarassenko, Smith, "A dynamical model for generating synthetic electrocardiogram signals",
IEEE TBME 50(3), 2003, in the vectorcardiographic form of Sameni, Clifford, Jutten, Shamsollahi, "Multichannel ECG and
noise modeling: application to maternal and fetal ECG signals", EURASIP JASP, 2007: every wave of the heartbeat is a
Gaussian in time with an amplitude along each axis. Where they integrate a limit cycle, this module writes down its
solution, the sum of the Gaussians, at the time of each beat.

Axes are Frank's: x to the left, y to the feet, z to the back. Amplitudes are millivolts as a Frank lead would show.
Letters in names: W waves, S sources (x, y, z, then one under each of V1..V6), K beats, T samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

RATE_HZ = 500
NUM_SAMPLES = 5000
DURATION_S = NUM_SAMPLES / RATE_HZ
SOURCES: tuple[str, ...] = ("x", "y", "z", "V1", "V2", "V3", "V4", "V5", "V6")
NUM_SOURCES = len(SOURCES)
X, Y, Z, V1, V2, V3, V4, V5, V6 = range(NUM_SOURCES)

# Centre and width in milliseconds, then x, y, z in millivolt. P waves are timed from the onset of P, T waves from
# the peak of T, the others from the R peak. LATE is silent in a normal heart. NEAR waves have no dipole: they are what
# the muscle under one electrode adds in its own time, and what keeps three components from explaining everything.
_NORMAL: dict[str, tuple[float, float, float, float, float]] = {
    "P_RIGHT": (36, 14, 0.032, 0.080, -0.045),
    "P_LEFT": (66, 17, 0.055, 0.050, 0.040),
    "SEPTAL": (-22, 6.5, -0.13, 0.00, -0.25),
    "MAIN": (-2, 7.6, 1.14, 0.58, 0.04),
    "WALL": (11, 7.6, 0.52, 0.20, 0.88),
    "BASAL": (28, 7, -0.22, -0.16, 0.26),
    "LATE": (70, 15, 0.0, 0.0, 0.0),
    **{f"NEAR_V{k + 1}": (-12 + 5 * k, 5, 0.0, 0.0, 0.0) for k in range(6)},
    "ST": (125, 45, 0.02, 0.015, -0.04),
    "T_RISE": (-48, 42, 0.090, 0.042, -0.060),
    "T_PEAK": (0, 34, 0.22, 0.10, -0.14),
}
WAVES: tuple[str, ...] = tuple(_NORMAL)
P_WAVES, QRS_WAVES, NEAR_WAVES, T_WAVES = slice(0, 2), slice(2, 13), slice(7, 13), slice(14, 16)
P_RIGHT, P_LEFT, SEPTAL, MAIN, WALL, BASAL, LATE = range(7)
ST, T_RISE, T_PEAK = 13, 14, 15
# Size of the local sources as a share of each wave's vector, and of their own NEAR wave in millivolt.
_LOCAL_SHARE = np.array([0.20, 0.22, 0.20, 0.18, 0.14, 0.12])
_NEAR_MV = np.array([0.20, 0.30, 0.30, 0.28, 0.22, 0.16])
_QRS_ONSET_S = -0.042  # of a normal QRS, relative to its R peak
_VISIBLE = 2.4  # a wave is seen to start and end this many widths from its centre

# Where waves are evaluated, in samples before and after the R peak: QRS is short, the others are not.
_WINDOWS: tuple[tuple[list[int], int, int], ...] = (
    (list(range(len(WAVES)))[QRS_WAVES], round(0.09 * RATE_HZ), round(0.21 * RATE_HZ)),
    ([P_RIGHT, P_LEFT, ST, T_RISE, T_PEAK], round(0.45 * RATE_HZ), round(0.65 * RATE_HZ)),
)
_MARGIN = 2 * RATE_HZ  # room for beats that lie partly or wholly outside the recording


@dataclass(frozen=True)
class Beat:
    """The shape of one subject's heartbeat."""

    centre_W: np.ndarray
    """Seconds; what from depends on the wave, see the table of normal values."""
    width_W: np.ndarray
    """Standard deviation of the Gaussian, seconds."""
    amplitude_WS: np.ndarray
    """Millivolt along each source."""
    pr_s: float
    """From the onset of P to the onset of QRS."""
    qtc_s: float
    """QT interval at 60 beats per minute (Bazett)."""

    def qt_s(self, rr_s: np.ndarray) -> np.ndarray:
        """QT at RR intervals: Bazett's square root, held within what repolarisation allows."""
        return self.qtc_s * np.sqrt(np.clip(rr_s, 0.35, 1.4))

    @property
    def qrs_onset_s(self) -> float:
        return float((self.centre_W - _VISIBLE * self.width_W)[QRS_WAVES][self._is_loud].min())

    @property
    def qrs_end_s(self) -> float:
        return float((self.centre_W + _VISIBLE * self.width_W)[QRS_WAVES][self._is_loud].max())

    @property
    def _is_loud(self) -> np.ndarray:
        size = np.linalg.norm(self.amplitude_WS[QRS_WAVES, :3], axis=1)
        return size > 0.1 * size.max()

    def area_S(self, waves: slice) -> np.ndarray:
        """Time integral of some waves along each source, up to a factor: the direction of their mean vector."""
        return self.width_W[waves] @ self.amplitude_WS[waves]


def draw_beat(rng: np.random.Generator, *, age_years: float, female: bool) -> Beat:
    """A healthy heartbeat, different in every subject.

    Age lengthens PR and turns the main vector leftwards and up; women have a longer QT and smaller voltages.
    """
    normal = np.array(list(_NORMAL.values()))
    num_waves = len(normal)
    centre = normal[:, 0] / 1000 + rng.normal(0, 0.002, num_waves)
    centre[NEAR_WAVES] += rng.normal(0, 0.006, 6)
    width = normal[:, 1] / 1000 * np.exp(rng.normal(0, 0.10, num_waves))
    width[QRS_WAVES] *= np.exp(rng.normal(0, 0.05))
    dipole = normal[:, 2:]
    length = np.linalg.norm(dipole, axis=1, keepdims=True)
    dipole = dipole * np.exp(rng.normal(0, 0.18, (num_waves, 1))) + length * rng.normal(0, 0.16, (num_waves, 3))
    dipole[[P_RIGHT, P_LEFT]] *= np.exp(rng.normal(0, 0.25))
    # The two parts of T move together, else T would be notched.
    dipole[T_WAVES] *= np.exp(rng.normal(0, 0.35))
    dipole[T_WAVES] += np.linalg.norm(dipole[T_WAVES], axis=1, keepdims=True) * rng.normal(0, 0.22, 3)
    age = (age_years - 60) / 20
    dipole[[MAIN, WALL], 1] -= 0.12 * age
    dipole[[MAIN, WALL], 0] += 0.06 * age
    dipole *= 0.90 if female else 1.04
    # A source close to an electrode copies its own share of each wave, not the heart's mean vector.
    local = rng.normal(0, 1, (num_waves, 6)) * _LOCAL_SHARE * length
    local[P_WAVES] *= 0.3
    local[NEAR_WAVES] = np.diag(rng.normal(0, 1, 6) * _NEAR_MV)
    pr_s = float(np.clip(rng.normal(0.152 + 0.008 * age, 0.016), 0.11, 0.215))
    qtc_s = float(np.clip(rng.normal(0.418 if female else 0.408, 0.016), 0.36, 0.48))
    return Beat(centre, width, np.hstack([dipole, local]), pr_s, qtc_s)


def apply_findings(beat: Beat, severity: Mapping[str, float], *, acuteness: float) -> Beat:
    """The heartbeat with what each finding does to conduction, voltage and repolarisation.

    Criteria followed: AHA/ACCF/HRS recommendations for the standardization and interpretation of the
    electrocardiogram (2009), parts III (conduction), V (hypertrophy) and VI (infarction).
    """
    centre, width, amplitude = beat.centre_W.copy(), beat.width_W.copy(), beat.amplitude_WS.copy()
    pr_s = beat.pr_s + 0.125 * severity["first_degree_av_block"]

    if (s := severity["left_ventricular_hypertrophy"]) > 0:
        # Taller and later main forces to the left and back; strain turns ST and T away from them.
        amplitude[[MAIN, WALL, BASAL]] *= 1 + 0.62 * s
        amplitude[WALL, Z] += 0.20 * s
        width[[MAIN, WALL]] *= 1 + 0.08 * s
        amplitude[T_WAVES, :3] += s * np.array([[-0.07, -0.025, -0.02], [-0.17, -0.07, -0.05]])
        amplitude[ST, :3] += s * np.array([-0.06, -0.03, -0.05])

    if (s := severity["anterior_infarction"]) > 0:
        # Forces towards the anterior wall are lost: the septal vector turns back, V2 to V4 lose R and gain Q.
        amplitude[SEPTAL, Z] += 0.26 * s
        amplitude[MAIN, Z] += 0.20 * s
        amplitude[SEPTAL, V1:V5] -= s * np.array([0.08, 0.16, 0.20, 0.14])
        amplitude[MAIN, V1:V5] -= s * np.array([0.10, 0.28, 0.38, 0.26])
        amplitude[ST, V1:V5] += s * acuteness * np.array([0.02, 0.10, 0.14, 0.10])
        amplitude[ST, Z] -= 0.11 * s * acuteness
        amplitude[T_RISE, V2:V5] -= s * (1 - acuteness) * np.array([0.06, 0.10, 0.08])
        amplitude[T_PEAK, V2:V5] -= s * (1 - acuteness) * np.array([0.18, 0.28, 0.20])
        amplitude[T_WAVES, Z] += s * (1 - acuteness) * np.array([0.03, 0.09])

    if (s := severity["inferior_infarction"]) > 0:
        # The first forces point up (Q in II, III, aVF); a fresh one lifts ST there, an old one turns T over.
        amplitude[SEPTAL, Y] -= 0.36 * s
        width[SEPTAL] *= 1 + 0.35 * s
        amplitude[MAIN, Y] -= 0.26 * s
        amplitude[ST, [X, Y]] += s * acuteness * np.array([-0.05, 0.14])
        amplitude[T_WAVES, Y] -= s * (1 - acuteness) * np.array([0.08, 0.19])

    if (s := severity["right_bundle_branch_block"]) > 0:
        # The right ventricle comes last: a slow wave to the right and front (R' in V1, S in I and V6).
        amplitude[LATE, :3] += s * np.array([-0.36, 0.00, -0.46])
        amplitude[LATE, V1:V3] += s * np.array([0.16, 0.08])
        amplitude[BASAL, :3] *= 1 - 0.5 * s
        amplitude[T_WAVES, [V1, Z]] += s * np.array([[-0.03, 0.02], [-0.10, 0.06]])

    if (s := severity["left_bundle_branch_block"]) > 0:
        # The septum depolarises from the right and the free wall late: broad, slurred, leftwards; T discordant.
        amplitude[SEPTAL, :3] = (1 - s) * amplitude[SEPTAL, :3] + s * np.array([0.10, 0.06, 0.10])
        centre[[MAIN, WALL, BASAL]] += s * np.array([0.010, 0.040, 0.062])
        width[[MAIN, WALL, BASAL]] *= 1 + s * np.array([0.7, 1.1, 1.0])
        amplitude[WALL, :3] += s * np.array([0.35, -0.10, 0.25])
        amplitude[BASAL, :3] = (1 - s) * amplitude[BASAL, :3] + s * np.array([0.22, -0.02, 0.30])
        amplitude[T_WAVES, :3] += s * np.array([[-0.12, -0.04, -0.10], [-0.30, -0.10, -0.26]])
        amplitude[ST, :3] += s * np.array([-0.08, 0.0, -0.12])

    return replace(beat, centre_W=centre, width_W=width, amplitude_WS=amplitude, pr_s=pr_s)


@dataclass(frozen=True)
class Rhythm:
    """When the ventricles beat, and what the atria do meanwhile."""

    r_s_K: np.ndarray
    """Times of the R peaks in seconds, ascending; some lie just outside the recording."""
    fibrillation_mv: float
    """Amplitude of fibrillatory waves; 0 in sinus rhythm."""

    @property
    def rr_s_K(self) -> np.ndarray:
        """RR interval that ends at each beat; the first repeats the second."""
        rr = np.diff(self.r_s_K)
        return np.concatenate([rr[:1], rr])

    @property
    def mean_rr_s(self) -> float:
        return float(np.diff(self.r_s_K).mean())


def draw_rhythm(rng: np.random.Generator, severity: Mapping[str, float], *, sinus_rate_bpm: float) -> Rhythm:
    """Beat times: sinus rhythm with breathing and a little chance, some premature beats, or atrial fibrillation."""
    is_fibrillating = severity["atrial_fibrillation"] > 0
    chance = rng.standard_normal(40)
    phase, breath_hz = rng.uniform(0, 2 * np.pi), rng.uniform(0.18, 0.32)
    if is_fibrillating:
        rate_bpm = float(np.clip(rng.normal(88, 20), 45, 165))
        spread = 0.07 + 0.17 * severity["atrial_fibrillation"]
        rr = 60 / rate_bpm * np.exp(spread * chance)
    else:
        rate_bpm = sinus_rate_bpm - 30 * severity["sinus_bradycardia"] + 50 * severity["sinus_tachycardia"]
        rate_bpm = float(np.clip(rate_bpm, 34, 175))
        depth = 0.045 * np.exp(0.7 * rng.standard_normal()) * np.clip(75 / rate_bpm, 0.3, 1.5)
        breath = np.sin(phase + 2 * np.pi * breath_hz * np.arange(len(chance)) * 60 / rate_bpm)
        rr = 60 / rate_bpm * (1 + min(depth, 0.18) * breath + 0.012 * chance)
        is_premature = rng.uniform(size=len(rr)) < (0.12 if rng.uniform() < 0.08 else 0.0)
        rr[is_premature] *= 0.68
    rr = np.maximum(rr, 0.28)
    start_s = -0.7 + rng.uniform() * rr[0]
    r_s = start_s + np.concatenate([[0.0], np.cumsum(rr)])
    fibrillation_mv = 0.03 + 0.055 * severity["atrial_fibrillation"] * rng.uniform(0.6, 1.4) if is_fibrillating else 0.0
    return Rhythm(r_s[r_s < DURATION_S + 0.5], fibrillation_mv)


def render_sources(rng: np.random.Generator, beat: Beat, rhythm: Rhythm) -> np.ndarray:
    """float32 ``[9, 5000]``: the time course of every source over the recording, in millivolt."""
    r_s, rr_s = rhythm.r_s_K, rhythm.rr_s_K
    centre_KW = np.tile(beat.centre_W, (len(r_s), 1))
    centre_KW[:, P_WAVES] += _QRS_ONSET_S - beat.pr_s
    # T peaks about 85 ms before it ends; a broad QRS pushes repolarisation back by half of what it takes longer.
    delay_s = 0.5 * max(0.0, beat.qrs_end_s - 0.055)
    centre_KW[:, T_WAVES] += (beat.qt_s(rr_s) + _QRS_ONSET_S - 0.085 + delay_s)[:, None]
    amplitude_WS = beat.amplitude_WS.astype(np.float32)
    if rhythm.fibrillation_mv > 0:
        amplitude_WS[P_WAVES] = 0

    sample_K = np.round(r_s * RATE_HZ).astype(int)
    breathing_KS = _breathing(rng, r_s)
    padded_TS = np.zeros((NUM_SAMPLES + 2 * _MARGIN, NUM_SOURCES), dtype=np.float32)
    for waves, before, after in _WINDOWS:
        time_KT = (sample_K[:, None] + np.arange(-before, after)) / RATE_HZ - r_s[:, None]
        scaled_KTW = (time_KT[:, :, None] - centre_KW[:, None, waves]).astype(np.float32)
        scaled_KTW /= beat.width_W[waves].astype(np.float32)
        beats_KTS = np.exp(-0.5 * scaled_KTW * scaled_KTW) @ amplitude_WS[waves]
        beats_KTS *= breathing_KS[:, None]
        for start, beat_TS in zip(sample_K - before + _MARGIN, beats_KTS, strict=True):
            padded_TS[start : start + before + after] += beat_TS
    sources_ST = np.ascontiguousarray(padded_TS[_MARGIN : _MARGIN + NUM_SAMPLES].T)
    if rhythm.fibrillation_mv > 0:
        sources_ST += _fibrillatory_waves(rng, rhythm.fibrillation_mv)
    return sources_ST


def _breathing(rng: np.random.Generator, r_s: np.ndarray) -> np.ndarray:
    """``[K, S]`` factors near 1: the heart turns and the chest fills with every breath, and beats differ a little."""
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(0.18, 0.32) * r_s
    depth = 0.05 * np.exp(0.5 * rng.standard_normal()) * rng.normal(0, 1, NUM_SOURCES)
    return (1 + np.sin(phase)[:, None] * depth + rng.normal(0, 0.012, (len(r_s), NUM_SOURCES))).astype(np.float32)


def _fibrillatory_waves(rng: np.random.Generator, amplitude_mv: float) -> np.ndarray:
    """float32 ``[9, 5000]``: two saw-like oscillations of 4.5 to 8 Hz whose phases wander, largest near V1."""
    time_s = np.arange(NUM_SAMPLES, dtype=np.float32) / RATE_HZ
    waves = np.zeros((NUM_SOURCES, NUM_SAMPLES), dtype=np.float32)
    for share in (1.0, 0.6):
        steps = rng.standard_normal(NUM_SAMPLES, dtype=np.float32)
        phase = 2 * np.pi * rng.uniform(4.5, 8.0) * time_s + 0.07 * np.cumsum(steps)
        wave = np.sin(phase) + 0.35 * np.sin(2 * phase + 0.8)
        swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * time_s + rng.uniform(0, 6.3))
        direction = np.array([0.20, 0.50, -0.25, 0.5, 0.10, 0, 0, 0, 0])
        direction += rng.normal(0, 1, NUM_SOURCES) * np.repeat([0.12, 0.05], [3, 6])
        waves += (share * amplitude_mv * direction[:, None]).astype(np.float32) * (wave * swell)
    return waves
