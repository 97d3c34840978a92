"""What a terminal shows of a run, a sweep and a table."""
