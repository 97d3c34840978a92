"""What a forward pass did with tokens: maps, pictures of them, and how alike two networks are."""

from ltm.views.heatmaps import Heatmap, beside, heatmap
from ltm.views.maps import SiteMerge, merges

__all__ = ["Heatmap", "SiteMerge", "beside", "heatmap", "merges"]
