"""Embeddings of a shard set from a checkpoint, or brought from elsewhere."""
