"""What a run is made of, as frozen dataclasses: the command line, the config files under
`experiments/configs/` and the `config.json` of every run are these, field by field.

Nothing of the library is imported here: a config is data. The floors above turn it into objects.
"""  # noqa: D205

import math
from dataclasses import dataclass, field
from typing import Any


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
    boxes: `centernet`; perturbations: `gap_unet | gap_resnet`."""
    width: int = 64
    """64 is the published network, other values scale all channels; for most it is the number of
    channels of the first stage (8 to 16 is enough for 32x32 on a CPU)."""
    stem: str = "cifar"
    """`cifar` (for images up to 64 pixels: no stride in the first layers) or `imagenet` (as
    published: stride and max-pool there; for vgg16_bn, three dense layers)."""
    mean: float = 0.5
    """Subtracted from the pixels inside the model."""
    std: float = 0.25
    """Divided by inside the model."""


# of an attack, as the command line writes them
TRAINING = ("images", "epochs", "width")
OPTIONS: dict[str, type] = dict.fromkeys(("norm", "version", "loss", "criterion", "goal"), str)
OPTIONS |= {"step_size": float} | dict.fromkeys(("num_steps", *TRAINING), int)


@dataclass(frozen=True)
class AttackConfig:
    """One attack: of an evaluation, or of the robust validation between epochs."""

    name: str = "pgd"
    """`fgsm | rs_fgsm | bim | pgd | apgd | mifgsm | nifgsm | difgsm | tifgsm | cw_linf | smia`; for
    masks and detectors also `segpgd | cospgd | dag | asma`; for the minimal norm `fab | deepfool |
    ddn | fmn | cw_l2`; without gradients `square | simba | spsa | nes | hopskipjump`; in
    evaluations `autoattack | uap | gap`."""
    norm: str = "linf"
    """`linf`, `l2` or `l1`."""
    num_steps: int | None = None
    """Steps; None: as `advjax evaluate --help` lists; fgsm and rs_fgsm take no other."""
    step_size: float | None = None
    """Step relative to eps, of some in pixel units; None: as `advjax evaluate --help` lists."""
    version: str | None = None
    """Of autoattack: `standard` (None), `plus` or `rand`; uap: `deepfool` (None) or `sign`; gap:
    `image` (None: one perturbation each) or `universal`."""
    loss: str | None = None
    """What it ascends; None: the loss of the task. One label `ce`, `margin` or `dlr`; several
    findings `bce` or `margin`; masks `ce` or `dice`; boxes `centernet` or `ce`."""
    criterion: str | None = None
    """What counts as broken. Several findings `any` (None), `all` or `flips2` to `flips5`; masks
    `dice50` (None: mean Dice of the classes below 0.5), `dice25`, `dice75`, or `pixels25`,
    `pixels50`, `pixels75` (share of right pixels below); boxes `missed50` (None: less than half of
    them found), `missed25`, `missed75`, `missed100`."""
    goal: str | None = None
    """Where it leads to; None: anywhere else. `class-NAME` (one label), `hide-NAME` or
    `fabricate-NAME` (a finding; others stay free), `erase` (a mask without any structure)."""
    images: int | None = None
    """Of uap and gap: training images, drawn with the seed; None: 256 and 512, or all there are."""
    epochs: int | None = None
    """Of uap and gap: most passes over them; None: 10, or 15 with `version=sign`."""
    width: int | None = None
    """Of gap: channels of the generator's first level; None: 16 (64 as published)."""

    @classmethod
    def parse(cls, text: str) -> "AttackConfig":
        """Read `NAME` or `NAME:OPTION=VALUE,...`, as the command line has it.

        Raises:
          ValueError: an option is unknown or its value is no number.
        """
        name, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if key not in OPTIONS or not equals:
                raise ValueError(
                    f"attack {text!r}: {part!r} is no option; write NAME:norm=l2,num_steps=20, or "
                    f"autoattack:norm=l2,version=plus; options are {', '.join(OPTIONS)}"
                )
            try:
                options[key] = OPTIONS[key](value)
            except ValueError:
                raise ValueError(f"attack {text!r}: {key} takes numbers") from None
        return cls(name=name, **options)

    def check(self, where: str) -> None:
        """Check norm and numbers; whether the name is known is for the attacks to say.

        Args:
          where: what messages begin with, such as the name of the field.

        Raises:
          ValueError: naming the number and what it may be.
        """
        if self.norm not in ("linf", "l2", "l1"):
            raise ValueError(f"{where}: unknown norm {self.norm!r}; use 'linf', 'l2' or 'l1'")
        for name in ("num_steps", *TRAINING):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{where}: {name} must be at least 1, got {value}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(
                f"{where}: step_size must be a positive number, such as 0.25, got {self.step_size}"
            )

    def label(self) -> str:
        """Return the short name that stands in rows and reports."""
        parts = [self.name]
        if self.version not in (None, "standard", "deepfool", "image"):
            parts.append(self.version)
        if self.num_steps is not None:
            parts.append(str(self.num_steps))
        if self.step_size is not None:
            parts.append(f"step{self.step_size:g}")
        if self.norm != "linf":
            parts.append(self.norm)
        parts += [text for text in (self.loss, self.criterion, self.goal) if text is not None]
        parts += [f"{name}{count}" for name in TRAINING if (count := getattr(self, name))]
        return "-".join(parts)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images; all zero or False switches augmentation off."""

    flip_horizontal: bool = False
    """Mirror left-right with probability 1/2."""
    flip_vertical: bool = False
    """Mirror up-down with probability 1/2."""
    rotate_degrees: float = 0.0
    """Rotate by an angle uniform in [-d, d]; at most 20 makes medical sense."""
    crop_padding: int = 0
    """Pad by this many pixels (reflected) and crop back at random."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move."""

    name: str = "sgd"
    """`sgd` (Nesterov momentum) or `adam`."""
    learning_rate: float = 0.1
    """Peak learning rate."""
    schedule: str = "onecycle"
    """`onecycle`, `cosine` or `constant`."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Decoupled from the loss for adam, added to the gradient for sgd; kernels only."""
    grad_clip: float | None = None
    """Clip the global gradient norm at this value."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    out: str = "runs/train"
    """Folder of the run: config.json, metrics.jsonl, checkpoints/."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the images come from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Which network."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How parameters move."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of training images; all zero or False switches augmentation off."""
    method: str = "standard"
    """`standard | fgsm | pgd | mixed | trades | mart | hat | free | fast | mpadvt | maadvt |
    distillation | gradient` (input-gradient regularisation)."""
    eps: float = 8 / 255
    """Training budget in [0, 1] pixel units (ignored by `standard`; mpadvt draws its own)."""
    norm: str = "linf"
    """`linf` or `l2`, the ball of training."""
    attack_steps: int = 7
    """Steps of the training attack (pgd, and the PGD third of mixed)."""
    attack_step_size: float | None = None
    """Its step relative to eps; None: 2.5 / attack_steps, 1.25 for fast, and as in the paper 1/255
    for mpadvt and 0.007 for maadvt, whatever eps is."""
    batch_norm_attack: str = "eval"
    """Batch-norm while attacking: `eval` (running statistics) or `batch`."""
    batch_norm_update: str = "adversarial"
    """Which images update the running statistics: `clean`, `adversarial` or `both`."""
    space: str = "pixels"
    """Where eps, its ranges and the steps of training are meant: `pixels`, or `normalised`, after
    the mean and the std of the model: a channel may then move by eps * std pixel units."""
    beta: float | None = None
    """Weight of the divergence in trades, mart, maadvt (None: 6) and hat (None: 2.5)."""
    hat_gamma: float = 0.5
    """hat: weight of the helper examples."""
    hat_reach: float = 2.0
    """hat: how many times the adversarial perturbation the helper examples are away."""
    helper: str | None = None
    """hat, distillation: folder of the run of the standard model; None: it is trained first, with
    this config, in OUT/helper."""
    temperature: float | None = None
    """Of the softmax of distillation and of its teacher (None: 20), or of standard (None: 1)."""
    gradient_weight: float = 100.0
    """gradient: weight of the squared length of the gradient in the image."""
    replays: int = 4
    """free: updates for each batch; divide `epochs` by it to spend what others spend."""
    awp: float = 0.0
    """Adversarial weight perturbation around the method: how far each kernel is moved relative to
    its length (0.005 in the paper); 0: none."""
    eps_range: tuple[float, ...] | None = None
    """mpadvt, maadvt: each image draws its budget between these two; None: 0.01 and 0.04 for
    mpadvt, `eps` for maadvt."""
    steps_range: tuple[int, ...] | None = None
    """mpadvt, maadvt: each image draws its steps between these two; None: 1 and 9."""
    adversarial_share: float = 0.5
    """mpadvt: how many images are attacked at all."""
    draw_per: str = "example"
    """mpadvt, maadvt: `example`, or `batch`: the whole batch shares one draw, as in the paper."""
    on_overfitting: str = "warn"
    """fgsm, fast, free: what follows when the accuracy under PGD-5, measured after each epoch on
    validation images, falls by more than 20 points (catastrophic overfitting): `warn`, `stop`, or
    `ignore` (it is not measured)."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step; a multiple of `devices`."""
    balanced: bool = False
    """Sample classes equally often (single-label data)."""
    ema: float | None = None
    """Decay of an exponential moving average of the parameters; evaluated when set."""
    seed: int = 0
    """Seed of the first parameters, of shuffling, augmentation and the training attack."""
    select_by: str = "auto"
    """What picks the best checkpoint on the validation split: `clean`, `robust` or `auto`
    (clean for `standard`, `distillation` and `gradient`, robust otherwise)."""
    val_attack: AttackConfig = field(default_factory=lambda: AttackConfig(name="pgd", num_steps=10))
    """The attack of the robust validation between epochs, which may pick the best checkpoint. Left
    at its default, it has the norm of training. (The training attack is set by `attack_steps`.)"""
    val_eps: float | None = None
    """Budget of the robust validation; None: `eps`."""
    val_examples: int | None = None
    """At most this many validation images for the robust validation; None: all."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the newest two and the best are kept."""
    devices: int = 1
    """Devices that share each batch."""


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation: models x attacks x budgets."""

    out: str = "runs/evaluate"
    """Folder of rows/*.parquet, manifest.json and the report."""
    runs: tuple[str, ...] = ()
    """Folders of training runs; each becomes one model of the report."""
    checkpoint: str = "best"
    """`best` (by the validation split) or `latest`."""
    attacks: tuple[str, ...] = ("fgsm", "bim", "pgd", "mifgsm", "smia")
    """Attacks, each `NAME` or `NAME:OPTION=VALUE,...`, such as `pgd:num_steps=50,step_size=0.1` or
    `pgd:norm=l2`. Names: fgsm rs_fgsm bim pgd apgd mifgsm nifgsm difgsm tifgsm cw_linf smia; for
    masks and detectors also segpgd cospgd dag asma; for the minimal norm fab deepfool ddn fmn
    cw_l2; without gradients square simba spsa nes hopskipjump; autoattack
    (`autoattack:norm=l2,version=plus`); trained on the training split for each budget: uap (by
    DeepFool; `uap:version=sign,goal=class-NAME`), gap (`gap:version=universal`), with `images=`,
    `epochs=`, `width=`, and their random control universal. Default num_steps: 20 for pgd, segpgd
    and cospgd, 30 for cw_linf, 50 for deepfool, 64 for hopskipjump, 100 for apgd, fab, ddn, fmn,
    nes and spsa, 200 for dag, 1000 for cw_l2 and asma, 5000 for simba and square, 1 for fgsm and
    rs_fgsm, else 10. Default step_size, relative to eps: 2.5 / num_steps for pgd, cw_linf, segpgd,
    cospgd and nes, 1 for fgsm, 1.25 for rs_fgsm, 0.03 for uap, 2 (the first one) for apgd; 0.2,
    0.01 and 0.5/255 pixels for simba, spsa and dag; 0.001 (learning rate) for gap; else 1 /
    num_steps; asma, square and those for the minimal norm have none."""
    epsilons: tuple[float, ...] = tuple(i / 510 for i in range(1, 17))
    """Budgets in [0, 1] pixel units, strictly increasing; all attacks share them. Those of l2 are
    Euclidean lengths over the whole image (0.5 to 5 matter): evaluate l2 on its own."""
    restarts: int = 1
    """Times that each attack starts anew; an image is broken when any start breaks it."""
    num_examples: int | None = None
    """So many images, drawn with the seed; None: all."""
    split: str = "test"
    """`train`, `val` or `test`; results on anything but `test` are too good."""
    gradient_dtype: str = "float32"
    """`float32`, or `bfloat16`: faster gradients on most GPUs and TPUs, slower ones on a CPU. Every
    verdict is float32."""
    batch_size: int = 128
    """Rows (example x budget) attacked at once."""
    seed: int = 0
    """Seed of random starts, of `num_examples` and of the intervals."""
    bootstrap: int = 1000
    """Resamples of the 95 % intervals."""
    panels: int = 6
    """Examples shown as images in the report."""
    torch_weights: str | None = None
    """In place of runs: the weights of a PyTorch model, `.pt`, `.pth` (where PyTorch is installed)
    or `.safetensors`, under the names of torchvision or those usual for CIFAR."""
    model: str | None = None
    """Its architecture: densenet121, inception_v3, mobilenet_v2, resnet18, resnet34, resnet50,
    vgg16_bn or wrn28_10 (of any depth and width)."""
    mean: tuple[float, ...] | None = None
    """What was subtracted from its pixels in [0, 1], one number or one for each channel; None:
    ImageNet's, where it has three channels."""
    std: tuple[float, ...] | None = None
    """What they were divided by then; None: ImageNet's."""
    data: DataConfig = field(default_factory=lambda: DataConfig(source=""))
    """The images for it (runs know theirs); `--data SOURCE` for short."""


@dataclass(frozen=True)
class SweepConfig:
    """One sweep by the engine: models x attacks x budgets x seeds."""

    out: str = "runs/sweep"
    """Folder of rows/*.parquet, manifest.json and the report."""
    runs: tuple[str, ...] = ()
    """Folders of training runs; each becomes one model of the report."""
    checkpoint: str = "best"
    """`best` (by the validation split) or `latest`."""
    attacks: tuple[str, ...] = ("pgd",)
    """Attacks, each `NAME` or `NAME:OPTION=VALUE,...`, as in `advjax evaluate`."""
    epsilons: tuple[float, ...] = tuple(i / 510 for i in range(1, 17))
    """Budgets in [0, 1] pixel units, strictly increasing; all attacks share them."""
    restarts: int = 1
    """Times that each attack starts anew; an image is broken when any start breaks it."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the random starts; each is an attack of its own in the report (`pgd-20@1`)."""
    order: str = "search"
    """`search` (estimate, gallop, bisect), `ascending` (climb) or `exhaustive` (everything)."""
    warm_start: bool = False
    """A climb goes on from its best failed perturbation, rescaled to the next budget."""
    num_examples: int | None = None
    """So many images, drawn with the first seed; None: all."""
    split: str = "test"
    """`train`, `val` or `test`; results on anything but `test` are too good."""
    slots: int | None = None
    """Images attacked at once on each device; None: by the number of images and the device."""
    gradient_dtype: str = "float32"
    """Or `bfloat16`: faster on most GPUs and TPUs, slower on a CPU. Every verdict is float32."""
    quantise: int | None = None
    """8, 12 or 16: a success must survive rounding of its pixels to so many bits."""
    memory_limit_mb: int = 1024
    """Memory of one device for the images; what is beyond is streamed."""
    diagnose: bool = True
    """Probe whether the figures can be trusted (about a tenth more work)."""
    devices: int = 1
    """Devices that share the images; 0: all there are."""
    stack: str = "auto"
    """Models of one architecture at once: `vmap` (as one batch of networks), `map` (one after the
    other in one program), `off`, or `auto`: `vmap` on accelerators, `off` on a CPU."""
    stack_size: int = 8
    """So many models at once at the most."""
    shard: str = "0/1"
    """`i/n`: only every n-th image, from the i-th on (from 0), in OUT/shard-i-of-n."""
    distributed: bool = False
    """Join the processes of a SLURM job, a TPU pod or a Kubernetes job (jax.distributed)."""
    batch_size: int = 128
    """Clean images evaluated at once."""
    bootstrap: int = 1000
    """Resamples of the 95 % intervals."""
    panels: int = 6
    """Examples shown as images in the report."""

    @property
    def seed(self) -> int:
        """The seed that draws `num_examples` and the intervals."""
        return self.seeds[0] if self.seeds else 0
