"""A checkpoint beside plain file writing of the same bytes, and what of it the training loop feels.

``checkpoint`` is everything between the snapshot and the durable, renamed, pruned directory: it hashes every byte and
calls fsync. ``plain_write`` writes buffers that are already in memory to one file and calls fsync: as little as a
durable copy can be. ``snapshot`` is the only part that stops training when saving in the background; beside it stands
``memcpy``, the same bytes copied from memory to memory. Reading is verifying (every hash) and restoring weights and
moments, beside reading the same bytes. Beside both stands what others use (``checkpoint_peers``). All on one rank, in
a page cache that is warm.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.progress import Progress, ignore
from lamae.benchmarks import rankstep
from lamae.benchmarks.checkpoint_peers import PEERS, checkpoint_peers
from lamae.benchmarks.ranks import RankPool, Session
from lamae.benchmarks.timing import Ratio, Timing, ratio_entries, time_side_by_side
from lamae.train.checkpoint.format import CheckpointReader, load_weights, newest_whole
from lamae.train.checkpoint.saver import Saver, take_snapshot
from lamae.train.config import CheckpointConfig
from lamae.train.state import TrainState


def run(*, quick: bool = False, progress: Progress = ignore, size: str | None = None) -> dict[str, Any]:
    """Measure; see benchmarks.timing for the form of the result."""
    size = size or ("tiny" if quick else "small")
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory(prefix="lamae-bench-") as scratch, RankPool(1) as pool:
        progress("checkpoint", 0, 1)
        [parameters] = pool.call(
            rankstep.open_steps,
            config=f"configs/pretrain/{size}.yaml",
            overrides=["train.global_batch_size=1", "train.micro_batch_size=1", "engine.precision=bf16"],
        )
        pool.call(rankstep.time_steps, num_steps=1)  # makes the moments
        timings: dict[str, Timing] = pool.call(time_saving, folder=scratch, repeats=repeats)[0]
        progress("checkpoint", 1, 1)
    return {
        "settings": {"size": size, "parameters": parameters, "repeats": repeats, "ranks": 1},
        "measurements": {name: _in_megabytes(timing) for name, timing in timings.items()},
        **ratio_entries(
            {
                "vs_plain_write": Ratio.of(timings["checkpoint"], timings["plain_write"]),
                "resume_vs_plain_read": Ratio.of(timings["resume"], timings["plain_read"]),
                "snapshot_vs_memcpy": Ratio.of(timings["snapshot"], timings["memcpy"]),
                "snapshot_share_of_checkpoint": Ratio.of(timings["checkpoint"], timings["snapshot"]),
                **{f"vs_{peer}_save": Ratio.of(timings["checkpoint"], timings[f"{peer} save"]) for peer in PEERS},
                **{f"resume_vs_{peer}_read": Ratio.of(timings["resume"], timings[f"{peer} read"]) for peer in PEERS},
            }
        ),
    }


def time_saving(session: Session, *, folder: str, repeats: int) -> dict[str, Timing]:
    """On a rank with an open engine: bytes per second of saving, of reading, and of the floors of both."""
    engine, ranks = session["steps"].engine, session["ranks"]
    model = session["steps"].build_model()
    root, plain = Path(folder) / "checkpoints", Path(folder) / "plain"
    about = {"config": {}, "num_samples": 0, "index_hash": "", "subject_hash": "", "shapes": engine.shapes()}
    saver = Saver(root, ranks=ranks, config=CheckpointConfig(keep=1), about=about, subjects=np.zeros(1, np.uint64))
    state = TrainState()
    snapshot = take_snapshot(engine, with_buffers=True)
    arrays = [tensor.numpy() for tensor in snapshot.tensors.values()]
    targets = [np.empty_like(array) for array in arrays]
    num_bytes = float(sum(array.nbytes for array in arrays))

    def save() -> float:
        state.step += 1
        state.applied_steps += 1
        saver.begin(engine, state)
        if not saver.finish():
            raise OSError(f"no checkpoint could be written below {folder}")
        return num_bytes

    def write() -> float:
        with plain.open("wb") as file:
            for array in arrays:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        return num_bytes

    def copy_out() -> float:
        take_snapshot(engine, with_buffers=True)
        return num_bytes

    def copy() -> float:
        for source, target in zip(arrays, targets, strict=True):
            np.copyto(target, source)
        return num_bytes

    def resume() -> float:
        path = newest_whole(root)
        assert path is not None
        reader = CheckpointReader(path)
        load_weights(model, reader)
        engine.restore(reader.fill, applied_steps=reader.state.applied_steps)
        return num_bytes

    def read() -> float:
        with plain.open("rb") as file:
            for target in targets:
                file.readinto(target.data)
        return num_bytes

    candidates: dict[str, Callable[[], float]] = {
        "checkpoint": save,
        "plain_write": write,
        "snapshot": copy_out,
        "memcpy": copy,
        "resume": resume,
        "plain_read": read,
        **checkpoint_peers(snapshot.tensors, Path(folder)),
    }
    return time_side_by_side(candidates, repeats=repeats)


def _in_megabytes(timing: Timing) -> dict[str, Any]:
    seconds = sorted(timing.seconds)
    return {
        **timing.to_dict(),
        "unit": "bytes",
        "mb_per_s": timing.rate / 1e6,
        "seconds": seconds[len(seconds) // 2],
        "megabytes": timing.items / 1e6,
    }
