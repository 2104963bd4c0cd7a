"""Latent attention masked autoencoder for 12-lead ECG: data, model, training, evaluation, reports."""
