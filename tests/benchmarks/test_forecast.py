"""The planner: what it counts is compared with torch, what it models against arithmetic and sense."""

import json
import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch

from lamae.benchmarks import rankstep
from lamae.benchmarks.forecast.engine import ENGINE_HOST_S, device_memory, step_traffic, update_bytes
from lamae.benchmarks.forecast.forecast import forecast
from lamae.benchmarks.forecast.machine import GPUS, Collective, Link, Machine, describe_machine
from lamae.benchmarks.forecast.model import ModelShape
from lamae.benchmarks.ranks import RankPool
from lamae.benchmarks.watch import Watch
from lamae.benchmarks.wire import sent_per_rank
from lamae.cli import app as cli
from lamae.model import build_model, layers
from lamae.model.flops import count_flops
from lamae.model.masking import draw_mask
from lamae.train.blocks import checkpoint_activations
from lamae.train.runconfig import load
from lamae.train.schedule import BatchPlan, plan_batch

H100 = describe_machine("h100", "ib-ndr", precision="bf16")


@pytest.fixture(autouse=True)
def torchs_own_linear(monkeypatch):
    """DeepSpeed's stage 3 replaces it for good in a process that has trained at it, as other tests do."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


def run_config(size="small", *overrides):
    return load(f"configs/pretrain/{size}.yaml", ["run.dir=unused", "data.path=unused", *overrides])


def weigh_real_micro_batch(run, *, checkpointing, records):
    """What torch's allocator counts in one real forward and backward pass: kept between them, and at the peak."""
    num_samples = run.signal.rate_hz * 10
    model = build_model(run.model, run.mask, num_samples=num_samples)
    if checkpointing:
        checkpoint_activations(model)
    row_B = torch.arange(records)
    lead_mask_BL = torch.ones(records, 12, dtype=torch.bool)
    mask = draw_mask(
        run.mask,
        seed=0,
        epoch_B=torch.zeros_like(row_B),
        row_B=row_B,
        lead_mask_BL=lead_mask_BL,
        num_patches=num_samples // run.model.patch_size,
    )
    x_BLT = torch.randn(records, 12, num_samples)
    valid_BLT = torch.ones_like(x_BLT, dtype=torch.bool)
    with torch.profiler.profile(profile_memory=True) as profiled:
        output = model(x_BLT, valid_BLT, lead_mask_BL, mask)
        with torch.profiler.record_function("between"):
            pass
        output.loss.backward()
    held = kept = peak = 0
    for event in sorted(_flatten(profiled.profiler.kineto_results.experimental_event_tree()), key=start_ns):
        if event.name == "between":
            kept = held
        elif hasattr(event.extra_fields, "alloc_size"):
            held += event.extra_fields.alloc_size
            peak = max(peak, held)
    return kept, peak


def start_ns(event):
    return event.start_time_ns


def _flatten(events):
    for event in events:
        yield event
        yield from _flatten(event.children)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_batch_on_the_meta_device_holds_what_a_real_one_holds(checkpointing):
    run = run_config("tiny", "engine.precision=fp32")
    micro = ModelShape.of(run).micro_batch(4, checkpointing=checkpointing)
    kept, peak = weigh_real_micro_batch(run, checkpointing=checkpointing, records=4)
    assert micro.kept_bytes == pytest.approx(kept, rel=0.02)
    assert peak - 4 * ModelShape.of(run).num_parameters < micro.peak_bytes <= 1.02 * peak
    assert micro.kept_bytes < micro.peak_bytes


def test_checkpointing_holds_less_and_moves_more():
    run = run_config("small")
    plain, checkpointed = (ModelShape.of(run).micro_batch(8, checkpointing=kept) for kept in (False, True))
    assert checkpointed.peak_bytes < plain.peak_bytes / 3
    assert checkpointed.moved_bytes > plain.moved_bytes
    assert checkpointed.operations > plain.operations


def test_bytes_moved_are_those_read_and_written_beside_products():
    x, y, weight = torch.ones(10, 4), torch.ones(4), torch.ones(4, 3)

    def count(work):
        with Watch() as watch:
            work()
        return watch.moved_bytes / 4, watch.operations

    # 40 floats and 4 in (the expanded ones are read once), 40 out; the product is not counted.
    assert count(lambda: (x + y.expand(10, 4)) @ weight) == (40 + 4 + 40, 2)
    assert count(lambda: x.view(4, 10).t()) == (0, 0)
    assert count(lambda: torch.empty(1000)) == (0, 0)
    # A batch of products reshapes what it gave without touching it: _unsafe_view.
    assert count(lambda: torch.ops.aten._unsafe_view(x, [4, 10])) == (0, 0)
    # What is copied over is written, what is changed in place is read too.
    assert count(lambda: x.copy_(y.expand(10, 4))) == (40 + 4, 1)
    assert count(lambda: x.mul_(2)) == (40 + 40, 1)


