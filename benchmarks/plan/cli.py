"""The verb ``plan`` of the command line; ``lamae.cli.app`` registers it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.benchmarks.plan.hardware import GPUS, INTERCONNECTS, STORAGE_BYTES_PER_S

if TYPE_CHECKING:
    from lamae.benchmarks.plan.forecast import Forecast

GIB = 2**30
STAGES = (0, 1, 2, 3)
PLOT_FORMATS = (".png", ".svg", ".pdf")


def plan(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Configuration: a YAML file, or tiny, small, base or large.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to it.")] = None,
    gpus: Annotated[str, typer.Option(help="World sizes, with commas between.")] = "8,64,512,1024",
    gpu: Annotated[str, typer.Option(help=f"{', '.join(GPUS)}.")] = "h100",
    interconnect: Annotated[str, typer.Option(help=f"Between nodes: {', '.join(INTERCONNECTS)}.")] = "ib-ndr",
    gpus_per_node: Annotated[int, typer.Option(help="GPUs in a node.")] = 8,
    records: Annotated[
        str, typer.Option(help="Records of an epoch, with commas between several (default: MIMIC-IV-ECG's).")
    ] = "800035",
    epochs: Annotated[float, typer.Option(help="Epochs to cost.")] = 100.0,
    records_per_gpu: Annotated[
        int | None, typer.Option(help="Records per GPU and step (weak scaling); else the config's global batch.")
    ] = None,
    storage_gb_per_s: Annotated[
        float, typer.Option(help="What a node reads and writes, in GB/s.")
    ] = STORAGE_BYTES_PER_S / 1e9,
    json: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw steps and records/s here (.png, .svg, .pdf).")] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Instead compare the model with steps of this machine; takes minutes.")
    ] = False,
) -> None:
    """What a run will need on other machines: memory, step time, hours, traffic, first bottleneck. All modelled."""
    files.check_writable("--json", json)
    files.check_writable("--plot", plot)
    if validate:
        if plot is not None:
            raise UsageError("--plot draws a plan; --validate makes none: leave one of them out")
        _validate(json)
        return
    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise UsageError(f"--plot {plot}: end it in one of {', '.join(PLOT_FORMATS)}")
    from lamae.benchmarks.plan.machine import describe_machine

    sizes = sorted(set(_counts("--gpus", gpus, example="8,64")))
    corpora = _counts("--records", records, example="800035,10000000")
    for option, value in (
        ("--epochs", epochs),
        ("--records-per-gpu", records_per_gpu),
        ("--storage-gb-per-s", storage_gb_per_s),
    ):
        if value is not None and value <= 0:
            raise UsageError(f"{option} {value:g}: above 0")
    from lamae.train.runconfig import config_hash, load

    # A plan reads no data and makes no run: the two keys that have no default stay open.
    run = load(config, ["run.dir=unused", "data.path=unused", *(overrides or [])])
    machine = describe_machine(
        gpu,
        interconnect,
        precision=run.engine.precision,
        devices_per_node=gpus_per_node,
        storage_bytes_per_s=storage_gb_per_s * 1e9,
    )
    from lamae.benchmarks.plan.shape import model_shape

    shape = model_shape(run)
    stages = STAGES if run.engine.precision == "fp32" else STAGES[1:]
    per_stage = [
        [_forecast(run, shape, machine, size, stage, records_per_gpu, kept) for kept in (False, True)]
        for size in sizes
        for stage in stages
    ]
    chosen = [
        _forecast(
            run,
            shape,
            machine,
            size,
            run.engine.zero_stage,
            records_per_gpu,
            run.train.activation_checkpointing,
        )
        for size in sizes
    ]
    console.say(
        f"{config} on {machine.name}: {shape.num_parameters / 1e6:.1f} M parameters, "
        f"{shape.flops.training / 1e9:.1f} GFLOP per record; every number below is modelled",
    )
    if not records_per_gpu:
        configured = run.train.global_batch_size
        raised = [one for one in chosen if one.batch.per_rank * one.world_size != configured]
        if raised:
            counts = ", ".join(f"{one.world_size} GPUs with {one.batch.per_rank * one.world_size}" for one in raised)
            console.say(
                f"train.global_batch_size={configured} cannot be shared equally: planned are {counts}",
            )
    _print_memory(per_stage)
    _print_times(chosen, zero_stage=run.engine.zero_stage)
    _print_hours(chosen, corpora=corpora, epochs=epochs)
    if plot is not None:
        from lamae.benchmarks.plan.plot import save_plot

        save_plot(chosen, plot, title=f"{config} on {machine.name}, ZeRO {run.engine.zero_stage}")
    if json is not None:
        files.write_json(
            json,
            {
                "modelled": True,
                "config": config,
                "config_hash": config_hash(run),
                "machine": machine.to_dict(),
                "records": corpora,
                "epochs": epochs,
                "plan": [_as_dict(one, corpora=corpora, epochs=epochs) for one in chosen],
                "memory_by_stage": [
                    _as_dict(one, corpora=corpora, epochs=epochs) for pair in per_stage for one in pair
                ],
                "ratios": {
                    f"speedup_{one.world_size}_gpus": one.records_per_s / chosen[0].records_per_s for one in chosen
                },
            },
        )


def _forecast(
    run: Any, shape: Any, machine: Any, size: int, stage: int, records_per_gpu: int | None, checkpointing: bool
) -> "Forecast":
    from lamae.benchmarks.plan.forecast import forecast
    from lamae.train.schedule import plan_batch

    wanted = records_per_gpu * size if records_per_gpu else run.train.global_batch_size
    global_batch_size = -(-wanted // size) * size  # the next that can be shared out equally
    batch = plan_batch(global_batch_size, micro_batch_size=run.train.micro_batch_size, world_size=size)
    return forecast(
        shape, machine, batch, zero_stage=stage, precision=run.engine.precision, checkpointing=checkpointing
    )


def _print_memory(pairs: list[list["Forecast"]]) -> None:
    """``pairs`` are forecasts without and with activation checkpointing."""
    columns = ["GPUs", "ZeRO", "micro", "weights", "grads", "optim", "bufs", "acts", "total", "ckpt"]
    lines = []
    for plain, checkpointed in pairs:
        memory = plain.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.buffers, memory.activations)
        lines.append(
            [
                str(plain.world_size),
                str(plain.zero_stage),
                f"{plain.batch.micro}x{plain.batch.accumulation}",
                *(f"{part / GIB:.2f}" for part in parts),
                _total(plain),
                _total(checkpointed),
            ]
        )
    title = "GiB per GPU at the peak, modelled; ckpt: with activation checkpointing; ! too much"
    console.print_table(title, columns, lines)


def _total(one: "Forecast") -> str:
    return f"{one.memory.total / GIB:.2f}{'' if one.fits else ' !'}"


def _print_times(rows: list["Forecast"], *, zero_stage: int) -> None:
    columns = ["GPUs", "batch", "step ms", "records/s", "read MB/s", "save s", "bottleneck"]
    lines = []
    for one in rows:
        lines.append(
            [
                str(one.world_size),
                str(one.batch.per_rank * one.world_size),
                f"{one.step_s * 1e3:.1f}",
                f"{one.records_per_s:,.0f}",
                f"{one.loader_bytes_per_s / 1e6:,.0f}",
                f"{one.checkpoint_s:.2g}",
                one.bottleneck,
            ]
        )
    console.print_table(f"steps at ZeRO stage {zero_stage}, modelled; read and save per node", columns, lines)
    parts = [
        [
            str(one.world_size),
            *(f"{seconds * 1e3:.2f}" for seconds in one.parts_s.values()),
            f"{one.reading_s * 1e3:.2f}",
        ]
        for one in rows
    ]
    title = "a step's milliseconds by what they go to, modelled; reading happens meanwhile"
    console.print_table(title, ["GPUs", *rows[0].parts_s, "(reading)"], parts)


def _print_hours(rows: list["Forecast"], *, corpora: list[int], epochs: float) -> None:
    columns = ["GPUs", *(f"{records:,} records" for records in corpora)]
    lines = []
    for one in rows:
        hours = [one.hours(records=records, epochs=epochs) for records in corpora]
        lines.append([str(one.world_size), *(f"{each:,.2f} ({each * one.world_size:,.0f})" for each in hours)])
    console.print_table(f"hours (GPU-hours) of {epochs:g} epochs, modelled", columns, lines)


def _as_dict(one: "Forecast", *, corpora: list[int], epochs: float) -> dict[str, Any]:
    hours = {str(records): one.hours(records=records, epochs=epochs) for records in corpora}
    return {
        "gpus": one.world_size,
        "zero_stage": one.zero_stage,
        "global_batch_size": one.batch.per_rank * one.world_size,
        "micro_batch_size": one.batch.micro,
        "accumulation": one.batch.accumulation,
        "activation_checkpointing": one.checkpointing,
        "memory_bytes": {**vars(one.memory), "total": one.memory.total},
        "fits": one.fits,
        "step_s": one.step_s,
        "parts_s": {**one.parts_s, "reading (overlapped)": one.reading_s},
        "records_per_s": one.records_per_s,
        "hours": hours,
        "gpu_hours": {records: each * one.world_size for records, each in hours.items()},
        "loader_bytes_per_s_and_node": one.loader_bytes_per_s,
        "checkpoint_s": one.checkpoint_s,
        "snapshot_s": one.snapshot_s,
        "bottleneck": one.bottleneck,
    }


def _validate(json: Path | None) -> None:
    from lamae.benchmarks.plan.validate import validate
    from lamae.benchmarks.result import describe_result, write_result

    with console.show_progress() as progress:
        result = {**describe_result("plan", quick=False), **validate(progress=progress)}
    lines = []
    for name, entry in result["measurements"].items():
        step, memory = entry["step_s"], entry["memory_bytes"]
        lines.append(
            [
                name.replace("_processes", "").replace("_zero", " zero").replace("_", " x"),
                f"{step['predicted'] * 1e3:.0f}",
                f"{step['measured'] * 1e3:.0f}",
                _error(step["predicted"], step["measured"]),
                f"{memory['predicted'] / 2**20:.0f}",
                "-" if memory["measured"] is None else f"{memory['measured'] / 2**20:.0f}",
                _error(memory["predicted"], memory["measured"]),
            ]
        )
    columns = ["", "step ms modelled", "measured", "error", "MiB modelled", "measured", "error"]
    console.print_table("the model against this machine, one thread per process, float32", columns, lines)
    if json is not None:
        write_result(result, json)


def _error(predicted: float, measured: float | None) -> str:
    return f"{predicted / measured - 1:+.0%}" if measured else "-"


def _counts(option: str, text: str, *, example: str) -> list[int]:
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"{option} {text}: whole numbers of at least 1 with commas between, for example {example}")
    return counts
