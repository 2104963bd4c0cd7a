"""Synthetic 12-lead ECGs in the exact layout of MIMIC-IV-ECG, with diagnoses that the waveforms show.

The model, its sources and how close it comes to real recordings: ``docs/synth.md``.
"""

from lamae.sharding.synth.generate import synthesize

__all__ = ["synthesize"]