def test_parameters_are_counted_without_allocating_them():
    run = run_config("tiny")
    model = build_model(run.model, run.mask, num_samples=1000)
    shape = ModelShape.of(run)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.num_tensors == len(list(model.parameters()))


def test_what_is_counted_is_of_the_inputs_length():
    run = run_config("tiny", "signal.seconds=2.5")
    shape = ModelShape.of(run)
    assert shape.flops == count_flops(run.model, run.mask, num_samples=250)
    assert shape.micro_batch(4).kept_bytes < ModelShape.of(run_config("tiny")).micro_batch(4).kept_bytes / 3


@pytest.mark.parametrize(
    ("operation", "sent"), [("all_reduce", 1.5), ("all_gather", 0.75), ("reduce_scatter", 0.75), ("reduce", 0.75)]
)
def test_ring_algorithms_send_their_textbook_share(operation, sent):
    assert sent_per_rank(operation, 100, 4) == 100 * sent
    assert sent_per_rank(operation, 100, 1) == 0


def test_an_all_reduce_inside_a_node_follows_the_ring():
    machine = replace(H100, in_node=Link(1e9, 1e-6), between_nodes=Link(1e6, 1.0))
    seconds = machine.collective_s(Collective("all_reduce", 1e9, 1), world_size=4)
    assert seconds == pytest.approx(2 * (3 * 1e-6 + 0.75))


def test_between_nodes_each_device_carries_its_share():
    machine = replace(H100, in_node=Link(1e15, 0.0), between_nodes=Link(1e9, 0.0))
    seconds = machine.collective_s(Collective("all_gather", 8e9, 1), world_size=16)
    assert seconds == pytest.approx(8 / 8 * (2 - 1) / 2, rel=1e-3)


def test_accumulation_costs_traffic_at_the_stages_that_reduce_every_micro_batch():
    shape = replace(ModelShape.of(run_config()), num_parameters=1000, num_tensors=10)

    def sent(stage, accumulation):
        traffic = step_traffic(shape, BatchPlan(2, accumulation, micro=1), zero_stage=stage)
        return sum(one.num_bytes for one in traffic)

    assert [sent(stage, 1) for stage in (1, 2, 3)] == [6000, 6000, 6000]
    assert [sent(stage, 4) for stage in (1, 2, 3)] == [6000, 18000, 18000]


def test_reducing_to_owners_halves_the_gradients_bytes_for_many_more_calls():
    def gradients(all_reduces):
        option = f"engine.deepspeed.zero_optimization.use_multi_rank_bucket_allreduce={all_reduces}"
        shape = replace(ModelShape.of(run_config("small", option)), num_parameters=120_000_000, num_tensors=10)
        traffic = step_traffic(shape, BatchPlan(64, accumulation=1, micro=1), zero_stage=1)
        return traffic[0], sent_per_rank(traffic[0].operation, traffic[0].num_bytes, 64)

    (everyone, sent), (owners, sent_to_owners) = gradients(True), gradients(False)
    assert (everyone.operation, everyone.calls) == ("all_reduce", 3)
    assert (owners.operation, owners.calls) == ("reduce", 66)
    assert sent_to_owners == sent / 2


# What a step of ``small`` was seen to hold at DeepSpeed 0.19.8 (MiB; 19.14 M parameters, fp32, 4 records each), with
# every tensor in memory pages of its own. Largest moment, written pages alone: see benchmarks/forecast/engine.py.
SEEN_MIB = {(0, 1): 841, (1, 1): 908, (2, 1): 908, (3, 1): 1055, (0, 2): 842, (1, 2): 798, (2, 2): 798, (3, 2): 1011}


@pytest.mark.parametrize(("stage", "world_size"), SEEN_MIB)
def test_memory_is_what_was_seen(stage, world_size):
    run = run_config("small", "engine.precision=fp32")
    batch = plan_batch(4 * world_size, micro_batch_size=4, world_size=world_size)
    moments = device_memory(ModelShape.of(run), batch, zero_stage=stage, checkpointing=False)
    assert max(memory.written for memory in moments) / 2**20 == pytest.approx(SEEN_MIB[stage, world_size], rel=0.15)


