"""What one rank meets, all ranks act on, at the same step."""

import json
import signal
from pathlib import Path

import pytest
import torch

from lamae.base.errors import EXIT_DONE, EXIT_STOPPED
from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.format import list_checkpoints
from tests.distributed.launch import RankPool
from tests.runs import assert_same_state, final_state, losses

JOBS = "tests.distributed.jobs"
ONE_MICRO_BATCH = "train.micro_batch_size=4"
OFFERED = [("fp32", stage) for stage in (0, 1, 2, 3)] + [("bf16", stage) for stage in (1, 2, 3)]


@pytest.mark.parametrize(
    ("rank", "number"), [(1, signal.SIGUSR2), (0, signal.SIGTERM)], ids=["rank1-SIGUSR2", "rank0-SIGTERM"]
)
def test_a_signal_on_any_rank_stops_all_after_saving_the_same_step(
    rank: int, number: signal.Signals, two_ranks: RankPool, shards: Path, tmp_path: Path
) -> None:
    job = (tmp_path / "run", (ONE_MICRO_BATCH,))
    arguments = {"rank": rank, "number": number, "micro_batch": 2}
    assert two_ranks.run(JOBS, "run_with_signal", shards=shards, job=job, **arguments) == [EXIT_STOPPED] * 2
    # Met in step 3, shared at its end, read at the end of step 4.
    assert [info.step for info in list_checkpoints(tmp_path / "run" / "checkpoints")] == [4]
    whole = (tmp_path / "whole", (ONE_MICRO_BATCH,))
    assert two_ranks.run(JOBS, "run_jobs", shards=shards, jobs=[job, whole]) == [[EXIT_DONE] * 2] * 2
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_same_state(tmp_path / "run", tmp_path / "whole")


def test_any_failure_of_what_rank_0_decides_ends_all_ranks(two_ranks: RankPool, shards: Path) -> None:
    first, second = two_ranks.run(JOBS, "decide_badly", shards=shards)
    assert first == ("OSError", f"[Errno 5] Input/output error: '{shards}'")
    assert second == ("LamaeError", f"rank 0 failed: OSError: {first[1]}")


@pytest.mark.parametrize(("precision", "zero_stage"), OFFERED, ids=[f"{p}-stage{s}" for p, s in OFFERED])
def test_a_nan_on_one_rank_skips_the_step_on_all_and_quarantines_the_record(
    precision: str, zero_stage: int, two_ranks: RankPool, shards: Path, tmp_path: Path
) -> None:
    engine = (f"engine.precision={precision}", f"engine.zero_stage={zero_stage}")
    job = (tmp_path, (ONE_MICRO_BATCH, "train.steps=5", *engine))
    outcomes = two_ranks.run(JOBS, "run_with_poison", shards=shards, job=job, rank=1, micro_batches=[2])
    assert [(code, error) for code, error, _ in outcomes] == [(EXIT_DONE, "")] * 2
    (row,) = outcomes[1][2]
    (entry,) = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert entry == {
        "step": 3,
        "key": ShardSet.open(shards).keys[row],
        "row": row,
        "epoch": 0,
        "not_finite": "loss",
    }
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 1, 1]
    assert [row["loss"] is None for row in rows] == [False, False, True, False, False]
    assert all(torch.isfinite(values).all() for values in final_state(tmp_path).values())


def test_what_all_ranks_know_is_told_once(two_ranks: RankPool, shards: Path, tmp_path: Path) -> None:
    job = (tmp_path, (ONE_MICRO_BATCH, "train.steps=2"))
    first, second = two_ranks.run(JOBS, "hear_poison", shards=shards, job=job, rank=1, micro_batches=[0])
    assert "step 1 skipped: loss or gradient not finite" in first
    assert "skipped" not in second


def test_nothing_but_nan_stops_the_run_with_a_report(two_ranks: RankPool, shards: Path, tmp_path: Path) -> None:
    job = (tmp_path, (ONE_MICRO_BATCH, "train.max_skipped_in_a_row=3"))
    outcomes = two_ranks.run(JOBS, "run_with_poison", shards=shards, job=job, rank=0, micro_batches=list(range(9)))
    for code, error, _ in outcomes:
        assert code == 1
        assert "3 steps in a row, up to step 3, had a loss or gradient that is not finite" in error
        assert "quarantine.jsonl" in error


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_weights_that_diverged_on_one_rank_end_all_and_are_not_saved(
    zero_stage: int, two_ranks: RankPool, shards: Path, tmp_path: Path
) -> None:
    good = (tmp_path, (ONE_MICRO_BATCH, "train.stop_at=2", f"engine.zero_stage={zero_stage}"))
    assert two_ranks.run(JOBS, "run_jobs", shards=shards, jobs=[good]) == [[EXIT_DONE]] * 2
    job = (tmp_path, (ONE_MICRO_BATCH, "checkpoint.every=3", f"engine.zero_stage={zero_stage}"))
    outcomes = two_ranks.run(JOBS, "run_diverging", shards=shards, job=job, rank=1)
    assert outcomes[0] == outcomes[1]
    code, error = outcomes[0]
    assert code == 1
    assert "diverged by step 3, which is not saved: parameter " in error
    assert "has an entry of size nan" in error
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("*-*"))] == ["step-00000002"]
