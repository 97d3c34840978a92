"""The DeepSpeed engine of a rank: how it is built, and what of its state is stored."""
