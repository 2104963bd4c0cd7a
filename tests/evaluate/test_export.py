"""An exported model gives others the embeddings that the project itself computes."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lamae
from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import LEADS
from lamae.data.reader import RecordReader
from lamae.evaluate.embeddings.embed import UNKNOWN, embed, read_embeddings
from lamae.evaluate.embeddings.inference import transform_for
from lamae.evaluate.export import export as export_module
from lamae.evaluate.export.export import export, load
from lamae.evaluate.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, bundled, find

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exported(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "load_model", lambda run: loaded)
    export(tmp_path / "run", tmp_path / "model")
    return tmp_path / "model"


def direct(loaded, shard_set, row, *, keep=range(12)):
    transform = transform_for(loaded, shard_set)
    signal = transform(RecordReader(shard_set).read(np.array([row])), seed=0, train=False)
    present = signal.lead_mask_BL.clone()
    present[:, [lead for lead in range(12) if lead not in keep]] = False
    return loaded.model.embed(signal.x_BLT, signal.valid_BLT, present)


def test_five_lines_give_the_same_embedding(exported, loaded, shard_set):
    model = lamae.load(exported)
    found = model.embed(shard_set.read(5) / 200, rate_hz=100)
    expected = direct(loaded, shard_set, 5)
    np.testing.assert_allclose(found.record, expected.record_BD, atol=1e-4)
    np.testing.assert_allclose(found.mean, expected.mean_BD, atol=1e-4)
    np.testing.assert_allclose(found.lead_weights, expected.lead_weights_BL, atol=1e-4)


def test_any_leads_in_any_order_and_case(exported, loaded, shard_set):
    mv = shard_set.read(8) / 200
    order = [7, 1, 0, 4]
    found = load(exported).embed(np.stack([mv[order]] * 2), 100, [LEADS[lead].lower() for lead in order])
    np.testing.assert_allclose(found.record[1], direct(loaded, shard_set, 8, keep=order).record_BD[0], atol=1e-4)
    assert not np.delete(found.lead_weights, order, axis=1).any()


def test_gaps_and_longer_records_and_higher_rates(exported, shard_set):
    model = load(exported)
    mv = shard_set.read(5) / 200
    gap = mv.copy()
    gap[2, 100:150] = np.nan
    assert np.isfinite(model.embed(gap, 100).record).all()
    gap[2] = np.nan
    without = [lead for lead in LEADS if lead != "III"]
    np.testing.assert_allclose(
        model.embed(gap, 100).record, model.embed(np.delete(mv, 2, 0), 100, without).record, atol=1e-5
    )
    longer = np.pad(mv, ((0, 0), (70, 70)))
    np.testing.assert_allclose(model.embed(longer, 100).record, model.embed(mv, 100).record, atol=1e-5)
    times = np.arange(mv.shape[1] * 5) / 5
    fast = np.stack([np.interp(times, np.arange(mv.shape[1]), lead) for lead in mv])
    cosine = (model.embed(fast, 500).record * model.embed(mv, 100).record).sum()
    assert cosine / np.linalg.norm(model.embed(fast, 500).record) / np.linalg.norm(model.embed(mv, 100).record) > 0.99


def test_nothing_with_ids_is_exported(exported, loaded, shard_set):
    content = json.loads((exported / CONFIG_NAME).read_text())
    assert content["num_pretraining_subjects"] == 15
    assert {path.name for path in exported.iterdir()} == {CARD_NAME, CONFIG_NAME, WEIGHTS_NAME}
    everything = b"".join(path.read_bytes() for path in exported.iterdir())
    for hashed in loaded.subject_hashes:
        assert str(hashed).encode() not in everything
    assert str(shard_set.root).encode() not in everything
    assert "lamae.load" in (exported / CARD_NAME).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((11, 500)), 100), "does not fit 12 leads"),
        ((np.zeros((2, 500)), 100, ["I", "X"]), "leads I, X"),
        ((np.zeros((2, 500)), 100, ["I", "i"]), "only once"),
        ((np.zeros((12, 500)), 128), "rate_hz=128 is no whole multiple of the model's 100 Hz; resample the signal"),
        ((np.zeros((12, 500)), 0), "rate_hz=0 is no whole multiple"),
        ((np.full((12, 500), np.nan), 100), r"record 0 of 1 \(1 in all\) has no sample in any lead"),
        ((np.eye(12, 20), 100), "less than one patch"),
    ],
)
def test_unusable_signals_are_named(exported, arguments, message):
    with pytest.raises(UsageError, match=message):
        load(exported).embed(*arguments)


def test_damaged_newer_or_absent_exports_are_named(exported, tmp_path):
    with pytest.raises(UsageError, match="no exported model"):
        load(tmp_path / "absent")
    config = json.loads((exported / CONFIG_NAME).read_text())
    damaged = bytearray((exported / WEIGHTS_NAME).read_bytes())
    damaged[-1] ^= 1  # still readable as safetensors, with one weight changed
    (exported / WEIGHTS_NAME).write_bytes(damaged)
    with pytest.raises(LamaeError, match=f"{WEIGHTS_NAME}: damaged"):
        load(exported)
    (exported / WEIGHTS_NAME).unlink()
    with pytest.raises(LamaeError, match=f"{WEIGHTS_NAME}: No such file"):
        load(exported)
    (exported / CONFIG_NAME).write_text(json.dumps(config | {"export_version": 99}))
    with pytest.raises(LamaeError, match="newer"):
        load(exported)
    with pytest.raises(UsageError, match="exists"):
        export(tmp_path / "run", exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config[: len(config) // 2], f"{CONFIG_NAME}: not readable as JSON"),
        (lambda config: "[]", f"{CONFIG_NAME}: expected a mapping of keys"),
        (lambda config: config.replace('"num_samples": ', '"num_records": '), f"{CONFIG_NAME}: num_samples: missing"),
        (lambda config: config.replace('"num_samples": ', '"num_samples": -'), "model.patch_size"),
        (lambda config: config.replace('"width": 16', '"width": [16]'), r"model\.width: expected a whole number"),
        (lambda config: config.replace('"width": 16', '"width": 32'), "size mismatch"),
        (lambda config: config.replace('"lamae"', '"${oc.env:HOME}"'), r"model\.kind: '\$\{' is not filled in"),
        (lambda config: config.replace('"model": {', '"model": 5, "x": {'), "model: expected a mapping of names"),
    ],
)
def test_an_export_of_another_shape_is_one_line(exported, change, message):
    config = exported / CONFIG_NAME
    config.write_text(change(config.read_text()))
    with pytest.raises(LamaeError, match=message) as caught:
        load(exported)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named(exported):
    with pytest.raises(UsageError, match="device='nowhere': torch has no such device here"):
        load(exported, device="nowhere")


def test_others_may_read_every_file(exported):
    assert {oct(path.stat().st_mode & 0o777) for path in exported.iterdir()} == {oct(0o666 & ~current_umask())}


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("page", ["docs/evaluation.md", CARD_NAME])
def test_the_python_shown_runs_as_it_stands(exported, page, monkeypatch, capsys):
    text = (exported / page).read_text() if page == CARD_NAME else (ROOT / page).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(exported.parent)
    exported.rename(exported.parent / "lamae-small")
    code = code.replace("path/to/this/directory", "lamae-small")
    found = {}
    exec(code, found)
    assert found["embedding"].record.shape == (1, 16)
    assert found["embedding"].lead_weights.shape == (1, 12)


def test_loading_leaves_the_callers_random_numbers_alone(exported):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(exported)
    assert torch.equal(torch.rand(2), expected)


def test_a_model_prints_as_one_line(exported):
    assert re.fullmatch(r"<lamae, [\d.]+ M parameters, [\d.]+ s at \d+ Hz, on cpu>", repr(load(exported)))


def test_an_export_embeds_a_shard_set_as_its_run_does_but_knows_no_subjects(exported, loaded, shard_set, tmp_path):
    assert embed(exported, shard_set, tmp_path / "e.zarr")
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_allclose(found.x_ND[5], direct(loaded, shard_set, 5).record_BD[0], atol=1e-5)
    assert set(found.pretrained_N) == {UNKNOWN}


def test_an_export_says_how_many_of_which_set(exported):
    (described,) = json.loads((exported / CONFIG_NAME).read_text())["pretraining_sets"]
    assert described.keys() == {"name", "source", "num_records", "num_subjects"}
    assert f"{described['num_records']} records of 15 subjects" in (exported / CARD_NAME).read_text()


def test_a_model_of_the_hub_is_fetched_by_its_name_without_anything_that_runs(exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"owner/model: no such directory; .* pip install 'lamae\[hub\]'"):
        load("owner/model")
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name == "owner/absent":
            raise OSError("404: no such repository\n")
        return str(exported)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert load("owner/model").num_samples == load(exported).num_samples
    assert asked == [("owner/model", [WEIGHTS_NAME, CONFIG_NAME, CARD_NAME])]
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match=r"runs/typo: no config\.json"):  # beside a folder runs it is a path
        load("runs/typo")
    assert len(asked) == 1
    with pytest.raises(UsageError, match=r"owner/absent: no such directory, and not had from the hub: 404: [^\n]*$"):
        load("owner/absent")


def test_the_weights_in_the_box_embed_without_a_download_and_are_what_their_card_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = find("lamae-tiny")
    assert "lamae-tiny" in bundled()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6
    model = lamae.load("lamae-tiny")
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert f"{parameters:,} parameters" in (folder / CARD_NAME).read_text()
    times = np.arange(1000) / 100
    beats = np.exp(-(((times % 0.8) - 0.2) ** 2) / 2e-3)  # narrow waves, 75 a minute
    found = model.embed(beats * np.linspace(0.4, 1.5, 12)[:, None], rate_hz=100)
    assert found.record.shape == (1, 128)
    assert np.isfinite(found.record).all()
    louder = model.embed(2 * beats * np.linspace(0.4, 1.5, 12)[:, None], rate_hz=100)
    # As the card says amplitude is not in it, but for the rounding to stored units.
    np.testing.assert_allclose(louder.record, found.record, atol=1e-3)
