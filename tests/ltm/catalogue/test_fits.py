"""Which method runs on which family."""

import pytest

from ltm.catalogue.fits import FAMILIES, Fit, fit, rule

VIT, SWIN = (FAMILIES[family] for family in ("plain ViT", "Swin"))


@pytest.mark.parametrize(
    ("method", "on_swin"), [("tome", "ours"), ("ltm", "published"), ("s2vite", "refused")]
)
def test_a_method_is_published_or_ours_or_refused(method: str, on_swin: str) -> None:
    assert fit(method, *VIT) == Fit(method, VIT[0], "published")
    found = fit(method, *SWIN)
    assert found.rule == on_swin
    assert bool(found.why) == (on_swin == "refused")


def test_what_is_removed_on_a_family_of_convolutions_is_ours() -> None:
    assert rule("savit", "mobilevit_xxs") == "ours"
    assert rule("savit", "vit_s") == "published"
