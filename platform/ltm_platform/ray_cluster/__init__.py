"""Where a run is carried out: a Ray on this machine, one that is joined, or a cluster."""
