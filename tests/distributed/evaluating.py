"""Fine-tuning and embedding as a rank of a test job carries them out."""

import contextlib
from pathlib import Path
from unittest.mock import patch

import numpy as np

from lamae.evaluate import pretrained
from lamae.evaluate.embeddings import embed as embedding
from lamae.evaluate.finetune.finetune import finetune
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import make_loaded


def run_finetune(
    shards: Path, labels: Path, out: Path, options: FinetuneOptions, stop_at: int = 0
) -> tuple[np.ndarray, float]:
    """Fine-tune a seeded model; probabilities of the test records and the step that was kept.

    With ``stop_at`` it is interrupted after that step on all ranks, and called again.
    """
    shard_set = ShardSet.open(shards)

    def stop(_stage: str, done: int, _total: int | None) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with patch.object(pretrained, "load_model", lambda run, device="cpu": make_loaded(shard_set)):
        if stop_at:
            with contextlib.suppress(KeyboardInterrupt):
                finetune(out, shard_set, labels, out, options=options, progress=stop)
            assert not out.exists()
        result = finetune(out, shard_set, labels, out, options=options)
    return result.probability_NC, result.setting


def run_embed(shards: Path, out: Path, rows_per_block: int) -> None:
    """Embed with a seeded model, few rows per block so that every rank gets some."""
    shard_set = ShardSet.open(shards)
    with (
        patch.object(pretrained, "load_model", lambda run, device="cpu": make_loaded(shard_set)),
        patch.object(embedding, "MIN_BLOCK_ROWS", rows_per_block),
    ):
        embedding.embed(out, shard_set, out)
