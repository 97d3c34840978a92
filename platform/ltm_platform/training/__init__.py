"""What each Ray worker runs."""
