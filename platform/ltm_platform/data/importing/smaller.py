"""Pictures made smaller when they are imported: read faster, but no longer as they were."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

from PIL import Image, ImageOps

from ltm_platform.compat.image_loader.pixels import orientation


@dataclass(frozen=True, slots=True)
class Smaller:
    """The shorter side of every larger picture becomes ``short_side`` pixels, by Lanczos; it is
    stored as JPEG of ``quality``. Others keep their bytes."""

    short_side: int
    quality: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def apply(self, data: bytes) -> bytes | None:
        """The smaller picture, upright; None where it is small enough, or no 8-bit RGB or grey
        without transparency, of which a JPEG would lose something else."""
        with Image.open(io.BytesIO(data)) as image:
            if min(image.size) <= self.short_side:
                return None
            if image.mode not in ("RGB", "L") or image.has_transparency_data:
                return None
            profile = image.info.get("icc_profile")
            turned = orientation(image) != 1
            # libjpeg scales by a power of two first where that leaves enough for the filter.
            gap = [side * 2 * self.short_side // min(image.size) for side in image.size]
            if not turned:
                image.draft(image.mode, (gap[0], gap[1]))
            upright = ImageOps.exif_transpose(image) if turned else image
            share = self.short_side / min(upright.size)
            width, height = (max(self.short_side, round(side * share)) for side in upright.size)
            smaller = upright.resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        smaller.save(file, "JPEG", quality=self.quality, icc_profile=profile)
        return file.getvalue()
