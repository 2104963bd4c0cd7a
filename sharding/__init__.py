"""ECG files on disk to WebDataset shard sets and back. Imports no torch, and of lamae only lamae.base."""
