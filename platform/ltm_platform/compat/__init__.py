"""Private and unstable names of our dependencies, one file each; no other package touches one."""
