"""Storage, local or in an object store: runs, their checkpoints, the files in them."""
