"""Attention over the leads of a record, in several implementations behind one function."""

from lamae.kernels.dispatch import cross_lead_attention, sequence_attention

__all__ = ["cross_lead_attention", "sequence_attention"]
