"""Controlled comparisons: what is compared on what, the runs, their scores and its statistics."""
