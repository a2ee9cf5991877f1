"""What is to be seen on a page, found in its screenshots."""

import io
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from helpers.served_page import wait_until

DARK = 130
"""Brightest channel of a pixel that belongs to a hot voxel of an inverted grey map."""
MIN_PIXELS = 6
EDGE_PX = 30
"""Letters and the scale lie nearer to the edge of a view than this."""


def wait_for(page: Any, expression: str) -> None:
    """Wait until an expression is true on the page, whose policy forbids what playwright's own waiting does."""
    wait_until(lambda: bool(page.evaluate(expression)))


def screenshot(page: Any, selector: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the pixels (row, column, channel) of an element, and its place on the page."""
    element = page.locator(selector)
    box = element.bounding_box()
    image = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
    return np.asarray(image).astype(int), (box["x"], box["y"])


def dark_spots(
    page: Any, selector: str, third: int | None = None, *, edge_px: int = EDGE_PX
) -> list[tuple[float, float]]:
    """Return the centres of all dark grey spots on white, as places (x, y) on the page, from left to right.

    Parameters
    ----------
    third
        Which of the three slices of a row, from 0; by default all of the element.
    edge_px
        Width of the rim in which nothing counts.
    """
    pixels, (left, top) = screenshot(page, selector)
    if third is not None:
        width = pixels.shape[1] // 3
        pixels, left = pixels[:, third * width : (third + 1) * width], left + third * width
    brightest = pixels.max(axis=-1)
    high = np.array(brightest.shape) - edge_px
    is_grey = brightest - pixels.min(axis=-1) < 10
    labels, count = ndimage.label((brightest < DARK) & is_grey)
    spots = []
    for number in range(1, count + 1):
        places = np.argwhere(labels == number)
        darkness = 255 - brightest[tuple(places.T)]
        row, column = (places * darkness[:, None]).sum(axis=0) / darkness.sum()
        inside = edge_px < row < high[0] and edge_px < column < high[1] and _is_in_white(brightest, places)
        if len(places) >= MIN_PIXELS and inside:
            spots.append((left + float(column) + 0.5, top + float(row) + 0.5))
    return sorted(spots)


def _is_in_white(brightest: np.ndarray, places: np.ndarray) -> bool:
    """Tell whether all that surrounds some pixels is bright."""
    low, high = places.min(axis=0) - 4, places.max(axis=0) + 5
    around = brightest[low[0] : high[0], low[1] : high[1]]
    rim = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
    return bool(np.median(rim) > 200)
