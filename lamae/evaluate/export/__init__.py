"""A pretrained model as one folder that loads anywhere."""
