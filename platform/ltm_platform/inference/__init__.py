"""What stored weights are good for: `export` them, `predict` with them."""
