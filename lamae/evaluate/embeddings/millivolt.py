"""Signals as people have them in memory, checked and brought to the shard format: int16 [B, 12, T] in canonical order.

A model takes whatever it is given, so what cannot be millivolt is refused here. In 2,348 recordings of eight public
sets the 98th percentile of the distance from a lead's median, in the middle lead of a record, was .04 to 4.5 mV (5.1
where leads had been brought to standard deviation 1); three that their own authors call unacceptable had more. The
same recordings in ADC units or microvolt have 8 to 5,000, in tenths of a millivolt mostly 4 to 16.
"""

import warnings
from collections.abc import Iterable, Sequence, Set
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from lamae.base.errors import UsageError
from lamae.base.leads import LEADS, NUM_LEADS, lead_index
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.measures import Measures
from lamae.sharding.options import PackOptions
from lamae.sharding.quality import QualityConfig, assess
from lamae.sharding.recording import Recording
from lamae.sharding.windows import mark_padding

# 1 microvolt steps, ±32 mV.
UNITS_PER_MV = 1000
_LARGEST = 32767
_ENOUGH_SAMPLES = 2500
IMPOSSIBLE_MV, DOUBTFUL_MV = 20.0, 5.5
# Only the rules by which packing masks a lead; nobody sees what the others flag.
_FLAGGING = [entry.name for entry in fields(QualityConfig) if entry.default == "flag"]
_QUALITY = replace(QualityConfig(), **dict.fromkeys(_FLAGGING, "ignore"))  # type: ignore[arg-type]
_FLAT_UV = _QUALITY.flat_max_range_uv
_REMEDY = "give millivolt: microvolt / 1000, ADC units / gain, volt * 1000"


def to_adc(signal_mv: Any, leads: Sequence[str], *, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """int16 [B, 12, T] with ``UNITS_PER_MV``, NO_SAMPLE where there is none; and bool [B, 12], usable leads.

    As in packing, what an archive filled up at the ends of a record, with zeros or NaN in all leads, is no sample, and
    leads are masked that are mostly missing, all zero or flat in the rest. Warns where the unit is doubtful or a lead
    lies beyond ±32 mV. Raises UsageError for what is no such signal, or none in millivolt.
    """
    mv_BLT, places = _numbers(signal_mv), _places(leads)
    shape = list(mv_BLT.shape)
    if mv_BLT.ndim == 2:
        mv_BLT = mv_BLT[None]
    if mv_BLT.ndim != 3 or mv_BLT.shape[1] != len(places):
        turned = mv_BLT.ndim == 3 and mv_BLT.shape[2] == len(places)
        wanted = "give [leads, samples] or [records, leads, samples]"
        hint = "it seems to be [samples, leads]: transpose it" if turned else wanted
        raise UsageError(f"a signal of shape {shape} does not fit {len(places)} leads; {hint}")
    if not mv_BLT.size:
        raise UsageError(f"a signal of shape {shape} is empty")
    infinite = np.argwhere(np.isinf(mv_BLT).any(2))
    if len(infinite):
        record, row = infinite[0]
        raise UsageError(f"record {record}, lead {LEADS[places[row]]}: infinite; put NaN where there is no sample")
    units_BLT = np.clip(np.rint(mv_BLT * UNITS_PER_MV), -_LARGEST, _LARGEST)
    adc_BLT = np.full((len(mv_BLT), NUM_LEADS, mv_BLT.shape[2]), NO_SAMPLE, dtype=np.int16)
    adc_BLT[:, places] = np.where(np.isnan(units_BLT), NO_SAMPLE, units_BLT).astype(np.int16)
    usable_BL, more_doubts = _usable(adc_BLT, places, min_padding=round(PackOptions.padding_s * rate_hz))
    recorded_BLT = np.where(adc_BLT[:, places] == NO_SAMPLE, np.nan, mv_BLT)  # without padding
    num_beyond_BL = np.count_nonzero(np.abs(recorded_BLT) > _LARGEST / UNITS_PER_MV, axis=2)
    beyond_BL = 2 * num_beyond_BL > np.count_nonzero(~np.isnan(recorded_BLT), axis=2)
    doubts = _doubts(recorded_BLT, places, beyond_BL)
    range_BL = np.fmax.reduce(recorded_BLT, axis=2) - np.fmin.reduce(recorded_BLT, axis=2)
    moving_BL = range_BL > _FLAT_UV / 1000  # of a flat lead, subtracting the median makes nothing
    refuse_empty(usable_BL, moving_BL.any(1) & (beyond_BL | ~moving_BL).all(1))
    for doubt in doubts + more_doubts:
        warnings.warn(doubt, stacklevel=4)  # the caller of ExportedModel.embed
    return adc_BLT, usable_BL


def to_rate(rate_hz: Any) -> float:
    """A sampling rate as a number; NaN where it is none."""
    try:
        return float("nan") if isinstance(rate_hz, str | bytes | bool) else float(rate_hz)
    except (TypeError, ValueError):
        return float("nan")


def refuse_empty(usable_BL: np.ndarray, beyond_B: np.ndarray | None = None) -> None:
    """Raises UsageError naming a record without any usable lead, first one of ``beyond_B``, bool [B]: records of which
    all leads that move are beyond what is stored.
    """
    empty_B = np.asarray(~usable_BL.any(1))
    if beyond_B is not None and (empty_B & beyond_B).any():
        raise UsageError(
            f"{_which(empty_B & beyond_B)} has no usable lead, since it lies beyond ±32 mV; subtract each lead's "
            f"median, or if it is in another unit {_REMEDY}"
        )
    if empty_B.any():
        raise UsageError(
            f"{_which(empty_B)} has no sample in any lead, or only flat ones (within {_FLAT_UV:g} µV); leave it out, "
            f"or if it is in another unit {_REMEDY}"
        )


def _numbers(signal_mv: Any) -> np.ndarray:
    """float64, whatever it came as; NaN where it is masked. Raises UsageError for what is no real number."""
    try:
        if isinstance(signal_mv, torch.Tensor):  # numpy knows neither bfloat16 nor other devices
            signal_mv = signal_mv.detach().cpu()
            signal_mv = (signal_mv.double() if signal_mv.is_floating_point() else signal_mv).numpy()
        values = np.ma.asarray(signal_mv)  # which, unlike numpy's, keeps the masks of arrays in a list
        if values.dtype.kind not in "iufO":
            raise TypeError(f"{values.dtype} is no real number")
        # Before any arithmetic: whole numbers of 16 bits wrap round when they are multiplied.
        return np.asarray(np.ma.filled(values.astype(np.float64), np.nan))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"signal_mv is no array of numbers in millivolt ({error})") from None


