"""From sources in the heart to twelve digital leads: the torso, nine electrodes, their noise, the lead algebra.

Noise and gain errors act at the electrodes, before leads are derived, and quantisation comes last: the identities of
the limb leads (III = II - I and so on) therefore hold to rounding, as they do in a real machine.

Letters in names: E electrodes (RA, LA, LL, V1..V6), S sources, T samples.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from lamae.sharding.synth.heart import DURATION_S, NUM_SAMPLES, NUM_SOURCES, RATE_HZ, X, Y, Z

GAIN_PER_MV = 200
# MIMIC-IV-ECG stores aVF before aVL.
STORED_LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
NUM_ELECTRODES = 9
RA, LA, LL = range(3)
CHEST = slice(3, 9)

# Dower, Machado, Osborne, "On deriving the electrocardiogram from vectorcardiographic leads", Clin Cardiol 3 (1980):
# leads I, II and V1..V6 of a dipole (x, y, z).
_DOWER_I = (0.632, -0.235, 0.059)
_DOWER_II = (0.235, 1.066, -0.132)
_DOWER_CHEST = np.array(
    [
        (-0.515, 0.157, -0.917),
        (0.044, 0.164, -1.387),
        (0.882, 0.098, -1.277),
        (1.213, 0.127, -0.601),
        (1.125, 0.127, -0.086),
        (0.831, 0.076, 0.230),
    ]
)
# Brings chest voltages to those of PTB-XL (docs/synth.md): Dower's subjects were tank models and young men.
_CHEST_GAIN = np.array([0.75, 1.20, 1.13, 1.06, 1.0, 0.98])
# A local source is felt by its own electrode and, less, by the neighbours (steps between electrodes); the limbs are
# too far away.
_LOCAL_REACH = 0.7


def _leads_from_electrodes() -> np.ndarray:
    """``[12, 9]``, stored order: Einthoven's and Goldberger's leads, chest leads against Wilson's central terminal."""
    eye = np.eye(NUM_ELECTRODES)
    right, left, foot = eye[RA], eye[LA], eye[LL]
    central = (right + left + foot) / 3
    limb = [
        left - right,
        foot - right,
        foot - left,
        right - (left + foot) / 2,
        foot - (left + right) / 2,
        left - (right + foot) / 2,
    ]
    return np.vstack([*limb, eye[CHEST] - central]).astype(np.float32)


LEADS_FROM_ELECTRODES = _leads_from_electrodes()


@dataclass(frozen=True)
class Torso:
    """One subject's body as a conductor."""

    turn: np.ndarray
    """Rotation of the heart, ``[3, 3]``."""
    gain: float
    """Overall voltage: distance, lungs, fat."""
    slip_E: np.ndarray
    """How far each chest electrode sits from its place along V1..V6, in steps between neighbours."""
    height_E: np.ndarray
    """How far up each chest electrode sits: its share of -y."""
    electrode_gain_E: np.ndarray
    """Local conductivity."""

    def field_ES(self) -> np.ndarray:
        """Lead field: millivolt at each electrode (against the central terminal) per millivolt of each source."""
        lead_1, lead_2 = np.array(_DOWER_I), np.array(_DOWER_II)
        right = -(lead_1 + lead_2) / 3
        place = np.arange(6) + self.slip_E
        chest = np.stack([np.interp(place, np.arange(6), _DOWER_CHEST[:, axis]) for axis in (X, Y, Z)], axis=1)
        chest[:, Y] -= self.height_E
        dipole = np.vstack([right, right + lead_1, right + lead_2, chest]) @ self.turn
        local = np.zeros((NUM_ELECTRODES, NUM_SOURCES - 3))
        local[CHEST] = np.exp(-0.5 * ((place[:, None] - np.arange(6)) / _LOCAL_REACH) ** 2)
        return self.gain * self.electrode_gain_E[:, None] * np.hstack([dipole, local])


