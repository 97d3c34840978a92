"""Uses of stored weights: `evaluate`, `predict` and `export`."""
