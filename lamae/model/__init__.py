"""LAMAE and its baselines: masking, encoder, latent attention, decoder, loss.

The model's names are loaded when they are first used: reading a configuration must not import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamae.model.pretrain import Embedding, PretrainModel, PretrainOutput, build_model

__all__ = ["Embedding", "PretrainModel", "PretrainOutput", "build_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lamae.model import pretrain

    return getattr(pretrain, name)
