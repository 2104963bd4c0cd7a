"""Linear probes on embeddings, their metrics and intervals."""
