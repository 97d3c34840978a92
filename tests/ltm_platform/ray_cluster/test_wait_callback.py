"""What a run lacks that waits for its workers."""

from __future__ import annotations

from ltm_platform.ray_cluster.wait_callback import missing_resources, missing_type


def test_what_lacks_first_is_told_with_what_is_free() -> None:
    needed = {"GPU": 8.0, "CPU": 16.0}
    assert missing_resources(needed, {"GPU": 8.0, "CPU": 16.0}) is None
    assert missing_resources(needed, {"GPU": 6.0, "CPU": 1.0}) == "8 GPUs: 6 are free now"
    assert missing_resources(needed, {"GPU": 8.0}) == "16 CPUs: 0 are free now"


def test_a_type_of_gpu_that_no_node_has_is_waited_for() -> None:
    there = {"GPU": 2.0, "accelerator_type:A100": 1.0}
    assert missing_type(None, there) is None
    assert missing_type("A100", there) is None
    lacking = missing_type("H100", there)
    assert lacking == "a node with GPUs of the type H100: none is there now"
