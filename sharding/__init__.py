"""ECG files on disk to WebDataset shard sets and back. Imports neither torch nor lamae: packing nodes have no GPU."""
