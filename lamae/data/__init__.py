"""Shard set to batches: global order, ring loader, on-device transforms."""
