"""Real recordings from WFDB files to resumed training."""

from pathlib import Path

from lamae.base.errors import EXIT_DONE
from lamae.sharding.pack import PackOptions, pack
from lamae.train.loop import train
from tests.runs import assert_same_state, losses, tiny_config


def test_training_on_ptbxl_resumes_mid_epoch_to_bitwise_the_same_losses(real_data: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    pack(real_data / "ptbxl_500hz_first500", shards, options=PackOptions(limit=60))
    overrides = ("train.steps=20", "engine.precision=bf16")
    assert train(tiny_config(shards, tmp_path / "whole", *overrides)) == EXIT_DONE
    assert train(tiny_config(shards, tmp_path / "parts", *overrides, "train.stop_at=13")) == EXIT_DONE
    assert train(tiny_config(shards, tmp_path / "parts", *overrides)) == EXIT_DONE
    whole = losses(tmp_path / "whole")
    assert len(whole) == 20
    assert losses(tmp_path / "parts") == whole
    assert_same_state(tmp_path / "parts", tmp_path / "whole")
