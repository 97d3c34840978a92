"""What a run lacks that waits for its workers."""

from __future__ import annotations

from ltm_platform.ray_cluster.wait_callback import missing_resources


def test_what_lacks_first_is_told_with_what_is_free() -> None:
    needed = {"GPU": 8.0, "CPU": 16.0}
    assert missing_resources(needed, {"GPU": 8.0, "CPU": 16.0}) is None
    assert missing_resources(needed, {"GPU": 6.0, "CPU": 1.0}) == "8 GPUs: 6 are free now"
    assert missing_resources(needed, {"GPU": 8.0}) == "16 CPUs: 0 are free now"
