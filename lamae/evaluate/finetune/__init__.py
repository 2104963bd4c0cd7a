"""Fine-tuning a pretrained encoder on labels."""
