from __future__ import annotations

import io
import random

import numpy as np
import torch
from PIL import Image

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.decode import decode_rgb, seed_everything
from ltm_platform.data.pixels.exact import ExactEvaluation, ExactTraining
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.pixels.sample import collect
from ltm_platform.data.transforms import Augmentation, eval_transform

from ..test_transforms import timms_own
from .test_fast import MEAN, RULE, SIZE, STD, files, sample


def test_what_reaches_the_network_is_timms_bit_for_bit() -> None:
    """Though the last two steps are done where the network is."""
    augment = Augmentation(auto_augment="rand-m5-n2-inc1", random_erasing=0.5)
    pipeline = ExactTraining(augment, SIZE, MEAN, resize="pillow")
    timms = timms_own(augment, SIZE)
    for number in range(12):
        for data in files():
            out, change = sample(pipeline, data, number)
            after = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
            seed_everything(7, 0, number)
            expected = timms(decode_rgb(data, RULE))
            # and nothing else was drawn
            assert after == (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: NPY002
            got = ToNetwork(MEAN, STD)(out.permute(2, 0, 1)[None], collect([change]))
            assert torch.equal(got[0], expected)


def test_evaluation_is_that_of_single_images() -> None:
    for data in files():
        out, change = sample(ExactEvaluation(SIZE), data, 0)
        got = ToNetwork(MEAN, STD)(out.permute(2, 0, 1)[None], collect([change]))
        assert torch.equal(got[0], eval_transform(SIZE, MEAN, STD)(decode_rgb(data, RULE)))


def test_the_rule_of_the_job_is_followed() -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    out = torch.empty(SIZE, SIZE, 3, dtype=torch.uint8)
    ExactEvaluation(SIZE)(file.getvalue(), PixelRule(background="hidden"), (0, 0, 0), out)
    assert out[0, 0].tolist() == [255, 0, 0]
