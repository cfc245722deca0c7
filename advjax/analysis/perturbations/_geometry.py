"""Moved, turned, tilted, sheared and scaled images, as matrices of the plane.

Each function returns where a frame of `height x width` takes the points `(x, y, 1)` of the image.
What comes in from outside is black, as in the authors' file, where it is cut from a larger image
as far as that reaches.
"""

import math

import numpy as np


def translate(frame: int, height: int, width: int, unit: float) -> np.ndarray:
    """Shift by `frame - 20` pixels to the right, so 20 to 11 pixels to the left."""
    del height, width
    return np.array([[1, 0, (frame - 20) * unit], [0, 1, 0], [0, 0, 1]])


def rotate(frame: int, height: int, width: int, unit: float) -> np.ndarray:
    """Turn clockwise by `frame - 15` degrees around the centre."""
    del unit
    angle = math.radians(frame - 15)
    cos, sin = math.cos(angle), math.sin(angle)
    return _centred(np.array([[cos, -sin], [sin, cos]]), height, width)


def shear(frame: int, height: int, width: int, unit: float) -> np.ndarray:
    """Shear along the rows by `frame - 15` degrees."""
    del unit
    slope = math.tan(math.radians(frame - 15))
    return _centred(np.array([[1, -slope], [0, 1]]), height, width)


def scale(frame: int, height: int, width: int, unit: float) -> np.ndarray:
    """Shrink to `40 + 2.5 frame` per cent."""
    del unit
    return _centred(np.eye(2) * (40 + 2.5 * frame) / 100, height, width)


def zoom(factor: float, height: int, width: int) -> np.ndarray:
    """Enlarge by a factor around the centre."""
    return _centred(np.eye(2) * factor, height, width)


def tilt(frame: int, height: int, width: int, unit: float) -> np.ndarray:
    """Turn out of the plane by `frame - 15` degrees about both axes, seen in perspective."""
    del unit
    angle = math.radians(frame - 15)
    cos, sin = math.cos(angle), math.sin(angle)
    focus = math.hypot(width, height)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_y = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    # a point (x, y) stands at (x - w/2, y - h/2, 1), is turned, and moved `focus` away
    place = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    away = np.diag([0, 0, focus])
    lens = np.array([[focus, 0, width / 2], [0, focus, height / 2], [0, 0, 1]])
    return lens @ (about_x @ about_y + away) @ place


def _centred(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Apply a matrix to `(x, y)` around the centre of the pixels."""
    whole, centre = np.eye(3), np.array([(width - 1) / 2, (height - 1) / 2])
    whole[:2, :2] = matrix
    whole[:2, 2] = centre - matrix @ centre
    return whole
