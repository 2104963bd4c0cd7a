"""How fast a run is, and how far that is from what the device could do."""

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lamae.base.leads import NUM_LEADS
from lamae.model.flops import count_flops
from lamae.train.clock import PHASES, StepClock, StepTimes
from lamae.train.ranks.distributed import Ranks
from lamae.train.ranks.stragglers import Stragglers
from lamae.train.runconfig import RunConfig

# Dense bfloat16 TFLOP/s from the vendors' data sheets, without sparsity. Devices not listed have no utilisation.
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100 80GB HBM3": 989.0, "H100 PCIe": 756.0, "A100": 312.0, "L40S": 362.0}

# In less time nothing was done.
SHORTEST_PAUSE_S = 1e-3


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Peak of a known device in a known precision; None where it would be a guess."""
    if precision != "bf16":
        return None
    return next((peak for name, peak in PEAK_BF16_TFLOPS.items() if name in device_name), None)


class Rates:
    """Throughput of each logging interval and the ranks' shares in it."""

    def __init__(
        self,
        config: RunConfig,
        *,
        num_samples: int,
        ranks: Ranks,
        clock: StepClock,
        run_dir: Path,
        resume_step: int,
    ) -> None:
        on_cuda = ranks.device.type == "cuda"
        device_name = torch.cuda.get_device_name(ranks.device) if on_cuda else ""
        self._ranks = ranks
        self._global_batch_size = config.train.global_batch_size
        self._flops = count_flops(config.model, config.mask, num_samples=num_samples).training
        self._patches = NUM_LEADS * (num_samples // config.model.patch_size)
        self._peak = config.monitor.peak_tflops or peak_tflops(device_name, config.engine.precision)
        self._clock = clock
        self._before = clock.read()
        self._began = time.perf_counter()
        self._pauses_s: dict[str, float] = {}
        self._waited_before = 0.0
        self._stragglers = Stragglers(run_dir, ranks, resume_step=resume_step)

    def begin(self) -> None:
        """An interval begins now."""
        self._began = time.perf_counter()

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Work between steps, which is none of their time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._pauses_s[name] = self._pauses_s.get(name, 0.0) + time.perf_counter() - began

    def read(self, num_steps: int, *, data_wait_s: float, step: int) -> dict[str, float]:
        """Figures of the interval that ends now; ``data_wait_s`` is the loader's total so far. Called by all ranks.

        ``communication_share`` and ``time/…`` are of the timed steps: all on a CPU, the last one on CUDA.
        """
        pauses_s, self._pauses_s = self._pauses_s, {}
        elapsed = time.perf_counter() - self._began - sum(pauses_s.values())
        waited = data_wait_s - self._waited_before
        self._waited_before = data_wait_s
        reading = self._clock.read()
        times, self._before = reading.since(self._before), reading
        shares = self._ranks.gather((waited / num_steps, times))
        wait_s = [share[0] for share in shares]
        records_per_s = num_steps * self._global_batch_size / elapsed
        tflops = records_per_s * self._flops / 1e12 / self._ranks.world_size
        values = {
            "records_per_s": records_per_s,
            "patches_per_s": records_per_s * self._patches,
            "step_s": elapsed / num_steps,
            "data_wait_share": statistics.mean(wait_s) * num_steps / elapsed,
            "tflops_per_device": tflops,
            "memory_gb": self._memory_gb(),
            **{f"pauses/{name}_s": seconds for name, seconds in pauses_s.items() if seconds >= SHORTEST_PAUSE_S},
        }
        if self._peak is not None:
            values["mfu"] = tflops / self._peak
        timed = [share[1] for share in shares]
        if all(times is not None for times in timed):
            values |= _phase_shares(timed)
            # Below stage 3 no rank waits for another in its forward pass, and at stage 3 waiting is communication.
            forward_s = [times.phase_s["forward"] for times in timed]
            values |= {
                "ranks/slowest_forward_s": max(forward_s),
                "ranks/median_forward_s": statistics.median(forward_s),
                "ranks/longest_data_wait_s": max(wait_s),
            }
            self._stragglers.look(step, "forward", forward_s)
        self._stragglers.look(step, "data wait", wait_s)
        return values

    def _memory_gb(self) -> float:
        """Peak memory of this rank so far: of the device, or of the process on a CPU."""
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device) / 1e9
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def _phase_shares(of_ranks: list[StepTimes]) -> dict[str, float]:
    """Mean over ranks: the share of communication in a step, and the seconds of every phase of it."""
    values = {
        f"time/{name}_s": statistics.mean(times.phase_s[name] for times in of_ranks) for name in (*PHASES, "other")
    }
    step_s = statistics.mean(times.step_s for times in of_ranks)
    return {"communication_share": values["time/communication_s"] / step_s, **values}
