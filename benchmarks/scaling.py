"""One process and several, side by side: what is left of a process's speed when it has to agree with others.

On CPUs every process has one thread, pinned to a core of its own. Weak scaling gives each process the same number of
records per step whatever their number; strong scaling shares one global batch out. Steps are whole (masks, forward,
backward, DeepSpeed's reduction and step) on synthetic signal in memory. The jobs of all sizes are up at once and take
turns. Started by a launcher as several processes, on one node or more, this is a benchmark of all of them: a job of n
ranks is then on the first n.

The communication share counts time inside collectives, which is sending *and* waiting for slower ranks. Bytes come
three ways: computed by the forecast, counted at torch's collectives, and what the network interface between the ranks
(loopback on one node) sent meanwhile.
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from lamae.base.errors import UsageError
from lamae.base.progress import Progress, ignore
from lamae.benchmarks import rankstep
from lamae.benchmarks.forecast.engine import step_traffic
from lamae.benchmarks.forecast.model import ModelShape
from lamae.benchmarks.ranks import RankPool, join_launched, network_interface, threads_per_rank
from lamae.benchmarks.rankstep import StepCost
from lamae.benchmarks.synthetic import load_run
from lamae.benchmarks.timing import Ratio, Timing, in_turns, ratio_entries
from lamae.benchmarks.wire import interface_bytes, sent_per_rank
from lamae.train.ranks.distributed import Ranks
from lamae.train.runconfig import RunConfig
from lamae.train.schedule import BatchPlan

MODES = ("weak", "strong")
HEADLINE_STAGE = 1
GPU_STEPS = 10


def run(
    *,
    quick: bool = False,
    progress: Progress = ignore,
    processes: Sequence[int] | None = None,
    modes: Sequence[str] = ("weak",),
    zero: Sequence[int] = (0, 1, 2, 3),
    precision: str = "fp32",
    size: str | None = None,
    records: int = 4,
    overrides: Sequence[str] = (),
    repeats: int | None = None,
) -> dict[str, Any]:
    """Time steps of jobs of several sizes at several ZeRO stages; see benchmarks.timing for the form of the result.

    ``processes`` are the sizes of jobs: by default 1, 2, 4 … up to what the launcher started, or 1 and 2. ``records``
    is that of a process and step in the largest job; ``overrides`` change the configuration. Raises UsageError where
    the sizes, a mode or a stage make no sense.
    """
    launched = join_launched()
    processes = sorted(set(processes or _doubling(launched.world_size if launched else 2)))
    zero = sorted(set(zero))
    _check(processes, modes, zero, precision, records, most=launched.world_size if launched else None)
    size = size or ("tiny" if quick else "small")
    by_mode = {mode: {number: _job(mode, number, processes, records) for number in processes} for mode in modes}
    jobs = list(dict.fromkeys(job for of_mode in by_mode.values() for job in of_mode.values()))
    settings = {
        (stage, job): [f"engine.zero_stage={stage}", f"engine.precision={precision}", *job.settings, *overrides]
        for stage in zero
        for job in jobs
    }
    runs = {case: load_run(size, *given) for case, given in settings.items()}  # refused here, and not by every rank
    hardware = _Hardware.find(launched, most=processes[-1])
    repeats = repeats or (2 if quick else 5)
    ratios: dict[str, Ratio] = {}
    measurements: dict[str, Any] = {}
    with ExitStack() as stack:
        pools = {job: stack.enter_context(hardware.start(job.processes)) for job in jobs}
        for done, stage in enumerate(zero):
            progress("ZeRO stages", done, len(zero))
            for job, pool in pools.items():
                pool.call(rankstep.open_steps, config=size, overrides=settings[stage, job])
                pool.call(rankstep.time_steps, num_steps=hardware.steps)
            rounds: dict[_Job, list[_Round]] = {job: [] for job in jobs}
            for job in in_turns(jobs, repeats=repeats, seed=stage):
                rounds[job].append(_Round.take(pools[job], hardware))
            for pool in pools.values():
                pool.call(rankstep.close_steps)
            timings = {job: Timing(tuple(one.seconds for one in rounds[job]), job.batch) for job in jobs}
            for job in jobs:
                described = _describe(rounds[job], runs[stage, job], job)
                measurements[f"zero{stage}_{job.name}"] = {**timings[job].to_dict(), **described}
            for mode, of_mode in by_mode.items():
                of_processes = {number: timings[job] for number, job in of_mode.items()}
                ratios |= _efficiencies(of_processes, mode=mode, stage=stage, headline=_headline(zero))
        progress("ZeRO stages", len(zero), len(zero))
    about = {
        "modes": list(modes),
        "size": size,
        "precision": precision,
        "overrides": list(overrides),
        "processes": list(processes),
        "zero": list(zero),
        "records_per_process": records,
        "repeats": repeats,
        "pinned": all(pool.pinned for pool in pools.values()),
        **hardware.to_dict(),
    }
    return {"settings": about, "notes": hardware.notes, "measurements": measurements, **ratio_entries(ratios)}


@dataclass(frozen=True)
class _Job:
    """So many processes that share a global batch of so many records."""

    processes: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.processes}_processes_{self.batch}_records"

    @property
    def settings(self) -> list[str]:
        return [f"train.global_batch_size={self.batch}", f"train.micro_batch_size={self.batch}"]


def _job(mode: str, number: int, processes: Sequence[int], records: int) -> _Job:
    """The largest is the same in both modes."""
    return _Job(number, records * (number if mode == "weak" else max(processes)))


@dataclass(frozen=True)
class _Hardware:
    """Where the ranks are."""

    launched: Ranks | None
    """The launcher's processes; None where all ranks are started here."""
    use_gpus: bool
    threads: int
    num_nodes: int
    interface: str
    """Between machines, or loopback; empty where ranks do not speak over one that counts."""
    notes: list[str]

    @property
    def steps(self) -> int:
        """Of a repeat: a GPU's are short."""
        return GPU_STEPS if self.use_gpus else 1

    def to_dict(self) -> dict[str, Any]:
        """For the settings of a result."""
        return {
            "nodes": self.num_nodes,
            "device": "cuda" if self.use_gpus else "cpu",
            "interface": self.interface,
            "threads_per_process": self.threads,
            "steps_per_repeat": self.steps,
        }

    @classmethod
    def find(cls, launched: Ranks | None, *, most: int) -> "_Hardware":
        """For jobs of up to ``most`` ranks."""
        local_world_size = min(launched.local_world_size if launched else most, most)
        num_gpus = _gpus_of_a_machine(launched)
        use_gpus = num_gpus >= local_world_size
        short = num_gpus and not use_gpus
        note = f"ranks ran on CPUs: {num_gpus} GPU{'s' * (num_gpus > 1)} for {local_world_size} ranks of a machine"
        return cls(
            launched=launched,
            use_gpus=use_gpus,
            threads=threads_per_rank(on_gpus=use_gpus, local_world_size=local_world_size),
            num_nodes=-(-most // launched.local_world_size) if launched else 1,
            interface="" if use_gpus else network_interface(launched),
            notes=[note] if short else [],
        )

    def start(self, world_size: int) -> RankPool:
        return RankPool(world_size, threads=self.threads, launched=self.launched, use_gpus=self.use_gpus)

    def sent_bytes(self) -> dict[str, int] | None:
        """Sent so far by all machines of the job, by interface: ranks of one machine meet at loopback. None where that
        is not known."""
        names = dict.fromkeys(("lo", self.interface)) if self.interface else ()
        own = {name: interface_bytes(name) for name in names}
        if self.launched is not None:
            speaks = self.launched.local_rank == 0
            of_nodes = [one for one in self.launched.gather(own if speaks else None) if one is not None]
        else:
            of_nodes = [own]
        if not own or any(None in one.values() for one in of_nodes):
            return None
        return {name: sum(one[name] or 0 for one in of_nodes) for name in own}


@dataclass(frozen=True)
class _Round:
    """One repeat of one job: what every rank spent, and the bytes of a step and rank by interface, if known."""

    costs: list[StepCost]
    sent_per_rank: dict[str, float] | None

    @classmethod
    def take(cls, pool: RankPool, hardware: _Hardware) -> "_Round":
        before = hardware.sent_bytes()
        costs: list[StepCost] = pool.call(rankstep.time_steps, num_steps=hardware.steps)
        after = hardware.sent_bytes()
        if before is None or after is None:
            return cls(costs, None)
        share = len(costs) * hardware.steps
        return cls(costs, {name: (after[name] - before[name]) / share for name in before})

    @property
    def seconds(self) -> float:
        """Of the slowest rank."""
        return max(cost.seconds for cost in self.costs)

    @property
    def phase_s(self) -> dict[str, float]:
        """Of the rank that waited least for others: what it spent on communication is sending."""
        return min(self.costs, key=lambda cost: cost.phase_s["communication"]).phase_s


def _describe(rounds: Sequence[_Round], run: RunConfig, job: _Job) -> dict[str, Any]:
    described: dict[str, Any] = {
        "step_s": statistics.median(entry.seconds for entry in rounds),
        "phase_s": {name: statistics.median(entry.phase_s[name] for entry in rounds) for name in rounds[0].phase_s},
        "communication_share": statistics.median(entry.phase_s["communication"] / entry.seconds for entry in rounds),
    }
    number = job.processes
    if number > 1:
        batch = BatchPlan(number, accumulation=1, micro=job.batch // number)
        traffic = step_traffic(ModelShape.of(run), batch, zero_stage=run.engine.zero_stage)
        sent = [entry.sent_per_rank for entry in rounds if entry.sent_per_rank is not None]
        described["sent_bytes_per_rank"] = {
            "computed": sum(sent_per_rank(one.operation, one.num_bytes, number) for one in traffic),
            "collectives": statistics.median(entry.costs[0].sent_bytes for entry in rounds),
            "interfaces": {name: statistics.median(one[name] for one in sent) for name in (sent[0] if sent else ())},
        }
        described["collectives"] = {
            name: {"tensor_bytes": num_bytes, "calls": rounds[0].costs[0].calls[name]}
            for name, num_bytes in rounds[0].costs[0].tensor_bytes.items()
        }
    return described


def _efficiencies(timings: Mapping[int, Timing], *, mode: str, stage: int, headline: int) -> dict[str, Ratio]:
    """Records per second and process, over those of the smallest job: 1 is perfect in either mode."""
    fewest = min(timings)
    ratios = {}
    for number, timing in timings.items():
        if number == fewest:
            continue
        rate = Ratio.of(timing, timings[fewest])
        efficiency = Ratio(tuple(value * fewest / number for value in rate.values))
        ratios[f"{mode}_{fewest}_{number}_zero{stage}"] = efficiency
        if stage == headline:
            ratios[f"{mode}_{fewest}_{number}"] = efficiency
    return ratios


def _headline(zero: Sequence[int]) -> int:
    """The stage that ``weak_1_2`` is of: the default one, else the first that is measured."""
    return HEADLINE_STAGE if HEADLINE_STAGE in zero else zero[0]


def _gpus_of_a_machine(launched: Ranks | None) -> int:
    """Different GPUs that the processes of a machine see together, the fewest of all machines.

    A launcher may have shown each process its own alone.
    """
    seen = visible_gpus()
    if launched is None:
        return len(seen)
    of_machines: dict[int, set[str]] = {}
    for first_rank, gpus in launched.gather((launched.rank - launched.local_rank, seen)):
        of_machines.setdefault(first_rank, set()).update(gpus)
    return min(len(gpus) for gpus in of_machines.values())


def visible_gpus() -> list[str]:
    """An identity of each GPU that this process may use."""
    return [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]


def _doubling(most: int) -> list[int]:
    """1, 2, 4 … and ``most``."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def _check(
    processes: Sequence[int],
    modes: Sequence[str],
    zero: Sequence[int],
    precision: str,
    records: int,
    *,
    most: int | None,
) -> None:
    """``most`` processes were launched; None where as many as wanted can be started here."""
    numbers, stages = ",".join(map(str, processes)), ",".join(map(str, zero))
    uneven = "strong" in modes and any(records * processes[-1] % number for number in processes if number > 0)
    refusals = {
        f"--processes {numbers}: numbers of at least 1, for example 1,2": processes[0] < 1,
        f"--processes {numbers}: this job has {most} ranks; ask for more, or leave the option out": (
            most is not None and processes[-1] > most
        ),
        f"--processes {numbers}: two numbers at least, the smallest being the base": len(processes) == 1,
        f"--mode {','.join(modes)}: {' or '.join(MODES)}, or both with a comma between": not set(modes) <= set(MODES),
        f"--zero {stages}: stages among 0,1,2,3": not set(zero) <= {0, 1, 2, 3},
        f"--precision {precision}: fp32 or bf16": precision not in ("fp32", "bf16"),
        "--zero 0 needs --precision fp32; bf16 runs at stages 1 to 3": precision == "bf16" and 0 in zero,
        f"--records {records}: at least 1": records < 1,
        "--mode strong: the records of a step must be shared out equally; change --records": "strong" in modes
        and uneven,
    }
    for message, is_refused in refusals.items():
        if is_refused:
            raise UsageError(message)
