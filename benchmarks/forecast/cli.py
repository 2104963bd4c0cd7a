"""The verb ``plan`` of the command line; ``lamae.cli.app`` registers it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.benchmarks.forecast.machine import GPUS, INTERCONNECTS, STORAGE_BYTES_PER_S, Machine, describe_machine

GIB = 2**30
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
        bool, typer.Option("--validate", help="Instead compare the forecast with steps of this machine; minutes.")
    ] = False,
) -> None:
    """Forecast what a run needs on other machines: memory, step time, hours, traffic, first bottleneck."""
    files.check_writable("--json", json)
    files.check_writable("--plot", plot)
    if validate and plot is not None:
        raise UsageError("--plot draws a forecast; --validate makes none: leave one of them out")
    if validate:
        _validate(json)
        return
    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise UsageError(f"--plot {plot}: end it in one of {', '.join(PLOT_FORMATS)}")
    sizes = sorted(set(_counts("--gpus", gpus, example="8,64")))
    corpora = _counts("--records", records, example="800035,10000000")
    positive = {"--epochs": epochs, "--records-per-gpu": records_per_gpu, "--storage-gb-per-s": storage_gb_per_s}
    for option, value in positive.items():
        if value is not None and value <= 0:
            raise UsageError(f"{option} {value:g}: above 0")
    from lamae.train.runconfig import load

    # A forecast reads no data and makes no run: the two keys that have no default stay open.
    run = load(config, ["run.dir=unused", "data.path=unused", *(overrides or [])])
    machine = describe_machine(
        gpu,
        interconnect,
        precision=run.engine.precision,
        devices_per_node=gpus_per_node,
        storage_bytes_per_s=storage_gb_per_s * 1e9,
    )
    chosen, per_stage = _forecasts(run, machine, sizes, records_per_gpu, name=config)
    _print(chosen, per_stage, corpora=corpora, epochs=epochs)
    if plot is not None:
        from lamae.benchmarks.forecast.plot import save_plot

        save_plot(chosen, plot, title=f"{config} on {machine.name}, ZeRO {run.engine.zero_stage}")
    if json is not None:
        values = {
            "modelled": True,
            "config": config,
            "machine": machine.to_dict(),
            "records": corpora,
            "epochs": epochs,
            "plan": [_as_dict(one, corpora, epochs) for one in chosen],
            "memory_by_stage": [_as_dict(one, corpora, epochs) for pair in per_stage for one in pair],
            "ratios": {f"speedup_{one.world_size}_gpus": one.records_per_s / chosen[0].records_per_s for one in chosen},
        }
        files.write_json(json, values)


def _forecasts(
    run: Any, machine: Machine, sizes: list[int], records_per_gpu: int | None, *, name: str
) -> tuple[list[Any], list[list[Any]]]:
    """At the run's ZeRO stage by world size; and at every stage, without and with activation checkpointing."""
    from lamae.benchmarks.forecast.forecast import forecast
    from lamae.benchmarks.forecast.model import ModelShape
    from lamae.train.schedule import plan_batch

    shape, precision, configured = ModelShape.of(run), run.engine.precision, run.train.global_batch_size

    def of(size: int, stage: int, checkpointing: bool) -> Any:
        wanted = records_per_gpu * size if records_per_gpu else configured
        # The next that can be shared out equally.
        batch = plan_batch(-(-wanted // size) * size, micro_batch_size=run.train.micro_batch_size, world_size=size)
        return forecast(shape, machine, batch, zero_stage=stage, precision=precision, checkpointing=checkpointing)

    console.say(
        f"{name} on {machine.name}: {shape.num_parameters / 1e6:.1f} M parameters, "
        f"{shape.flops.training / 1e9:.1f} GFLOP per record; every number below is modelled",
    )
    chosen = [of(size, run.engine.zero_stage, run.train.activation_checkpointing) for size in sizes]
    raised = [one for one in chosen if one.batch.per_rank * one.world_size != configured]
    if raised and not records_per_gpu:
        counts = ", ".join(f"{one.world_size} GPUs with {one.batch.per_rank * one.world_size}" for one in raised)
        console.say(f"train.global_batch_size={configured} cannot be shared equally: forecast are {counts}")
    stages = range(precision != "fp32", 4)
    return chosen, [[of(size, stage, kept) for kept in (False, True)] for size in sizes for stage in stages]


def _print(chosen: list[Any], per_stage: list[list[Any]], *, corpora: list[int], epochs: float) -> None:
    """Three tables; ``per_stage`` are forecasts without and with activation checkpointing."""
    parts = ("weights", "gradients", "optimizer", "buffers", "activations")
    console.print_table(
        "GiB per GPU at the peak, modelled; ckpt: with activation checkpointing; ! too much",
        ["GPUs", "ZeRO", "micro", "weights", "grads", "optim", "bufs", "acts", "total", "ckpt"],
        [
            [
                *(str(one.world_size), str(one.zero_stage), f"{one.batch.micro}x{one.batch.accumulation}"),
                *(f"{getattr(one.memory, part) / GIB:.2f}" for part in parts),
                *(f"{each.memory.total / GIB:.2f}{'' if each.fits else ' !'}" for each in (one, checkpointed)),
            ]
            for one, checkpointed in per_stage
        ],
    )
    console.print_table(
        f"steps at ZeRO stage {chosen[0].zero_stage}, modelled: milliseconds, and what a node reads and saves",
        ["GPUs", "batch", "step", *chosen[0].parts_s, "records/s", "read MB/s", "save s", "bottleneck"],
        [
            [
                *(str(one.world_size), str(one.batch.per_rank * one.world_size)),
                *(f"{seconds * 1e3:.2f}" for seconds in (one.step_s, *one.parts_s.values())),
                *(f"{one.records_per_s:,.0f}", f"{one.loader_bytes_per_s / 1e6:,.0f}", f"{one.checkpoint_s:.2g}"),
                one.bottleneck,
            ]
            for one in chosen
        ],
    )
    rows = []
    for one in chosen:
        hours = [one.hours(records=records, epochs=epochs) for records in corpora]
        rows.append([str(one.world_size), *(f"{each:,.2f} ({each * one.world_size:,.0f})" for each in hours)])
    heads = ["GPUs", *(f"{records:,} records" for records in corpora)]
    console.print_table(f"hours (GPU-hours) of {epochs:g} epochs, modelled", heads, rows)


def _as_dict(one: Any, corpora: list[int], epochs: float) -> dict[str, Any]:
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
    from lamae.benchmarks.forecast.validate import validate
    from lamae.benchmarks.result import describe_result, write_result

    with console.show_progress() as progress:
        result = {**describe_result("plan", quick=False), **validate(progress=progress)}
    rows = [
        [
            name.replace("_processes", "").replace("_zero", " zero").replace("_", " x"),
            *_compared(entry["step_s"], 1e-3),
            *_compared(entry["memory_bytes"], 2**20),
        ]
        for name, entry in result["measurements"].items()
    ]
    columns = ["", "step ms modelled", "measured", "error", "MiB modelled", "measured", "error"]
    console.print_table("the forecast against this machine, one thread per process, float32", columns, rows)
    if json is not None:
        write_result(result, json)


def _compared(entry: dict[str, Any], unit: float) -> tuple[str, str, str]:
    predicted, measured = entry["predicted"], entry["measured"]
    if not measured:
        return f"{predicted / unit:.0f}", "-", "-"
    return f"{predicted / unit:.0f}", f"{measured / unit:.0f}", f"{predicted / measured - 1:+.0%}"


def _counts(option: str, text: str, *, example: str) -> list[int]:
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"{option} {text}: whole numbers of at least 1 with commas between, for example {example}")
    return counts
