"""The verbs of lamae on SLURM."""