def test_memory_by_hand():
    """Stage 1, bf16, 8 ranks, 2 micro-batches: 2 P weights, 2 P accumulated gradients, 12 P / 8 master and moments."""
    run = run_config("small")
    shape = ModelShape.of(run)
    batch = plan_batch(128, micro_batch_size=8, world_size=8)
    backward = device_memory(shape, batch, zero_stage=1, checkpointing=False)[0]
    num = shape.num_parameters
    assert (backward.weights, backward.gradients, backward.optimizer) == (2 * num, 2 * num, 1.5 * num)
    assert backward.buffers == 2 * 50_000_000
    assert backward.activations == ModelShape.of(run).micro_batch(8, checkpointing=False).peak_bytes


def test_a_forecast_by_hand():
    """One device with round rates: every part of a step is its amount over its rate."""
    run = run_config("tiny", "engine.precision=fp32", "train.global_batch_size=8", "train.micro_batch_size=4")
    shape = ModelShape.of(run)
    machine = Machine(
        name="round",
        flops_per_s=1e9,
        memory_bytes=1e12,
        memory_bytes_per_s=1e6,
        stream_bytes_per_s=2e6,
        host_bytes_per_s=1e7,
        launch_s=1e-3,
        host_is_device=True,
        devices_per_node=1,
        in_node=Link(1e15, 0.0),
        between_nodes=Link(1e15, 0.0),
        storage_bytes_per_s=1e6,
    )
    batch = plan_batch(8, micro_batch_size=4, world_size=1)
    one = forecast(shape, machine, batch, zero_stage=0, checkpointing=False)
    micro = ModelShape.of(run).micro_batch(4, checkpointing=False)
    assert one.parts_s == {
        "products": pytest.approx(8 * shape.flops.training / 1e9),
        "memory traffic": pytest.approx(2 * micro.moved_bytes / 1e6),
        "update": pytest.approx((68 + 12) * shape.num_parameters / 2e6),
        "host": pytest.approx(2 * micro.operations * 1e-3 + shape.num_tensors * sum(ENGINE_HOST_S[0])),
        "network": 0,
    }
    assert one.step_s == pytest.approx(sum(one.parts_s.values()))
    assert one.reading_s == pytest.approx(8 * 120_128 / 1e6)
    assert one.checkpoint_s == pytest.approx(12 * shape.num_parameters / 1e6)
    assert one.snapshot_s == pytest.approx(12 * shape.num_parameters / 1e7)
    assert one.hours(records=800_035, epochs=10) == pytest.approx(800_035 * 10 / 8 * one.step_s / 3600)


def test_a_host_that_issues_to_a_device_costs_only_what_the_device_does_not_hide():
    run = run_config("tiny")
    shape, batch = ModelShape.of(run), plan_batch(1024, micro_batch_size=1, world_size=1024)
    parts = forecast(shape, H100, batch, zero_stage=1, checkpointing=False).parts_s
    issued = shape.micro_batch(1, checkpointing=False).operations * H100.launch_s
    issued += shape.num_tensors * ENGINE_HOST_S[1][0]
    assert parts["host"] == pytest.approx(issued - parts["products"] - parts["memory traffic"] - parts["update"])
    busy = replace(H100, flops_per_s=1e9)
    assert forecast(shape, busy, batch, zero_stage=1, checkpointing=False).parts_s["host"] == 0


@pytest.fixture(scope="module")
def pools():
    with RankPool(1, pin=False, use_gpus=False) as one, RankPool(2, pin=False, use_gpus=False) as two:
        yield {1: one, 2: two}


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 2)])
@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]
)
def test_deepspeeds_own_passes_are_what_it_makes(stage, precision, world_size, accumulation, pools):
    """Bytes of a real step of one and two ranks, without those of the model, which are traced."""
    pool, num_records = pools[world_size], 2 * world_size * accumulation
    overrides = [
        f"engine.zero_stage={stage}",
        f"engine.precision={precision}",
        f"train.global_batch_size={num_records}",
        "train.micro_batch_size=2",
    ]
    pool.call(rankstep.open_steps, config="configs/pretrain/tiny.yaml", overrides=overrides)
    pool.call(rankstep.time_steps, num_steps=1)
    moved = max(pool.call(count_step))
    pool.call(rankstep.close_steps)
    run = run_config("tiny", *overrides)
    shape, batch = ModelShape.of(run), plan_batch(num_records, micro_batch_size=2, world_size=world_size)
    own = moved - accumulation * ModelShape.of(run).micro_batch(2, checkpointing=False).moved_bytes
    assert own == pytest.approx(update_bytes(shape, batch, zero_stage=stage), rel=0.15)


