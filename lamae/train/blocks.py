"""What may be done to the transformer blocks of a model without changing what they compute."""

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from lamae.base.errors import UsageError
from lamae.model.layers import Block


def transformer_blocks(model: nn.Module) -> Iterator[Block]:
    """Every block of a model once, however often it is used."""
    return (module for module in model.modules() if isinstance(module, Block))


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the blocks' inputs in the forward pass and recompute the rest in the backward pass.

    Non-reentrant: the recomputation runs inside the backward of the block itself, so hooks on parameters fire once.
    """
    for block in transformer_blocks(model):
        # A block draws no random numbers, so none have to be replayed.
        block.forward = partial(  # type: ignore[method-assign]
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )


def compile_blocks(model: nn.Module) -> None:
    """Run torch.compile on each block, in place; blocks of the same shape share the compiled code.

    Raises UsageError where the machine has no C++ compiler, which the generated code needs.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UsageError(
            "train.compile=blocks needs a C++ compiler, and none was found: install g++, name yours in CXX, or set "
            "train.compile=off"
        ) from None
    for block in transformer_blocks(model):
        block.compile(dynamic=False)
