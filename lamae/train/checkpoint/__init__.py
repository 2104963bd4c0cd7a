"""Checkpoints: the format on disk, writing one from all ranks, resuming from one."""
