"""From rows of a shard set to the model's input, in evaluation mode: no augmentation, no shuffling."""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from lamae.base.errors import UsageError
from lamae.base.leads import NUM_LEADS
from lamae.data.reader import RecordReader
from lamae.data.transforms import Signal, SignalTransform
from lamae.evaluate.pretrained import load_pretrained
from lamae.model import PretrainModel, build_model
from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.format import LoadedModel

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def transform_for(loaded: LoadedModel, shard_set: ShardSet) -> SignalTransform:
    """The run's transform for recordings of ``shard_set``; a line in the log where their length is not the model's.

    Raises UsageError when their rate or length does not fit the model.
    """
    wanted_hz = loaded.config.signal.rate_hz
    if shard_set.rate_hz % wanted_hz:
        raise UsageError(
            f"{shard_set.root}: its {shard_set.rate_hz:g} Hz are no whole multiple of the model's {wanted_hz} Hz; pack "
            f"the recordings with 'lamae shard SOURCE OUT --rate {wanted_hz}'"
        )
    transform = SignalTransform(
        loaded.config.signal, source_rate_hz=shard_set.rate_hz, num_samples=shard_set.num_samples
    )
    if transform.num_samples != loaded.num_samples:
        raise UsageError(
            f"{shard_set.root}: its records give {transform.num_samples} samples at {loaded.config.signal.rate_hz} Hz, "
            f"the model takes {loaded.num_samples}; use records of the length it was trained on"
        )
    given_s, wanted_s = shard_set.num_samples / shard_set.rate_hz, transform.num_samples / wanted_hz
    if abs(given_s - wanted_s) > 1 / wanted_hz:
        what = f"the middle {wanted_s:g} s are used" if given_s > wanted_s else "the rest is 'no sample'"
        log.warning("%s: records of %g s for a model of %g s: %s", shard_set.root, given_s, wanted_s, what)
    return transform


def read_signals(
    shard_set: ShardSet,
    rows: np.ndarray,
    *,
    transform: SignalTransform,
    batch_size: int,
    device: str = "cpu",
    leads: Sequence[int] | None = None,
) -> Iterator[Signal]:
    """Batches of ``rows``, in their order, the next one being read while one is used; ``leads`` as ``map_signals``."""
    batches = cut(rows, batch_size)
    return map_signals(lambda signal: signal, shard_set, batches, transform=transform, device=device, leads=leads)


def map_signals(
    function: Callable[[Signal], Result],
    shard_set: ShardSet,
    batches: Iterable[np.ndarray],
    *,
    transform: SignalTransform,
    device: str = "cpu",
    leads: Sequence[int] | None = None,
    workers: int = 1,
) -> Iterator[Result]:
    """What ``function`` makes of each batch of rows, in their order, ``workers`` threads ahead of whom it is given to.

    ``leads`` (canonical indices) withholds all others, as if they had not been recorded.
    """
    read = RecordReader(shard_set).read

    def result(rows: np.ndarray) -> Result:
        signal = transform(read(rows).to(device), seed=0, train=False)
        return function(signal if leads is None else withhold_leads(signal, keep=leads))

    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        for rows in batches:
            pending.append(pool.submit(result, rows))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def cut(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """``rows`` in batches, the last one maybe smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


@contextmanager
def one_thread_each(device: str) -> Iterator[int]:
    """The number of workers to start, each of which computes on one thread of torch's meanwhile.

    Beside small operations the threads of one operation cost more than they save. A GPU computes for two in turns.
    """
    num_threads = torch.get_num_threads()
    if torch.device(device).type != "cpu":
        yield 2
        return
    torch.set_num_threads(1)
    try:
        yield num_threads
    finally:
        torch.set_num_threads(num_threads)


def withhold_leads(signal: Signal, *, keep: Sequence[int]) -> Signal:
    """The same records with only the leads ``keep``; the others look missing."""
    kept_L = torch.zeros(NUM_LEADS, dtype=torch.bool, device=signal.x_BLT.device)
    kept_L[list(keep)] = True
    return dataclasses.replace(
        signal,
        x_BLT=signal.x_BLT * kept_L[:, None],
        valid_BLT=signal.valid_BLT & kept_L[:, None],
        lead_mask_BL=signal.lead_mask_BL & kept_L,
    )


def load_for_inference(
    run: Path, shard_set: ShardSet, *, device: str = "cpu", random_weights: bool = False, seed: int = 0
) -> tuple[LoadedModel, PretrainModel, SignalTransform]:
    """The checkpoint or export, the model to use and its transform.

    With ``random_weights`` the model is the checkpoint's architecture as initialised from ``seed``, which is what a
    pretrained model has to beat.
    """
    loaded = load_pretrained(run, device=device)
    transform = transform_for(loaded, shard_set)
    model = loaded.model
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(loaded.config.model, loaded.config.mask, num_samples=transform.num_samples)
        model = model.to(device).eval()
    return loaded, model, transform
