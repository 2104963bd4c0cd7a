"""The one anti-alias filter: what packing resamples with and what the loader lowers the rate with are the same.

Linear phase, Kaiser window (Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.6): flat to within 0.1 %
up to 80 % of the lower of the two Nyquist frequencies, at least 60 dB down from that Nyquist frequency on. 500 to
250 Hz keeps everything up to 100 Hz and lets nothing above 125 Hz through.
"""

from functools import lru_cache

import numpy as np

PASSBAND = 0.8  # of the lower Nyquist frequency
STOPBAND_DB = 60.0


@lru_cache(maxsize=16)
def low_pass(up: int, down: int) -> np.ndarray:
    """float64, symmetric taps at ``up`` times the input rate, gain 1 (``resample_poly`` multiplies by ``up``)."""
    from scipy.signal import firwin, kaiserord  # slow to import, and off by default

    lower_nyquist = 1 / max(up, down)
    num_taps, beta = kaiserord(STOPBAND_DB, (1 - PASSBAND) * lower_nyquist)
    return np.asarray(firwin(num_taps | 1, (1 + PASSBAND) / 2 * lower_nyquist, window=("kaiser", beta)))
