"""Which channels and weights stay."""
