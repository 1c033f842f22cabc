"""More pictures out of few: randomly augmented training images, about which the teacher is asked as well.

With few images, the small net's answers are fixed at few points only. L. Beyer et al., "Knowledge distillation: A good
teacher is patient and consistent", 2022, show that strong augmentation helps as long as teacher and student see the
same images; here each is drawn once, so the teacher answers once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tledge.core.types import Images

_AREA = (0.35, 1.0)
_STRETCH = 0.25
_CONTRAST = (0.7, 1.3)
_BRIGHTNESS = 25.0
_TINT = (0.9, 1.1)
_MIXED_SHARE = 0.3
_MIXED_WEIGHT = (0.3, 0.7)


def augmented(images: Images, generator: np.random.Generator) -> Images:
    """Each image randomly augmented: cropped, stretched, mirrored, its colours changed; some mixed with another one.

    Mixing is that of H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, without its labels: the
    teacher says what a mixture is.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        generator: what the result depends on, beside the images.

    Returns:
        (N, H, W, 3) uint8, in the same order.
    """
    drawn = np.stack([_augmented_image(image, generator) for image in images])
    weight = generator.uniform(*_MIXED_WEIGHT, (len(images), 1, 1, 1))
    weight[generator.random(len(images)) >= _MIXED_SHARE] = 1.0
    others = drawn[generator.permutation(len(images))]
    return np.asarray(np.clip(weight * drawn + (1 - weight) * others, 0, 255), np.uint8)


def mirrored(images: Images) -> Images:
    """The images and, after them, their mirror images."""
    return np.concatenate([images, images[:, :, ::-1]])


def _augmented_image(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.float32]:
    rows, columns = image.shape[:2]
    scale, stretch = generator.uniform(*_AREA) ** 0.5, np.exp(generator.uniform(-_STRETCH, _STRETCH))
    width, height = min(1.0, scale * stretch), min(1.0, scale / stretch)
    left, top = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    box = (left * columns, top * rows, (left + width) * columns, (top + height) * rows)
    cut = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, box=box), np.float32)
    if generator.random() < 0.5:
        cut = cut[:, ::-1]
    contrast, brightness = generator.uniform(*_CONTRAST), generator.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    return np.asarray(((cut - 128) * contrast + 128 + brightness) * generator.uniform(*_TINT, 3), np.float32)
