"""Small shard sets for tests, written from arrays by the letter of ``sharding/format.py``.

Independent of the packer on purpose: what reads shard sets is tested against the format, not against its writer.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import google_crc32c
import numpy as np
import zarr

from lamae.base.leads import NUM_LEADS
from lamae.sharding.checked import file_sums, sums_digest
from lamae.sharding.format import (
    COLUMNS,
    FORMAT_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    NO_SAMPLE,
    REJECTS_NAME,
    SHARDS_NAME,
    SPLITS,
    ShardSet,
    manifest_text,
    shard_name,
)

PER_LEAD_BITS = np.left_shift(1, np.arange(NUM_LEADS))


def random_adc(num_records: int, num_samples: int = 5000, *, seed: int = 0) -> np.ndarray:
    """int16 ``[N, 12, T]``: smooth noise of some hundred ADC units without missing samples; limb leads unrelated."""
    rng = np.random.default_rng(seed)
    walk = rng.integers(-12, 13, size=(num_records, NUM_LEADS, num_samples)).cumsum(axis=-1)
    return (walk - walk.mean(axis=-1, keepdims=True)).clip(-3000, 3000).astype(np.int16)


def write_shard_set(
    path: Path,
    adc: np.ndarray,
    *,
    keys: Sequence[str] | None = None,
    gain: float | np.ndarray = 200.0,
    baseline: int | np.ndarray = 0,
    subjects: Sequence[int] | None = None,
    splits: Sequence[str] | None = None,
    lead_mask: np.ndarray | None = None,
    rate_hz: float = 500.0,
    shard_size: int = 16,
    source: str = "arrays",
    lead_flags: np.ndarray | None = None,
) -> Path:
    """Write ``adc`` (int16 ``[N, 12, T]``, canonical leads) as a complete shard set at ``path`` and return ``path``.

    ``keys`` must ascend (default ``r0000000``…); ``gain`` and ``baseline`` broadcast to ``[N, 12]``; ``subjects``
    default to one per record, ``splits`` (names) to ``train``; ``lead_mask`` (bool ``[N, 12]``) to the leads that
    have at least one sample.
    """
    num_records, num_leads, num_samples = adc.shape
    assert num_leads == NUM_LEADS
    assert adc.dtype == np.int16
    path = Path(path)
    keys = [f"r{row:07d}" for row in range(num_records)] if keys is None else list(keys)
    assert keys == sorted(set(keys)), "keys must ascend"
    present = adc != NO_SAMPLE
    lead_mask = present.any(-1) if lead_mask is None else np.asarray(lead_mask, dtype=bool)
    gain = np.where(lead_mask, np.broadcast_to(np.asarray(gain, np.float32), lead_mask.shape), np.float32(1))
    baseline = np.broadcast_to(np.asarray(baseline, np.int32), lead_mask.shape)
    scales = {"gain": gain, "baseline": baseline, "lead_mask": lead_mask}

    (path / SHARDS_NAME).mkdir(parents=True)
    shards, offsets, checksums, extent_checksums = [], [], [], []
    for first in range(0, num_records, shard_size):
        shard = first // shard_size
        tar_path = path / SHARDS_NAME / shard_name(shard)
        edges = [0]
        with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(first, min(first + shard_size, num_records)):
                meta = {name: values[row].tolist() for name, values in scales.items()} | {"key": keys[row]}
                array = io.BytesIO()
                np.lib.format.write_array(array, np.ascontiguousarray(adc[row]), version=(1, 0), allow_pickle=False)
                start = _add(tar, f"{keys[row]}.npy", array.getvalue())
                _add(tar, f"{keys[row]}.json", json.dumps(meta).encode())
                payload = adc[row].astype("<i2").tobytes()
                offsets.append(start + len(array.getvalue()) - len(payload))
                checksums.append(google_crc32c.value(payload))
                edges.append(tar.offset)
        data = tar_path.read_bytes()
        extent_checksums.extend(google_crc32c.value(data[start:end]) for start, end in pairwise(edges))
        shards.append({"name": tar_path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    count = np.maximum(present.sum(-1), 1)
    mv = np.where(present, (adc.astype(np.float64) - baseline[..., None]) / gain[..., None], 0)
    mean = mv.sum(-1) / count
    std = np.sqrt(np.where(present, (mv - mean[..., None]) ** 2, 0).sum(-1) / count)
    values = {
        "key": np.array(keys, dtype="S").view(np.uint8).reshape(num_records, -1),
        "shard": np.arange(num_records) // shard_size,
        "payload_offset": np.array(offsets),
        "payload_length": np.full(num_records, 2 * NUM_LEADS * num_samples),
        "crc32c": np.array(checksums),
        "extent_crc32c": np.array(extent_checksums),
        "subject": -1 - np.arange(num_records) if subjects is None else np.asarray(subjects),
        "split": np.array([SPLITS.index(split) for split in splits or ["train"] * num_records]),
        "gain": gain,
        "baseline": baseline,
        "lead_mask": (lead_mask * PER_LEAD_BITS).sum(-1),
        "mean_mv": mean,
        "std_mv": std,
        "min_adc": np.where(present, adc, np.int16(32767)).min(-1),
        "max_adc": np.where(present, adc, np.int16(-32767)).max(-1),
        "num_missing": (~present).sum(-1),
        "lead_flags": np.zeros((num_records, NUM_LEADS)) if lead_flags is None else lead_flags,
        "record_flags": np.zeros(num_records),
    }
    group = zarr.open_group(path / INDEX_NAME, mode="w", zarr_format=3)
    for name, column in COLUMNS.items():
        group.create_array(name, data=np.ascontiguousarray(values[name], dtype=column.dtype))
    (path / REJECTS_NAME).write_text("key,reason,detail\n")
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "num_records": num_records,
        "num_samples": num_samples,
        "rate_hz": rate_hz,
        "shards": shards,
        "index_sha256": sums_digest(file_sums(path / INDEX_NAME)),
        "index_files": file_sums(path / INDEX_NAME),
        "rejects": {},
    }
    (path / MANIFEST_NAME).write_text(manifest_text(manifest))
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member and return the offset of its first byte of data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def corrupt(shard_set: ShardSet, *rows: int) -> None:
    """Flip a bit of each of these records."""
    for row in rows:
        with shard_set.shard_path(int(shard_set.column("shard")[row])).open("r+b") as file:
            file.seek(int(shard_set.column("payload_offset")[row]) + 11)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0x10]))
