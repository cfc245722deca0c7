"""Where images come from, and which network sees them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    source: str = "phantom:dermoscopy"
    """`phantom:NAME` (dermoscopy, xray, ct, fundus, endoscopy), `npz:PATH`, `folder:PATH`, or
    `tfds:NAME` after `advjax data prepare NAME`. A relative PATH is looked up in the working
    directory, then in `$ADVJAX_DATA_DIR`."""
    size: int | None = None
    """Height and width in pixels; None keeps what the source has (phantoms: 32)."""
    num_train: int | None = None
    """At most this many training images; None: all (phantoms: 2048)."""
    num_val: int | None = None
    """At most this many validation images; None: all (phantoms: 256)."""
    num_test: int | None = None
    """At most this many test images; None: all (phantoms: 512)."""
    seed: int = 0
    """Seed of the phantoms and of every random split."""
    task: str | None = None
    """What the targets are: `single` (one class per image), `multi` (several findings),
    `segmentation` (the class of each pixel, from the masks) or `detection` (boxes); None: what the
    source holds, labels before masks before boxes."""
    positive: tuple[str, ...] | None = None
    """Makes two classes of many: the names of the classes or findings that together are positive
    (`any`: any finding); all others are negative. An image of several findings, of which none named
    is there and one is unknown, is left out. None: the classes as they are."""
    window: tuple[float, float] | None = None
    """Centre and width of the window through which DICOM and NIfTI files are seen, such as
    `-600 1500` for lungs; None: the file's own (NIfTI: the range of the volume)."""
    difficulty: float = 0.5
    """Phantoms only, in [0, 1]: strength of noise, artefacts and anatomical variation."""
    signal: float = 1.0
    """Phantoms only, in [0, 2]: strength of the structures that make a class."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    name: str = "resnet18"
    """Classes or findings of an image: `resnet18 | resnet34 | resnet50 | mobilenet_v2 | densenet121
    | inception_v3 | vgg16_bn | attn_vgg | wrn28_10 | small_cnn`; of each pixel: `unet | segnet`;
    boxes: `centernet`."""
    width: int = 64
    """64 is the published network, other values scale all channels; for most it is the number of
    channels of the first stage (8 to 16 is enough for 32x32 on a CPU)."""
    stem: str = "cifar"
    """`cifar` (for images up to 64 pixels: no stride in the first layers) or `imagenet` (as
    published: stride and max-pool there; for vgg16_bn, three dense layers)."""
    mean: float | tuple[float, ...] = 0.5
    """Subtracted from the pixels inside the model: one number, or one for each channel."""
    std: float | tuple[float, ...] = 0.25
    """Divided by inside the model: one number, or one for each channel."""
