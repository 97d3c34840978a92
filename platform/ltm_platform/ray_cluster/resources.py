"""CPUs and GPUs to run on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources to use: a machine's, or a cluster's with all that its autoscaler may start."""

    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...] = ()
    """CPUs and GPUs of every node; a machine is one."""

    def room(self, cpus_per_worker: float) -> int:
        """How many workers fit, each on one node, with a GPU each where there are any."""
        nodes = self.nodes or ((self.cpus, self.gpus),)
        fits = [(int(cpus // cpus_per_worker), int(gpus)) for cpus, gpus in nodes]
        return sum(min(pair) if self.gpus >= 1 else pair[0] for pair in fits)

    def auto_workers(self, cpus_per_worker: float, gpus_per_worker: float = 1.0) -> int:
        """The number of workers for ``cluster.workers: auto``; one that shares its GPU is alone."""
        if self.gpus >= 1:
            return int(self.gpus) if gpus_per_worker == 1 else 1
        return min(2, int(self.cpus // cpus_per_worker)) or 1
