"""Complete, named runs and cluster profiles (YAML)."""
