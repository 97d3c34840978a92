"""Uses of stored weights: `evaluate`, `predict`, `analyse` and `export`."""
