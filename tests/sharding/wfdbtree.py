"""WFDB records and whole source trees written byte by byte for tests, independent of wfdb and of the packer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lamae.base.leads import LIMB_FROM_I_II

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def plausible_signal(names: Sequence[str], *, num_samples: int = 500, seed: int = 0, gain: float = 200.0) -> np.ndarray:
    """int16 ``[T, len(names)]``: band-limited noise of about 0.5 mV whose limb leads agree with each other."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(num_samples, 8)) * 0.05
    waves = np.cumsum(steps, axis=0)
    waves -= waves.mean(axis=0)
    by_name = {name: waves[:, column] for column, name in enumerate(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))}
    limb = waves[:, :2] @ LIMB_FROM_I_II.T
    by_name |= {name: limb[:, lead] for lead, name in enumerate(("I", "II", "III", "AVR", "AVL", "AVF"))}
    return np.stack([np.rint(by_name[name.upper()] * gain) for name in names], axis=1).astype(np.int16)


def write_record(
    path: Path,
    signal: np.ndarray,
    *,
    names: Sequence[str] = MIMIC_LEADS,
    rate_hz: int = 500,
    gain: float = 200.0,
    baseline: int = 0,
    comments: Sequence[str] = (),
) -> Path:
    """Write ``path``.hea and ``path``.dat (format 16) for ``signal`` int16 ``[T, n]``; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.dat").write_bytes(signal.astype("<i2").tobytes())
    sums = signal.astype(np.int64).sum(axis=0) % 65536
    lines = [f"{path.name} {len(names)} {rate_hz} {len(signal)}"]
    lines += [
        f"{path.name}.dat 16 {gain}({baseline})/mV 16 0 {signal[0, column]} {sums[column]} 0 {name}"
        for column, name in enumerate(names)
    ]
    lines += [f"# {comment}" for comment in comments]
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")
    return path


def write_mimic_tree(root: Path, *, num_subjects: int = 6, per_subject: int = 2, num_samples: int = 500) -> list[str]:
    """A MIMIC-IV-ECG tree with ``record_list.csv``; returns the records' paths in the order of the list."""
    rows, paths = ["subject_id,study_id,file_name,ecg_time,path"], []
    for number in range(num_subjects * per_subject):
        subject, study = 10000000 + 37 * (number // per_subject), 40000000 + (7919 * number) % 9973
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        signal = plausible_signal(MIMIC_LEADS, num_samples=num_samples, seed=number)
        write_record(root / path, signal, comments=[f"<subject_id>: {subject}"])
        rows.append(f"{subject},{study},{study},2180-07-23 08:44:00,{path}")
        paths.append(path)
    (root / "record_list.csv").write_text("\n".join(rows) + "\n")
    return paths
