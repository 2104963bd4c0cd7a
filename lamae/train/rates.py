"""How fast a run is, how far that is from what the device could do, and which rank holds the others up."""

import logging
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lamae.model.flops import count_flops
from lamae.train.distributed import Ranks
from sharding.leads import NUM_LEADS

if TYPE_CHECKING:
    from lamae.config import RunConfig

# Dense bfloat16 TFLOP/s from the vendors' data sheets, without sparsity. Devices not listed have no utilisation.
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100 80GB HBM3": 989.0, "H100 PCIe": 756.0, "A100": 312.0, "L40S": 362.0}
STRAGGLER_RATIO = 1.5
STRAGGLER_MIN_S = 0.005

log = logging.getLogger(__name__)


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Peak of a known device in a known precision; None where it would be a guess."""
    if precision != "bf16":
        return None
    return next((peak for name, peak in PEAK_BF16_TFLOPS.items() if name in device_name), None)


class Stopwatch:
    """Adds up the time of some work on the device without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._on_cuda:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            yield
            ended.record()
            self._events.append((began, ended))
        else:
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start

    def read_s(self) -> float:
        """Seconds since the last reading. Synchronises."""
        for began, ended in self._events:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._events.clear()
        return seconds


class Rates:
    """Throughput of each logging interval and the ranks' shares in it."""

    def __init__(self, config: "RunConfig", *, num_samples: int, ranks: Ranks) -> None:
        on_cuda = ranks.device.type == "cuda"
        device_name = torch.cuda.get_device_name(ranks.device) if on_cuda else ""
        self._ranks = ranks
        self._global_batch_size = config.train.global_batch_size
        self._flops = count_flops(config.model, config.mask, num_samples=num_samples).training
        self._patches = NUM_LEADS * (num_samples // config.model.patch_size)
        self._peak = config.monitor.peak_tflops or peak_tflops(device_name, config.engine.precision)
        self.forward = Stopwatch(ranks.device)
        """Times the forward passes, in which no rank waits for another below stage 3."""
        self._began = time.perf_counter()
        self._waited_before = 0.0

    def begin(self) -> None:
        """An interval begins now."""
        self._began = time.perf_counter()

    def read(self, num_steps: int, *, data_wait_s: float, step: int) -> dict[str, float]:
        """Figures of the interval that ends now; ``data_wait_s`` is the loader's total so far. Called by all ranks."""
        elapsed = time.perf_counter() - self._began
        waited = data_wait_s - self._waited_before
        self._waited_before = data_wait_s
        shares = self._ranks.gather((self.forward.read_s() / num_steps, waited / num_steps))
        forward_s, wait_s = ([share[i] for share in shares] for i in (0, 1))
        records_per_s = num_steps * self._global_batch_size / elapsed
        tflops = records_per_s * self._flops / 1e12 / self._ranks.world_size
        values = {
            "records_per_s": records_per_s,
            "patches_per_s": records_per_s * self._patches,
            "step_s": elapsed / num_steps,
            "data_wait_share": statistics.mean(wait_s) * num_steps / elapsed,
            "tflops_per_device": tflops,
            "memory_gb": self._memory_gb(),
            "ranks/slowest_forward_s": max(forward_s),
            "ranks/median_forward_s": statistics.median(forward_s),
            "ranks/longest_data_wait_s": max(wait_s),
        }
        if self._peak is not None:
            values["mfu"] = tflops / self._peak
        self._tell_stragglers(step, forward_s, wait_s)
        return values

    def _tell_stragglers(self, step: int, forward_s: list[float], wait_s: list[float]) -> None:
        for what, seconds in (("forward", forward_s), ("data wait", wait_s)):
            median = statistics.median(seconds)
            slow = [s > STRAGGLER_RATIO * median and s - median > STRAGGLER_MIN_S for s in seconds]
            if any(slow) and self._ranks.is_main:
                table = ", ".join(f"{rank}: {1000 * seconds[rank]:.0f}" for rank, is_slow in enumerate(slow) if is_slow)
                log.warning(
                    "step %d: ranks hold the others up, %s in ms per step (median %.0f): %s",
                    step,
                    what,
                    1000 * median,
                    table,
                )

    def _memory_gb(self) -> float:
        """Peak memory of this rank so far: of the device, or of the process on a CPU."""
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device) / 1e9
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
