"""Other models' embeddings land on the right rows, or are refused by name."""

import numpy as np
import pytest
import zarr

from lamae.evaluate.embed import UNKNOWN, read_embeddings
from lamae.evaluate.foreign import import_embeddings
from sharding.errors import UsageError


@pytest.fixture
def foreign(shard_set):
    """Shuffled rows; row of key i holds i."""
    order = np.random.default_rng(0).permutation(shard_set.num_records)
    values = np.repeat(order[:, None].astype(np.float64), 3, axis=1)
    return values, np.array([shard_set.keys[row] for row in order])


@pytest.mark.parametrize("form", ["npy-txt", "npy-npy", "npz", "zarr"])
def test_rows_are_found_by_key(foreign, shard_set, tmp_path, form):
    values, keys = foreign
    source = tmp_path / f"st_mem.{form.split('-')[0]}"
    if form.startswith("npy"):
        np.save(source, values)
        if form.endswith("txt"):
            (tmp_path / "st_mem.keys.txt").write_text("\n".join(keys) + "\n")
        else:
            np.save(tmp_path / "st_mem.keys.npy", keys)
    elif form == "npz":
        np.savez(source, embeddings=values, keys=keys)
    else:
        group = zarr.open_group(source, mode="w")
        group.create_array("embeddings", data=values)
        group.create_array("keys", data=keys.astype("S"))
    assert import_embeddings(source, shard_set, tmp_path / "e.zarr") == shard_set.num_records
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_array_equal(found.x_ND[:, 0], np.arange(shard_set.num_records))
    assert (found.pretrained_N == UNKNOWN).all(), "nobody knows whom it was trained on"
    assert found.index_hash == shard_set.index_hash


def test_missing_records_are_refused_unless_told(foreign, shard_set, tmp_path):
    values, keys = foreign
    np.savez(tmp_path / "x.npz", embeddings=values[1:], keys=keys[1:])
    with pytest.raises(UsageError, match="1 of 60 records"):
        import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "e.zarr")
    assert import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "e.zarr", allow_missing=True) == 59
    assert read_embeddings(tmp_path / "e.zarr").embedded_N.sum() == 59


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, k: (v, np.char.add(k, "x")), "none of its 60 keys"),
        (lambda v, k: (v[:5], k), r"\[5, 3\] values for 60 keys"),
        (lambda v, k: (v * np.nan, k), "finite"),
        (lambda v, k: (v.astype(int), k), "floating-point"),
        (lambda v, k: (v, np.array([k[0]] * 60)), "59 keys are repeated"),
        (lambda v, k: (v.astype(object), k), "not readable"),
    ],
)
def test_unusable_sources_are_named(foreign, shard_set, tmp_path, change, message):
    values, keys = change(*foreign)
    np.savez(tmp_path / "x.npz", embeddings=values, keys=keys)
    with pytest.raises(UsageError, match=message):
        import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "e.zarr")


def test_missing_files_and_formats_are_named(foreign, shard_set, tmp_path):
    np.save(tmp_path / "x.npy", foreign[0])
    for name, message in [("x.npy", r"x\.keys\.txt"), ("absent.npz", "not readable"), ("x.csv", "neither")]:
        with pytest.raises(UsageError, match=message):
            import_embeddings(tmp_path / name, shard_set, tmp_path / "e.zarr")
