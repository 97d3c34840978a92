"""The published table, and ours beside it."""

import pytest

import ltm


@pytest.mark.slow
def test_default_plans_meet_the_published_table() -> None:
    for row, base, merged in ltm.table():
        assert row.ours(merged) == pytest.approx(row.gmacs, rel=0.025), row
        assert row.ours(base) == pytest.approx(row.base_gmacs, rel=0.08), row
        # timm's Swin-T has 28.3 million parameters, whatever the paper rounds
        assert merged.params_m == pytest.approx(row.params_m, abs=0.75), row
        assert base.params_m < merged.params_m < base.params_m + 0.05
        assert merged.blocks["method"].gmacs < 0.02 * merged.gmacs
