"""Patches, masking, encoder, latent attention, decoder: LAMAE and its baselines from the same parts."""
