"""AdamW and which parameters it decays."""

from collections.abc import Callable

import torch
from torch import nn

from lamae.train.config import OptimConfig

DECAYED_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay acts on: the weights of linear and convolution layers.

    Norms, biases, tokens and embeddings are left alone: they are scales and offsets, which decay would pull together.
    """
    return {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, layer in model.named_modules()
        if isinstance(layer, DECAYED_LAYERS) and layer.weight.requires_grad
    }


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """torch's fused AdamW over a decayed and an undecayed group, in that order; an empty group is left out.

    Each group remembers under ``decays`` whether the scheduled weight decay applies to it, and under ``lr_scale`` what
    the scheduled learning rate is multiplied by. A model with a method ``lr_scale(name)`` gets one such pair of groups
    per scale, the largest first.
    """
    decayed = decayed_names(model)
    scale_of: Callable[[str], float] = getattr(model, "lr_scale", lambda name: 1.0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scale_of(name), name in decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "decays": decays,
                "lr_scale": scale,
                "lr": config.lr * scale,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (scale, decays), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
