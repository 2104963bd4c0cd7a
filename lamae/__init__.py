"""Latent attention masked autoencoder for 12-lead ECG: data, model, training, evaluation, reports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamae.evaluate.export.export import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # On first use only: most of the package must start without torch.
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lamae.evaluate.export.export import load

    return load
