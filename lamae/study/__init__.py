"""Controlled comparisons: what is compared on what, the runs, their judgement and its statistics."""
