"""The machinery that trains Learnable Token Merging models on a Ray cluster."""

__version__ = "0.2.0"
