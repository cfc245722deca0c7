"""One training run."""

from dataclasses import dataclass, field

from advjax.config._attack import AttackConfig
from advjax.config._data import DataConfig, ModelConfig


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
    pretrained: str | None = None
    """Where training starts: the folder of a run (its best checkpoint), or a file of PyTorch
    weights (`.safetensors`, `.pt`), of the same network; a last layer of other outputs is drawn
    anew. None: random weights."""
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
    gradient_weight: float = 0.1
    """gradient: weight of the squared length of the gradient in the image; a few networks without
    normalisation take 1 to 100."""
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
