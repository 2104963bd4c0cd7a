"""What a run records while it trains: metrics, TensorBoard events, rates, health, profiles, its log."""
