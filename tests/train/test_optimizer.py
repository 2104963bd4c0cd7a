"""Which parameters decay."""

import torch
from torch import nn

from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.pretrain import build_model
from lamae.train.config import OptimConfig
from lamae.train.optimizer import build_optimizer, decayed_names

NORM_PARTS = ("weight", "bias")


def test_only_weights_of_linear_layers_decay_in_the_model() -> None:
    sizes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 8, "decoder_heads": 2, "patch_size": 50}
    model = build_model(ModelConfig(**sizes), MaskConfig(), num_samples=500)
    decayed = decayed_names(model)
    parameters = dict(model.named_parameters())
    assert decayed
    assert all(name.endswith(".weight") and parameters[name].ndim == 2 for name in decayed)
    undecayed = parameters.keys() - decayed
    norms = {
        f"{name}.{part}" for name, m in model.named_modules() if isinstance(m, nn.LayerNorm) for part in NORM_PARTS
    }
    assert norms <= undecayed
    # Every matrix is either decayed or a table of leads.
    tables = {name for name in undecayed if parameters[name].ndim == 2}
    assert {"encoder.lead", "decoder.lead", "decoder.lead_scale"} == tables
    assert not any(name.endswith(".weight") for name in tables), tables


def test_groups_hold_each_parameter_once_and_say_whether_they_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(2, 4))
    model[0].weight.requires_grad_(True)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3))
    decayed, undecayed = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert decayed["weight_decay"] == 0.3
    assert len(undecayed["params"]) == 4
    assert undecayed["weight_decay"] == 0.0


def test_an_empty_group_is_left_out() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    assert [group["decays"] for group in build_optimizer(Bare(), OptimConfig()).param_groups] == [False]
