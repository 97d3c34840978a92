"""What runs of this machine share, and whether the Ray that they need is still there."""
