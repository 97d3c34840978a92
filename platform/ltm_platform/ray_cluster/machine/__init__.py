"""What Rays of this machine share: its CPUs and GPUs, and the folder of their logs."""
