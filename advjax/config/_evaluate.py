"""Evaluations and sweeps."""

from dataclasses import dataclass, field

from advjax.config._data import DataConfig


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
    unet, vgg16_bn or wrn28_10 (of any depth and width)."""
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
