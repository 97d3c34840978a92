"""Methods by name, and their options."""

from typing import Any

import pytest

import ltm

TINY = "vit_nano_patch4_32"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": -1}, "'r' is -1"),
        ({"r": [1, 2]}, "list of 2 numbers, allowed is one for each of the 4 blocks"),
        ({"r": 4, "compression_ratio": 0.5}, "'r' is given beside compression_ratio"),
        ({"r": 4, "target_gmacs": 0.01}, "'r' is given beside target_gmacs"),
        ({"schedule": "rising"}, "constant, decreasing"),
        ({"method": "tofu", "prune_blocks": 5}, "from 0 to 4"),
        ({"method": "pitome", "margin": -1}, "'margin' is -1"),
        ({"method": "cubistmerge", "plan": {"blocks.0": 40}}, "1 x 1 to 8 x 8"),
        ({"method": "spvit", "heads": 7}, "divides 64 channels"),
        ({"method": "dtem", "dim": 0}, "'dim' is 0"),
    ],
)
def test_what_is_not_possible_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(TINY, **{"method": "tome", **options})


def test_r_is_refused_where_a_grid_stays() -> None:
    with pytest.raises(ValueError, match="a grid stays here"):
        ltm.create_model("mobilevit_xxs", "tome", r=4)