def draw_torso(rng: np.random.Generator) -> Torso:
    """A body unlike the next one: orientation of the heart, build, and where its chest electrodes go."""
    gain_E = np.ones(NUM_ELECTRODES)
    gain_E[CHEST] = _CHEST_GAIN * np.exp(rng.normal(0, 0.14, 6))
    return Torso(
        turn=_rotation(rng.normal(0, 1, 3) * np.array([0.16, 0.16, 0.30])),
        gain=float(np.exp(rng.normal(-0.04, 0.19))),
        slip_E=rng.normal(0, 0.20) + rng.normal(0, 0.15, 6),
        height_E=rng.normal(0, 0.12) + rng.normal(0, 0.06, 6),
        electrode_gain_E=gain_E,
    )


def reattach(rng: np.random.Generator, torso: Torso) -> Torso:
    """The same body in another recording: electrodes stuck elsewhere, another posture, gain errors of 1 %."""
    return replace(
        torso,
        turn=torso.turn @ _rotation(rng.normal(0, 0.05, 3)),
        gain=torso.gain * float(np.exp(rng.normal(0, 0.05))),
        slip_E=torso.slip_E + rng.normal(0, 0.12, 6),
        height_E=torso.height_E + rng.normal(0, 0.04, 6),
        electrode_gain_E=torso.electrode_gain_E * (1 + rng.normal(0, 0.01, NUM_ELECTRODES)),
    )


def _rotation(turn: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector in radians (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


_NUM_WANDER = 40  # harmonics of 0.1 Hz
_NUM_ORIGINS = 2
_MAINS_HZ = 60


@cache
def _sines() -> np.ndarray:
    """float32 ``[82, 5000]``: sine and cosine at 60 Hz, then sines and cosines of every wander harmonic."""
    wander_hz = np.arange(1, _NUM_WANDER + 1) / DURATION_S
    hz = np.concatenate([[_MAINS_HZ] * 2, wander_hz, wander_hz])
    quarter = np.concatenate([[0.0, 0.25], np.zeros(_NUM_WANDER), np.full(_NUM_WANDER, 0.25)])
    turns = hz[:, None] * np.arange(NUM_SAMPLES) / RATE_HZ + quarter[:, None]
    return np.sin(2 * np.pi * turns).astype(np.float32)


def draw_noise(rng: np.random.Generator) -> np.ndarray:
    """float32 ``[9, 5000]`` millivolt: baseline wander, what the mains filter leaves, muscle; levels vary by record."""
    # Most wander has few origins, breathing and a limb that moves, which several electrodes feel: it is of low rank.
    origins = rng.standard_normal((_NUM_ORIGINS, 2 * _NUM_WANDER))
    own = 0.6 * np.exp(0.7 * rng.standard_normal((NUM_ELECTRODES, 1)))
    wander = rng.normal(0, 0.75, (NUM_ELECTRODES, _NUM_ORIGINS)) @ origins
    wander += own * rng.standard_normal((NUM_ELECTRODES, 2 * _NUM_WANDER))
    wander *= 0.023 * np.exp(0.55 * rng.standard_normal()) / np.tile(np.arange(1, _NUM_WANDER + 1), 2)
    mains = 0.0008 * rng.standard_normal((NUM_ELECTRODES, 2))
    noise = np.hstack([mains, wander]).astype(np.float32) @ _sines()

    level = 0.0011 * np.exp(0.45 * rng.standard_normal() + 0.3 * rng.standard_normal((NUM_ELECTRODES, 1)))
    white = rng.standard_normal((NUM_ELECTRODES, NUM_SAMPLES + 1), dtype=np.float32)
    muscle = white[:, 1:] + white[:, :-1]
    muscle *= level.astype(np.float32)
    noise += muscle
    return noise


def record_leads(sources_ST: np.ndarray, torso: Torso, noise_ET: np.ndarray) -> np.ndarray:
    """int16 ``[12, 5000]`` in stored lead order, GAIN_PER_MV units per millivolt."""
    electrodes_ET = torso.field_ES().astype(np.float32) @ sources_ST
    electrodes_ET += noise_ET
    adc_LT = (GAIN_PER_MV * LEADS_FROM_ELECTRODES) @ electrodes_ET
    np.rint(adc_LT, out=adc_LT)
    return np.clip(adc_LT, -32767, 32767, out=adc_LT).astype(np.int16)
