"""Files of images and of masks as arrays: what pillow, pydicom and nibabel read."""

from pathlib import Path
from typing import Any

import numpy as np

from advjax.data._medical import read_dicom, read_nifti

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MEDICAL = (".dcm", ".nii", ".nii.gz")
SUFFIXES = (*PICTURES, *MEDICAL)
_GREY, _COLOUR = ("L", "LA", "1"), ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
# what an editor adds to the name of an image to name its mask
_MASK_ENDINGS = ("_mask", "_segmentation", "_seg", "-mask")


def is_image(name: str) -> bool:
    """Whether a file is one that is read, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def stem(name: str, *, mask: bool = False) -> str:
    """Return the name of an image without suffix; of its image where `name` is that of a mask."""
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    bare = name[: len(name) - len(suffix)]
    ending = next((e for e in _MASK_ENDINGS if bare.lower().endswith(e)), "") if mask else ""
    return bare[: len(bare) - len(ending)]


def pillow() -> Any:
    """Return `PIL.Image`.

    Raises:
      ModuleNotFoundError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "images in files need pillow; install it with pip install 'advjax[run]'"
        ) from None
    return Image


def read_image(
    file: Path, name: str, *, size: int | None = None, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Read one file as `[S, H, W, 1 or 3]` uint8; S is 1 but for a NIfTI volume, one per slice.

    Args:
      file: a picture, a DICOM or a NIfTI file.
      name: what messages call it.
      size: resize to a square of so many pixels, antialiased.
      window: `(centre, width)` of DICOM and NIfTI; see `window_level`.

    Raises:
      ValueError: the file cannot be read, or a picture has 16 or 32 bits.
      ModuleNotFoundError: the package that reads it is not installed.
    """
    low = name.lower()
    if low.endswith(MEDICAL):
        grey = read_dicom(file, name, window) if low.endswith(".dcm") else None
        planes = read_nifti(file, name, window) if grey is None else grey[None]
        eight = np.round(planes * 255.0).astype(np.uint8)
        eight = eight if eight.ndim == 4 else eight[..., None]
        return eight if size is None else np.stack([_resized(e, size) for e in eight])
    image = _open(file, name)
    mode = image.mode
    if mode in _GREY:
        image = image.convert("L")
    elif mode in _COLOUR:
        image = image.convert("RGB")
    else:
        raise ValueError(
            f"{name}: {mode} pixels (16 or 32 bits); choose a window and save it with 8 bits"
        )
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), pillow().Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return (pixels[..., None] if pixels.ndim == 2 else pixels)[None]


def read_mask(file: Path, name: str, *, size: int | None = None) -> np.ndarray:
    """Read one file as `[S, H, W]` uint8, the class of each pixel; nearest pixel where resized.

    A JPEG, which blurs what is black and white, is cut at one half.

    Raises:
      ValueError: the file cannot be read, or it has colours where classes should be.
      ModuleNotFoundError: the package that reads it is not installed.
    """
    low = name.lower()
    if low.endswith(MEDICAL):
        if low.endswith(".dcm"):
            raise ValueError(f"{name}: masks are read from pictures and NIfTI, not from DICOM")
        planes = read_nifti(file, name, None, raw=True)
        if not ((planes >= 0) & (planes <= 255) & (planes == np.round(planes))).all():
            raise ValueError(f"{name}: a mask holds integers 0..255, the class of each pixel")
        planes = planes.astype(np.uint8)
    else:
        image = _open(file, name)
        # a palette's indices are the classes
        keeps = image.mode in ("L", "P")
        pixels = np.asarray(image if keeps else image.convert("RGB"), np.uint8)
        if pixels.ndim == 3:
            if (pixels != pixels[..., :1]).any():
                raise ValueError(
                    f"{name}: a mask with colours; save the class of each pixel (0 background, 1, "
                    "2, ...) as grey, or black and white"
                )
            pixels = pixels[..., 0]
        if low.endswith((".jpg", ".jpeg")):
            pixels = np.where(pixels >= 128, 255, 0).astype(np.uint8)
        planes = pixels[None]
    if size is None:
        return planes
    rows, columns = (((np.arange(size) + 0.5) * n // size).astype(int) for n in planes.shape[1:3])
    return planes[:, rows][:, :, columns]


def _resized(plane: np.ndarray, size: int) -> np.ndarray:
    pil = pillow()
    picture = pil.fromarray(plane[..., 0] if plane.shape[2] == 1 else plane)
    small = np.asarray(picture.resize((size, size), pil.Resampling.BILINEAR), np.uint8)
    return small.reshape(size, size, plane.shape[2])


def _open(file: Path, name: str) -> Any:
    """Open and decode a picture; its mode is kept."""
    pil = pillow()
    try:
        with pil.open(file) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{name}: cannot be read as an image ({reason}); replace or remove the file"
        ) from None