def _places(leads: Any) -> list[int]:
    """Canonical index of every row. Raises UsageError."""
    unordered = isinstance(leads, str | Set) or not isinstance(leads, Iterable)
    names = [] if unordered else list(leads)
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"leads={leads!r}: name the rows in their order, for example ['I', 'II', 'V2']")
    places = [place for place in map(lead_index, names) if place is not None]
    if len(set(places)) != len(names):
        raise UsageError(f"leads {', '.join(names)}: each must be one of {', '.join(LEADS)}, and only once")
    return places


def _doubts(mv_BLT: np.ndarray, places: Sequence[int], beyond_BL: np.ndarray) -> list[str]:
    """What is too large for millivolt in some of the records, ``beyond_BL`` in most samples of a lead.

    Raises UsageError where it is in most records.
    """
    mv_BLT = mv_BLT[..., :: max(1, mv_BLT.shape[2] // _ENOUGH_SAMPLES)]
    reach_BL = _quantile(np.abs(mv_BLT - _quantile(mv_BLT, 0.5)[..., None]), 0.98)
    reach_BL[reach_BL <= _FLAT_UV / 1000] = np.nan
    reach_B = _quantile(reach_BL, 0.5)
    typical = float(_quantile(reach_B, 0.5))
    what = f"signal_mv reaches {typical:,.3g} mV from the median of a typical lead; QRS complexes reach .2 to 3 mV"
    if typical > IMPOSSIBLE_MV:
        raise UsageError(f"{what}; {_REMEDY}")
    doubts = []
    if typical > DOUBTFUL_MV:
        doubts.append(
            f"{what}. If it is in another unit {_REMEDY}; where the unit is a tenth of a millivolt, divide by 10"
        )
    odd_B = reach_B > IMPOSSIBLE_MV
    if odd_B.any():
        doubts.append(f"{_which(odd_B)} is beyond any ECG in millivolt")
    beyond = np.argwhere(beyond_BL & ~odd_B[:, None])
    if len(beyond):
        record, row = beyond[0]
        lead = LEADS[places[row]]
        doubts.append(
            f"record {record}, lead {lead} ({len(beyond)} in all) lies beyond ±32 mV; subtract the lead's median"
        )
    return doubts


def _which(of_B: np.ndarray) -> str:
    found = np.flatnonzero(of_B).tolist()
    return f"record {found[0]} of {len(of_B)} ({len(found)} in all)"


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """Over the last axis, NaN aside; NaN where there is nothing else."""
    there = np.count_nonzero(~np.isnan(values), axis=-1, keepdims=True)
    place = np.maximum(np.ceil(share * (there - 1)), 0).astype(np.int64)
    return np.take_along_axis(np.sort(values, axis=-1), place, axis=-1)[..., 0]


def _usable(adc_BLT: np.ndarray, places: Sequence[int], *, min_padding: int) -> tuple[np.ndarray, list[str]]:
    """bool [B, 12]: the leads that packing would not mask; and records most of whose leads are nearly flat.

    Padding of ``min_padding`` samples or more becomes NO_SAMPLE.
    """
    present = np.zeros(NUM_LEADS, dtype=bool)
    present[places] = True
    gain, baseline = np.full(NUM_LEADS, float(UNITS_PER_MV)), np.zeros(NUM_LEADS, dtype=np.int32)
    usable, ranges = [], []
    for adc in adc_BLT:
        recording = Recording(adc, gain, baseline, present, 1.0, None, fast=False)
        begin, end = mark_padding(recording, min_samples=min_padding)
        # One second, whatever its length: the rules that look at seconds are not applied.
        measures = Measures([replace(recording, samples=adc[:, begin:end], rate_hz=float(end - begin))])
        usable.append(assess(measures, _QUALITY).usable)
        ranges.append(measures.range_mv)
    usable_BL, range_BL = np.concatenate(usable), np.concatenate(ranges)
    moving_BL = range_BL > 0
    small_BL = moving_BL & (range_BL <= _FLAT_UV / 1000)
    small_B = 2 * small_BL.sum(1) > moving_BL.sum(1)
    if not small_B.any():
        return usable_BL, []
    return usable_BL, [f"{_which(small_B)} moves by less than {_FLAT_UV:g} µV in most leads; {_REMEDY}"]
