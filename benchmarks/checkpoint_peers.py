"""The same tensors saved and read by what others use: torch.save, safetensors, torch.distributed.checkpoint.

All are made durable by fsync as ours are. None but ours reads back what it wrote against a hash.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor

from lamae.base.files import sync

PEERS = ("torch", "safetensors", "dcp")


def checkpoint_peers(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Callable[[], float]]:
    """``NAME save`` and ``NAME read`` of each peer, in this order; each call gives the number of bytes."""
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    num_bytes = float(sum(tensor.nbytes for tensor in state.values()))
    pickled, safe, distributed = folder / "torch.pt", folder / "peer.safetensors", folder / "dcp"

    def torch_save() -> None:
        torch.save(state, pickled)
        sync(pickled)

    def safetensors_save() -> None:
        save_file(state, safe)
        sync(safe)

    def safetensors_read() -> None:
        for tensor in load_file(safe).values():  # mapped, and so not read yet
            tensor.clone()

    def dcp_save() -> None:
        # sync_files: the only one of them that calls fsync by itself.
        dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(distributed, overwrite=True, sync_files=True))

    def dcp_read() -> None:
        dcp.load({name: torch.empty_like(tensor) for name, tensor in state.items()}, checkpoint_id=distributed)

    actions: dict[str, Callable[[], object]] = {
        "torch save": torch_save,
        "torch read": lambda: torch.load(pickled, weights_only=True),
        "safetensors save": safetensors_save,
        "safetensors read": safetensors_read,
        "dcp save": dcp_save,
        "dcp read": dcp_read,
    }

    def measured(action: Callable[[], object]) -> Callable[[], float]:
        def call() -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of dcp: that one process is not distributed
                action()
            return num_bytes

        return call

    return {name: measured(action) for name, action in actions.items()}
