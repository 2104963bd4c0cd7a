"""What a run says before its first step."""

import logging
from types import SimpleNamespace

import pytest

from lamae.train.runconfig import load
from lamae.train.schedule import plan_batch
from lamae.train.start import announce
from lamae.train.state import TrainState


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        ([], []),
        (["mask.weights={random: 1.0}"], ["mask.weights"]),
        (["train.steps=5001"], ["optim.warmup_steps"]),
        (["train.steps=5002"], []),
        (["model.kind=joint", "model.scope=summary", "model.align_weight=3"], ["model.scope", "model.align_weight"]),
    ],
)
def test_options_that_do_nothing_are_warned_of(overrides: list[str], warned: list[str], caplog):
    config = load("configs/pretrain/small.yaml", ["run.dir=unused", "data.path=unused", *overrides])
    engine, inputs = SimpleNamespace(num_parameters=1), SimpleNamespace(rows=range(10_000), subjects=[0])
    plan = plan_batch(32, micro_batch_size=32, world_size=1)
    with caplog.at_level(logging.WARNING):
        announce(config, plan, engine, TrainState(), inputs)
    assert [record.getMessage().partition("=")[0] for record in caplog.records] == warned
