"""What there is: the networks of the published table, and which method runs on which family."""
