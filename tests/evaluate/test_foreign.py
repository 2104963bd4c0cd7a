"""Other models' embeddings, and age and sex, land on the right rows, or are refused by name."""

import shutil
from contextlib import suppress

import numpy as np
import pytest
import zarr

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import UNKNOWN, read_embeddings
from lamae.evaluate.embeddings.foreign import import_embeddings
from lamae.evaluate.probe.demographics import describe_known, embed_demographics
from lamae.sharding.format import ShardSet
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
    assert found.made_by == ""
    import_embeddings(source, shard_set, tmp_path / "named.zarr", model="st-mem 1.0")
    assert read_embeddings(tmp_path / "named.zarr").made_by == "imported st-mem 1.0"


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * 1e300, "too large for float32, in 59 rows"),
        (lambda v: (v * 1e4).astype(np.float16), r"in \d+ rows \(first: 'r00000"),
        (lambda v: np.where(v == 7, np.nan, v), "in 1 rows .first: 'r0000007'"),
        (lambda v: v[:, 0], r"\[60\] values"),
        (lambda v: v[:, :0], r"\[60, 0\] values"),
    ],
)
def test_what_float32_does_not_hold_is_refused_by_its_key(foreign, shard_set, tmp_path, change, message):
    with np.errstate(over="ignore"):
        np.savez(tmp_path / "x.npz", embeddings=change(foreign[0]), keys=foreign[1])
    with pytest.raises(UsageError, match=message):
        import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "e.zarr")
    assert not (tmp_path / "e.zarr").exists()


def test_keys_come_in_the_spellings_of_editors_and_of_pandas(tmp_path):
    ids = ["40000000", "40007919", "40015838"]
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", waves(3, 500), keys=ids))
    values = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "x.npy", values)
    (tmp_path / "x.keys.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(ids).encode())
    assert import_embeddings(tmp_path / "x.npy", shard_set, tmp_path / "bom.zarr") == 3
    forms = {"float": np.array(ids, float), "int": np.array(ids, int), "text": np.array([f"{key}.0" for key in ids])}
    for name, keys in (forms | {"column": np.array(ids)[:, None], "bytes": np.array(ids, "S")}).items():
        np.savez(tmp_path / f"{name}.npz", embeddings=values, keys=keys)
        assert import_embeddings(tmp_path / f"{name}.npz", shard_set, tmp_path / f"{name}.zarr") == 3
        np.testing.assert_array_equal(read_embeddings(tmp_path / f"{name}.zarr").x_ND, values)
    for keys, message in [
        (np.array([*ids[:2], "40000000.0"]), "1 keys are repeated .first: '40000000'"),
        (np.array(ids, np.float32), "keys are float32, which cannot hold long ids"),
        (np.array(ids, object), "save keys with dtype=str"),
        (np.array(["\udcff".encode("utf-8", "surrogateescape")] * 3), "not readable"),
    ]:
        np.savez(tmp_path / "odd.npz", embeddings=values, keys=keys)
        with pytest.raises(UsageError, match=message):
            import_embeddings(tmp_path / "odd.npz", shard_set, tmp_path / "e.zarr")


def test_rows_of_no_record_are_said(foreign, shard_set, tmp_path, caplog):
    values, keys = foreign
    np.savez(tmp_path / "x.npz", embeddings=np.vstack([values, values[:2]]), keys=[*keys, "else", "where"])
    assert import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "e.zarr") == 60
    assert "2 of its 62 rows are of no record" in caplog.text
    assert "'else'" in caplog.text
    assert "1 rows hold only zeros (first: 'r0000000')" in caplog.text


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize("size", [0, 5, 70, 200, 900])
def test_a_file_that_was_cut_is_one_line(foreign, shard_set, tmp_path, form, size):
    source = tmp_path / f"x.{form}"
    if form == "npy":
        np.save(source, foreign[0])
        np.save(tmp_path / "x.keys.npy", foreign[1])
    else:
        np.savez(source, embeddings=foreign[0], keys=foreign[1])
    source.write_bytes(source.read_bytes()[:size])
    with pytest.raises(UsageError, match=f"x.{form}: not readable as embeddings"):
        import_embeddings(source, shard_set, tmp_path / "e.zarr")


def test_a_changed_byte_of_an_npz_is_one_line(foreign, shard_set, tmp_path):
    source = tmp_path / "x.npz"
    np.savez(source, embeddings=foreign[0], keys=foreign[1])
    content = source.read_bytes()
    for position in range(0, len(content), 97):
        source.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
        with suppress(UsageError):
            import_embeddings(source, shard_set, tmp_path / "e.zarr")
            # Taken: the byte was one that zip itself does not read, such as a time of change.
            np.testing.assert_array_equal(read_embeddings(tmp_path / "e.zarr").x_ND[:, 0], np.arange(60))
            shutil.rmtree(tmp_path / "e.zarr")


@pytest.mark.parametrize(("zarr_format", "shards"), [(2, None), (3, None), (3, (40, 3))])
def test_a_zarr_that_lost_a_file_is_refused(foreign, shard_set, tmp_path, zarr_format, shards):
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=zarr_format)
    values = group.create_array("embeddings", shape=(60, 3), dtype="float64", chunks=(10, 3), shards=shards)
    values[:] = foreign[0]
    group.create_array("keys", data=np.char.encode(foreign[1]).view(np.uint8).reshape(60, -1))
    lost = sorted(path for path in (tmp_path / "x.zarr" / "embeddings").rglob("*") if path.is_file())
    lost = next(path for path in lost if not path.name.startswith((".z", "zarr")))
    lost.unlink()
    with pytest.raises(UsageError, match=f"{lost}: missing"):
        import_embeddings(tmp_path / "x.zarr", shard_set, tmp_path / "e.zarr")


def test_missing_files_and_formats_are_named(foreign, shard_set, tmp_path):
    np.save(tmp_path / "x.npy", foreign[0])
    for name, message in [("x.npy", r"x\.keys\.txt"), ("absent.npz", "no such file"), ("x.csv", "neither")]:
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
    with pytest.raises(UsageError, match=r"nothing in its column filename_hr or filename_lr .* \(such as '101'\)"):
        embed_demographics(file, mimic, tmp_path / "q.zarr")


def test_of_how_many_records_age_and_sex_are_known_is_said(tmp_path, caplog):
    shards = write_shard_set(tmp_path / "shards", waves(4, 500), keys=["0098", "0099", "0100", "0101"])
    file = tmp_path / "records_w_diag_icd10.csv"
    file.write_text("study_id,age,gender\n98,61,F\n99,,M\n100,40,M\n")
    embed_demographics(file, shards, tmp_path / "d.zarr")
    assert f"{file}: age and sex for 3 of 4 records; not for 0101: the others count as unknown" in caplog.text
    assert describe_known(read_embeddings(tmp_path / "d.zarr")) == "age of 2 and sex of 3 of 4 records"
