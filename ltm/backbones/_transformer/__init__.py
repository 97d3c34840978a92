"""Blocks of transformers that methods look into, and in which tokens merge."""
