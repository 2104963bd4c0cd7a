"""Which implementation of attention runs, and why."""

import functools
import logging

from torch import Tensor

from lamae.kernels.eager import eager_attention

log = logging.getLogger(__name__)


def cross_lead_attention(qkv: Tensor, lead_mask: Tensor | None = None, *, implementation: str | None = None) -> Tensor:
    """Attention among the leads of each group: very short sequences, very many of them.

    Args:
        qkv: ``[G…, L, 3, H, D]``: packed query, key and value of every lead, any strides.
        lead_mask: bool, broadcastable to ``[G…, L]``; False for a lead that is not there.
        implementation: eager, or None to choose by device.

    Returns:
        ``[G…, L, H, D]``, zero in groups without any lead.
    """
    _log_choice(implementation or "eager", qkv.device.type)
    return eager_attention(qkv, lead_mask)


def sequence_attention(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention within longer sequences (the tokens of a lead, or of a record); arguments as above."""
    return eager_attention(qkv, mask)


@functools.cache
def _log_choice(implementation: str, device: str) -> None:
    log.info("cross-lead attention: %s on %s", implementation, device)
