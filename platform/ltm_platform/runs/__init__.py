"""The life of a run, from its start to its end, and how it is found again."""
