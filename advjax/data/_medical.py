"""DICOM and NIfTI: from stored values through a window to [0, 1]."""

from pathlib import Path
from typing import Any

import numpy as np


def window_level(
    stored: np.ndarray,
    *,
    centre: float,
    width: float,
    slope: float = 1.0,
    intercept: float = 0.0,
    invert: bool = False,
) -> np.ndarray:
    """Map stored values through a window: centre - width/2 becomes 0, centre + width/2 becomes 1.

    Args:
      stored: values of any shape, as they are in the file.
      centre: the level, in the units after rescaling (Hounsfield units of CT).
      width: the window, above 0; lungs for instance have centre -600 and width 1500.
      slope: stored values are multiplied by it first.
      intercept: then it is added.
      invert: 1 - the result, for MONOCHROME1, where the smallest value is white.

    Returns:
      float32 in [0, 1], of the shape of `stored`. The mapping is LINEAR_EXACT of DICOM PS3.3
      C.11.2.1.3.2; LINEAR, which is half a stored value apart, is not distinguished from it.

    Raises:
      ValueError: the width is not above 0.
    """
    if not width > 0:
        raise ValueError(f"the width of a window must be above 0, got {width}")
    values = np.asarray(stored, np.float64) * slope + intercept
    grey = np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    return (1.0 - grey if invert else grey).astype(np.float32)


def read_dicom(file: Path, name: str, window: tuple[float, float] | None) -> np.ndarray:
    """Read one image as `[H, W]` float32 in [0, 1] (`[H, W, 3]` where it has colours).

    Without a window the file's own first one counts, else the range that its bits can hold.

    Raises:
      ValueError: the file is no DICOM image, has several frames, or is compressed by something
        that cannot be read here.
      ModuleNotFoundError: pydicom is not installed.
    """
    try:
        import pydicom
    except ModuleNotFoundError:
        raise _missing(name, "pydicom") from None
    try:
        found = pydicom.dcmread(file)
        stored = found.pixel_array
    except Exception as error:  # whatever its decoders raise
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{name}: cannot be read as a DICOM image ({reason}); replace it, or decompress it"
        ) from None
    colours = int(found.get("SamplesPerPixel", 1)) == 3
    if stored.ndim != (3 if colours else 2):
        raise ValueError(f"{name}: {stored.shape} has several frames; save each as a file")
    bits = int(found.get("BitsStored", 8))
    if colours:
        return (stored / float(2**bits - 1)).astype(np.float32)
    slope = float(found.get("RescaleSlope", 1) or 1)
    intercept = float(found.get("RescaleIntercept", 0) or 0)
    centre, width = window or _own_window(found) or _of_bits(found, bits, slope, intercept)
    return window_level(
        stored,
        centre=centre,
        width=width,
        slope=slope,
        intercept=intercept,
        invert=str(found.get("PhotometricInterpretation", "")).strip() == "MONOCHROME1",
    )


def patient_of(file: Path) -> str | None:
    """Return the PatientID of a DICOM file, or None where it is empty."""
    import pydicom

    found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
    return str(found.get("PatientID") or "").strip() or None


def _own_window(found: Any) -> tuple[float, float] | None:
    pair = []
    for key in ("WindowCenter", "WindowWidth"):
        value = found.get(key)
        if value is None or value == "":
            return None
        # several windows: the first
        several = not isinstance(value, int | float | str) and hasattr(value, "__len__")
        pair.append(float(value[0] if several else value))
    return (pair[0], pair[1]) if pair[1] > 0 else None


def _of_bits(found: Any, bits: int, slope: float, intercept: float) -> tuple[float, float]:
    signed = int(found.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return (ends[0] + ends[1]) / 2, ends[1] - ends[0]


def read_nifti(
    file: Path, name: str, window: tuple[float, float] | None, *, raw: bool = False
) -> np.ndarray:
    """Read the axial slices `[S, H, W]` of a volume: front up, the right side on the left.

    Args:
      file: `.nii` or `.nii.gz`, of two or three dimensions.
      name: what messages call it.
      window: `(centre, width)`; None: the range of the whole volume.
      raw: return the values as they are (a mask).

    Returns:
      float32 in [0, 1], or the values.

    Raises:
      ValueError: the file is damaged or has more than three dimensions.
      ModuleNotFoundError: nibabel is not installed.
    """
    try:
        import nibabel
    except ModuleNotFoundError:
        raise _missing(name, "nibabel") from None
    try:
        volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj)
    except Exception as error:  # whatever its decoders raise
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{name}: cannot be read as NIfTI ({reason}); replace it") from None
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim == 2:
        volume = volume[..., None]
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"{name}: {volume.shape} is no volume; save one of three dimensions")
    # (right, anterior, superior) to (slice, row from the front, column from the right)
    planes = np.moveaxis(volume[::-1, ::-1], -1, 0).swapaxes(1, 2)
    if raw:
        return planes
    if not np.isfinite(planes).all():
        raise ValueError(f"{name}: NaN or infinite values; repair or drop the volume")
    low, high = float(planes.min()), float(planes.max())
    centre, width = window or ((low + high) / 2, (high - low) or 1.0)
    return window_level(planes, centre=centre, width=width)


def _missing(name: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{name}: needs {package}; install it with pip install 'advjax[medical]'"
    )
