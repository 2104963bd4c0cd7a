"""LAMAE and its baselines: masking, encoder, latent attention, decoder, loss."""
