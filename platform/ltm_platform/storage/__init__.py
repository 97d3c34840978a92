"""Where things are kept, here or in an object store: runs, their checkpoints, the files in them."""
