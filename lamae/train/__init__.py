"""Pretraining: loop, engine, checkpoints, monitor."""
