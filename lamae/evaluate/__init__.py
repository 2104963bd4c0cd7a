"""Labels, embeddings, probe, compare: is the representation any good?"""
