"""The Ray that a run uses: one on this machine, one that is joined, or a cluster."""
