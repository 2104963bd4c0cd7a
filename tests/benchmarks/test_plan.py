"""The planner: what it counts is held against torch, what it models against arithmetic and sense."""

import json
import sys

import pytest
import torch

from benchmarks.plan.forecast import forecast
from benchmarks.plan.hardware import GPUS
from benchmarks.plan.machine import describe_machine
from benchmarks.plan.network import Topology, collective_s
from benchmarks.plan.shape import model_shape
from benchmarks.plan.traffic import Collective, step_traffic
from benchmarks.wire import sent_per_rank
from lamae import cli
from lamae.config import load
from lamae.model import build_model
from lamae.model.masking import draw_mask
from lamae.train.blocks import checkpoint_activations
from lamae.train.schedule import plan_batch


def run_config(size="small", *overrides):
    return load(f"configs/pretrain/{size}.yaml", ["run.dir=unused", "data.path=unused", *overrides])


def saved_bytes(run, *, checkpointing, records):
    """Bytes of distinct storages that autograd keeps from a forward pass, weights left out."""
    num_samples = run.signal.rate_hz * 10
    torch.manual_seed(0)
    model = build_model(run.model, run.mask, num_samples=num_samples)
    if checkpointing:
        checkpoint_activations(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x_BLT = torch.randn(records, 12, num_samples)
    lead_mask_BL = torch.ones(records, 12, dtype=torch.bool)
    row_B = torch.arange(records)
    mask = draw_mask(
        run.mask,
        seed=0,
        epoch_B=torch.zeros_like(row_B),
        row_B=row_B,
        lead_mask_BL=lead_mask_BL,
        num_patches=num_samples // run.model.patch_size,
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x_BLT, torch.ones_like(x_BLT, dtype=torch.bool), lead_mask_BL, mask)
    del output
    return sum(kept.values())


def test_activations_are_what_autograd_keeps():
    run = run_config("small", "engine.precision=fp32", "model.depth=4")
    shape = model_shape(run)
    assert shape.activation_bytes == pytest.approx(saved_bytes(run, checkpointing=False, records=1), rel=0.3)
    # The most that is held with checkpointing is the inputs of all blocks and the inside of one.
    inputs = saved_bytes(run, checkpointing=True, records=1)
    assert inputs < shape.checkpointed_bytes < shape.activation_bytes / 2


def test_parameters_are_counted_without_allocating_them():
    run = run_config("tiny")
    model = build_model(run.model, run.mask, num_samples=1000)
    shape = model_shape(run)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.num_tensors == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("operation", "sent"), [("all_reduce", 1.5), ("all_gather", 0.75), ("reduce_scatter", 0.75), ("broadcast", 1.0)]
)
def test_ring_algorithms_send_their_textbook_share(operation, sent):
    assert sent_per_rank(operation, 100, 4) == 100 * sent
    assert sent_per_rank(operation, 100, 1) == 0


def test_an_all_reduce_inside_a_node_follows_the_ring():
    topology = Topology(4, 8, 1e9, 1e-6, 1e6, 1.0)
    seconds = collective_s(Collective("all_reduce", 1e9, 1), topology)
    assert seconds == pytest.approx(2 * (3 * 1e-6 + 0.75))


def test_between_nodes_each_device_carries_its_share():
    topology = Topology(16, 8, 1e15, 0.0, 1e9, 0.0)
    seconds = collective_s(Collective("all_gather", 8e9, 1), topology)
    assert seconds == pytest.approx(8 / 8 * (2 - 1) / 2, rel=1e-3)


def test_accumulation_costs_traffic_at_the_stages_that_reduce_every_micro_batch():
    def sent(stage, accumulation):
        traffic = step_traffic(
            zero_stage=stage, precision="bf16", num_parameters=1000, num_tensors=10, accumulation=accumulation
        )
        return sum(one.num_bytes for one in traffic)

    assert [sent(stage, 1) for stage in (1, 2, 3)] == [6000, 6000, 6000]
    assert [sent(stage, 4) for stage in (1, 2, 3)] == [6000, 18000, 18000]


def forecast_of(run, world_size, *, stage=1, checkpointing=False, storage=1e15, interconnect="ib-ndr"):
    machine = describe_machine("h100", interconnect, precision="bf16", storage_bytes_per_s=storage)
    batch = plan_batch(run.train.global_batch_size, micro_batch_size=run.train.micro_batch_size, world_size=world_size)
    return forecast(model_shape(run), machine, batch, zero_stage=stage, precision="bf16", checkpointing=checkpointing)


def test_states_shrink_with_the_stage_and_with_the_world():
    run = run_config("large")
    states = [forecast_of(run, 64, stage=stage).memory.states for stage in (1, 2)]
    assert states[0] > states[1]
    assert forecast_of(run, 1024, stage=2).memory.states < forecast_of(run, 8, stage=2).memory.states
    small = forecast_of(run, 8, checkpointing=True)
    assert small.memory.total < forecast_of(run, 8).memory.total / 2
    assert small.step_s > forecast_of(run, 8).step_s


def test_more_devices_are_never_more_efficient_and_the_bottleneck_moves_to_the_network():
    run = run_config("large")
    forecasts = [forecast_of(run, size, stage=2) for size in (8, 64, 512)]
    per_device = [one.records_per_s / one.world_size for one in forecasts]
    assert per_device == sorted(per_device, reverse=True)
    assert forecasts[0].bottleneck == "products"
    assert forecast_of(run, 512, stage=2, interconnect="ethernet-25-shared8").bottleneck == "network"


def test_slow_storage_and_little_memory_are_named_first():
    run = run_config("small")
    slow = forecast_of(run, 8, storage=1e7)
    assert slow.bottleneck == "storage"
    assert slow.loader_bytes_per_s == pytest.approx(1e7)
    huge = run_config("large", "train.global_batch_size=8192", "train.micro_batch_size=1024")
    crowded = forecast_of(huge, 8)
    assert not crowded.fits
    assert crowded.bottleneck.startswith("memory")


def test_the_verb_marks_its_numbers_as_modelled(tmp_path, monkeypatch, capsys):
    path = tmp_path / "plan.json"
    arguments = ["plan", "configs/pretrain/small.yaml", "--gpus", "8,1024", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["lamae", *arguments])
    monkeypatch.setattr(cli.console, "console", cli.console.Console(width=200))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    printed = capsys.readouterr().out
    assert printed.count("modelled") >= 3
    result = json.loads(path.read_text())
    assert result["modelled"] is True
    assert [row["gpus"] for row in result["plan"]] == [8, 1024]
    # 1,024 devices need a global batch of at least 1,024: the config's 256 is raised to it.
    assert [row["global_batch_size"] for row in result["plan"]] == [256, 1024]
    assert all(row["step_s"] > 0 and row["gpu_hours"] > 0 for row in result["plan"])
    assert {row["zero_stage"] for row in result["memory_by_stage"]} == {1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "tpu"], f"--gpu tpu: the table holds {next(iter(GPUS))}"),
        (["--interconnect", "string"], "--interconnect string: the table holds"),
        (["--gpus", "8,x"], "--gpus 8,x: whole numbers"),
        (["modell.width=3"], "unknown key modell"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lamae", "plan", "configs/pretrain/tiny.yaml", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
