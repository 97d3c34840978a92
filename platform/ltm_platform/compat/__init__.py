"""Private and unstable names of our dependencies, one file each; nobody else touches one."""
