"""The verb ``plan`` of the command line; ``lamae.cli.app`` registers it."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.base.text import whole_numbers
from lamae.benchmarks.forecast.machine import (
    GPUS,
    INTERCONNECTS,
    RING_PASSES,
    STORAGE_BYTES_PER_S,
    Machine,
    describe_machine,
)

if TYPE_CHECKING:  # these import torch, which takes a second; the verb does when it is called
    from lamae.benchmarks.forecast.forecast import Forecast
    from lamae.benchmarks.forecast.model import ModelShape

GIB = 2**30
PLOT_FORMATS = (".png", ".svg", ".pdf")


def plan(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="Configuration: a YAML file, or tiny, tiny-200ms, small, base, large."),
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
    if validate:
        _refuse_beside_validate(context)
    files.check_writable("--json", json)
    files.check_writable("--plot", plot)
    if validate:
        _validate(json)
        return
    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise UsageError(f"--plot {plot}: end it in one of {', '.join(PLOT_FORMATS)}")
    sizes = sorted(set(whole_numbers("--gpus", gpus, example="8,64")))
    corpora = whole_numbers("--records", records, example="800035,10000000")
    positive = {"--epochs": epochs, "--records-per-gpu": records_per_gpu, "--storage-gb-per-s": storage_gb_per_s}
    for option, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: above 0 and finite")
    from lamae.benchmarks.forecast.model import ModelShape
    from lamae.benchmarks.synthetic import load_run

    shape = ModelShape.of(load_run(config, *(overrides or [])))
    run, batch = shape.run, shape.run.train.global_batch_size
    storage = storage_gb_per_s * 1e9
    machine = describe_machine(
        gpu, interconnect, precision=run.engine.precision, devices_per_node=gpus_per_node, storage=storage
    )
    by_stage, chosen = _forecasts(shape, machine, sizes, records_per_gpu)
    console.say(
        f"{config} on {machine.name}: {shape.num_parameters / 1e6:.1f} M parameters, "
        f"{shape.flops.training / 1e9:.1f} GFLOP per record; every number below is modelled",
    )
    raised = [f"{one.gpus} GPUs with {one.global_batch_size}" for one in chosen if one.global_batch_size != batch]
    if raised and not records_per_gpu:
        console.say(f"train.global_batch_size={batch} cannot be shared equally: forecast are {', '.join(raised)}")
    _print(chosen, by_stage, corpora=corpora, epochs=epochs)
    if plot is not None:
        from lamae.benchmarks.forecast.plot import save_plot

        save_plot(chosen, plot, title=f"{config} on {machine.name}, ZeRO {run.engine.zero_stage}")
    if json is not None:
        values = {
            "modelled": True,
            "config": config,
            "machine": asdict(machine) | {"passes": RING_PASSES},
            "records": corpora,
            "epochs": epochs,
            "plan": [one.to_dict(corpora, epochs) for one in chosen],
            "memory_by_stage": [one.to_dict(corpora, epochs) for pair in by_stage for one in pair],
            "ratios": {f"speedup_{one.gpus}_gpus": one.records_per_s / chosen[0].records_per_s for one in chosen},
        }
        files.write_json(json, values)


def _forecasts(
    shape: "ModelShape", machine: Machine, sizes: list[int], records_per_gpu: int | None
) -> tuple[list[tuple["Forecast", "Forecast"]], list["Forecast"]]:
    """At every ZeRO stage, without and with activation checkpointing; and as the run has it, by world size."""
    from lamae.benchmarks.forecast.forecast import forecast
    from lamae.train.schedule import plan_batch

    run = shape.run

    def of(size: int, stage: int, checkpointing: bool) -> "Forecast":
        wanted = records_per_gpu * size if records_per_gpu else run.train.global_batch_size
        shared = -(-wanted // size) * size  # the next that can be shared out equally
        batch = plan_batch(shared, micro_batch_size=run.train.micro_batch_size, world_size=size)
        return forecast(shape, machine, batch, zero_stage=stage, checkpointing=checkpointing)

    stages = range(run.engine.precision != "fp32", 4)
    by_stage = [(of(size, stage, False), of(size, stage, True)) for size in sizes for stage in stages]
    return by_stage, [of(size, run.engine.zero_stage, run.train.activation_checkpointing) for size in sizes]


def _print(
    chosen: list["Forecast"], by_stage: list[tuple["Forecast", "Forecast"]], *, corpora: list[int], epochs: float
) -> None:
    memory, steps, hours = [], [], []
    for one, checkpointed in by_stage:
        parts = ("weights", "gradients", "optimizer", "buffers", "activations")
        held = [f"{getattr(one.memory, part) / GIB:.2f}" for part in parts]
        held += [f"{each.memory.total / GIB:.2f}{'' if each.fits else ' !'}" for each in (one, checkpointed)]
        memory.append([f"{one.gpus}", f"{one.zero_stage}", f"{one.micro_batch_size}x{one.accumulation}", *held])
    for one in chosen:
        cells = [f"{seconds * 1e3:.2f}" for seconds in (one.step_s, *one.parts_s.values())]
        cells += [f"{rate:,.0f}" for rate in (one.records_per_s, one.loader_bytes_per_s_and_node / 1e6)]
        steps.append([f"{one.gpus}", f"{one.global_batch_size}", *cells, f"{one.checkpoint_s:.2g}", one.bottleneck])
        costs = [one.hours(records=records, epochs=epochs) for records in corpora]
        hours.append([f"{one.gpus}", *(f"{cost:,.2f} ({cost * one.gpus:,.0f})" for cost in costs)])
    heads = ["GPUs", "ZeRO", "micro", "weights", "grads", "optim", "bufs", "acts", "total", "ckpt"]
    title = "GiB per GPU at the peak, modelled; ckpt: with activation checkpointing; ! too much"
    console.print_table(title, heads, memory)
    heads = ["GPUs", "batch", "step", *chosen[0].parts_s, "records/s", "read MB/s", "save s", "bottleneck"]
    title = f"steps at ZeRO stage {chosen[0].zero_stage}, modelled: milliseconds, and what a node reads and saves"
    console.print_table(title, heads, steps)
    heads = ["GPUs", *(f"{records:,} records" for records in corpora)]
    console.print_table(f"hours (GPU-hours) of {epochs:g} epochs, modelled", heads, hours)


def _refuse_beside_validate(context: typer.Context) -> None:
    """Raises UsageError where options were given that choose a forecast, which --validate makes none of."""
    given = [name for name in context.params if _is_given(context, name) and name not in ("config", "validate", "json")]
    words = ["KEY=VALUE" if name == "overrides" else f"--{name.replace('_', '-')}" for name in given]
    if words:
        raise UsageError(f"{', '.join(words)}: --validate takes configurations of its own; leave out either")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _validate(json: Path | None) -> None:
    from lamae.benchmarks.forecast.validate import validate
    from lamae.benchmarks.result import describe_result, print_ratios, write_result

    console.hint("tiny and small as this machine can take them, whatever CONFIG is")
    with console.show_progress() as progress:
        result = {**describe_result("plan", quick=False), **validate(progress=progress)}
    print_ratios(result, note="forecast over measured, one thread per process, float32")
    if json is not None:
        write_result(result, json)