def count_step(session):
    # The model as an accelerator has it, which is what is traced: in bf16 on a CPU norms make passes of their own.
    with mock.patch.object(layers, "sums_narrowly", return_value=False), Watch() as watch:
        session["steps"].take_one()
    return watch.moved_bytes


def forecast_of(run, world_size, *, stage=1, checkpointing=False, storage=1e15, interconnect="ib-ndr"):
    machine = describe_machine("h100", interconnect, precision="bf16", storage=storage)
    batch = plan_batch(run.train.global_batch_size, micro_batch_size=run.train.micro_batch_size, world_size=world_size)
    return forecast(ModelShape.of(run), machine, batch, zero_stage=stage, checkpointing=checkpointing)


def test_states_shrink_with_the_stage_and_with_the_world():
    run = run_config("small", "train.global_batch_size=2048")  # several micro-batches on few devices

    def states(world_size, stage):
        memory = forecast_of(run, world_size, stage=stage).memory
        return memory.weights + memory.gradients + memory.optimizer

    assert states(8, 1) > states(8, 2)
    assert states(1024, 2) < states(8, 2)
    checkpointed = forecast_of(run, 8, checkpointing=True)
    assert checkpointed.memory.total < forecast_of(run, 8).memory.total / 2
    assert checkpointed.step_s > forecast_of(run, 8).step_s


def test_more_devices_are_never_more_efficient_and_the_bottleneck_moves_to_the_network():
    run = run_config("large")
    forecasts = [forecast_of(run, size, stage=2) for size in (8, 64, 512)]
    per_device = [one.records_per_s / one.gpus for one in forecasts]
    assert per_device == sorted(per_device, reverse=True)
    assert forecasts[0].bottleneck == "products"
    assert forecast_of(run, 512, stage=2, interconnect="ethernet-25-shared8").bottleneck == "network"


def test_slow_storage_and_little_memory_are_named_first():
    run = run_config("small")
    slow = forecast_of(run, 8, storage=1e7)
    assert slow.bottleneck == "storage"
    assert slow.loader_bytes_per_s_and_node == pytest.approx(1e7)
    huge = run_config("large", "train.global_batch_size=8192", "train.micro_batch_size=1024")
    crowded = forecast_of(huge, 8)
    assert not crowded.fits
    assert crowded.bottleneck.startswith("memory")


def test_the_verb_marks_its_numbers_as_modelled(tmp_path, monkeypatch, capsys):
    path, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    arguments = ["plan", "configs/pretrain/small.yaml", "--gpus", "8,1024", "--json", str(path), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["lamae", *arguments])
    monkeypatch.setattr(cli.console, "console", cli.console.Console(width=200))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    printed = capsys.readouterr().out
    assert printed.count("modelled") >= 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = json.loads(path.read_text())
    assert result["modelled"] is True
    assert [row["gpus"] for row in result["plan"]] == [8, 1024]
    # 1,024 devices need a global batch of at least 1,024: the config's 256 is raised to it.
    assert [row["global_batch_size"] for row in result["plan"]] == [256, 1024]
    assert all(row["step_s"] > 0 and row["gpu_hours"]["800035"] > 0 for row in result["plan"])
    assert {row["zero_stage"] for row in result["memory_by_stage"]} == {1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "tpu"], f"--gpu tpu: the table holds {next(iter(GPUS))}"),
        (["--interconnect", "string"], "--interconnect string: the table holds"),
        (["--gpus", "8,x"], "--gpus 8,x: whole numbers"),
        (["--records", "0"], "--records 0: whole numbers"),
        (["--epochs", "0"], "--epochs 0: above 0"),
        (["--epochs", "nan"], "--epochs nan: above 0"),
        (["--storage-gb-per-s", "nan"], "--storage-gb-per-s nan: above 0"),
        (["--storage-gb-per-s", "inf"], "--storage-gb-per-s inf: above 0 and finite"),
        (["--storage-gb-per-s", "0"], "--storage-gb-per-s 0: above 0"),
        (["--records-per-gpu", "-1"], "--records-per-gpu -1: above 0"),
        (["--gpus-per-node", "0"], "--gpus-per-node 0: at least 1"),
        (["--plot", "plan.jpg"], "--plot plan.jpg: end it in one of .png, .svg, .pdf"),
        (["modell.width=3"], "unknown key modell"),
        (["--validate", "train.steps=3"], "KEY=VALUE: --validate takes configurations of its own; leave out either"),
        (["--validate", "--gpus", "8", "--plot", "p.png"], "--gpus, --plot: --validate takes"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lamae", "plan", "configs/pretrain/tiny.yaml", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
