"""What goes wrong in a recorder, for reasons that have nothing to do with the patient.

Defects come from a random stream of their own: changing their rate changes no other number, and no label depends on
them. Each strikes one to three channels after digitisation.
"""

from dataclasses import dataclass

import numpy as np

from lamae.sharding.format import NO_SAMPLE

SATURATED_ADC = 16000  # 80 mV, where the recorders of the Challenge 2011 set come to rest
DEFECTS: tuple[str, ...] = ("missing_run", "flat", "missing", "saturated")


@dataclass(frozen=True)
class Defect:
    """One kind of damage to some leads of one record."""

    kind: str
    leads: tuple[int, ...]
    """Positions in stored order."""
    start: int
    """First damaged sample; ``flat`` and ``missing`` damage the whole lead."""
    length: int
    sign: int

    def apply(self, adc_LT: np.ndarray) -> None:
        """Damage ``adc_LT`` (int16 ``[12, T]``) in place."""
        run = slice(self.start, self.start + self.length)
        for lead in self.leads:
            if self.kind == "missing_run":
                adc_LT[lead, run] = NO_SAMPLE
            elif self.kind == "flat":
                adc_LT[lead] = 0
            elif self.kind == "missing":
                adc_LT[lead] = NO_SAMPLE
            else:
                adc_LT[lead, run] = self.sign * SATURATED_ADC


def draw_defect(rng: np.random.Generator, *, rate: float, num_leads: int, num_samples: int) -> Defect | None:
    """A defect with probability ``rate``. A larger rate keeps every defect of a smaller one and adds some."""
    u = rng.uniform()
    kind = DEFECTS[rng.integers(len(DEFECTS))]
    leads = rng.permutation(num_leads)[: rng.integers(1, 4)]
    length = int(rng.integers(num_samples // 50, num_samples // 2))
    start = int(rng.integers(num_samples - length))
    sign = 1 if rng.uniform() < 0.5 else -1
    return Defect(kind, tuple(sorted(int(lead) for lead in leads)), start, length, sign) if u < rate else None
