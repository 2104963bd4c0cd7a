"""Other models' embeddings, and age and sex, land on the right rows, or are refused by name."""

import numpy as np
import pytest
import zarr

from lamae.evaluate.demographics import embed_demographics
from lamae.evaluate.embed import UNKNOWN, read_embeddings
from lamae.evaluate.foreign import import_embeddings
from lamae.sharding.errors import UsageError
from tests.evaluate.conftest import waves
from tests.shardsets import write_shard_set


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


def test_age_and_sex_of_both_sources(shard_set, tmp_path):
    keys = shard_set.keys
    mimic = write_shard_set(tmp_path / "mimic", waves(3, 500), keys=["101", "102", "103"])
    file = tmp_path / "records_w_diag_icd10.csv"
    file.write_text("study_id,age,gender\n102,61.0,F\n101,,M\n999,5,F\n")
    assert embed_demographics(file, mimic, tmp_path / "m.zarr") == 2
    found = read_embeddings(tmp_path / "m.zarr").x_ND
    np.testing.assert_allclose(found, [[0, 0, 1, 1, 0], [6.1, 37.21, 0, 0, 1], [0, 0, 1, 0, 0]], rtol=1e-6)

    file = tmp_path / "ptbxl_database.csv"
    file.write_text(f"filename_hr,filename_lr,age,sex\nrecords500/00000/{keys[4]},x,300.0,1\n")
    assert embed_demographics(file, shard_set, tmp_path / "p.zarr") == 1
    np.testing.assert_allclose(read_embeddings(tmp_path / "p.zarr").x_ND[4], [8.9, 79.21, 0, 0, 1], rtol=1e-6)
    with pytest.raises(UsageError, match="none of its records"):
        embed_demographics(file, mimic, tmp_path / "q.zarr")
