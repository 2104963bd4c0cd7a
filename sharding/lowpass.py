"""The one anti-alias filter: what packing resamples with and what the loader lowers the rate with are the same.

Linear phase, Kaiser window (Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.6): flat to within 0.1 %
up to 80 % of the lower of the two Nyquist frequencies, at least 60 dB down from that Nyquist frequency on. 500 to
250 Hz keeps everything up to 100 Hz and lets nothing above 125 Hz through.
"""

import math
from functools import lru_cache

import numpy as np

PASSBAND = 0.8  # of the lower Nyquist frequency
STOPBAND_DB = 60.0


@lru_cache(maxsize=16)
def low_pass(up: int, down: int) -> np.ndarray:
    """float64, symmetric taps at ``up`` times the input rate, gain 1 (``resample_poly`` multiplies by ``up``)."""
    from scipy.special import i0  # slow to import, and off by default

    # As scipy.signal's kaiserord and firwin, which take three times as long to import.
    lower_nyquist = 1 / max(up, down)
    beta, width = 0.1102 * (STOPBAND_DB - 8.7), np.pi * (1 - PASSBAND) * lower_nyquist
    half = math.ceil((STOPBAND_DB - 7.95) / 2.285 / width + 1) // 2
    cutoff, place = (1 + PASSBAND) / 2 * lower_nyquist, np.arange(-half, half + 1.0)
    taps = cutoff * np.sinc(cutoff * place) * (i0(beta * np.sqrt(1 - (place / half) ** 2)) / i0(beta))
    return np.asarray(taps / taps.sum())
