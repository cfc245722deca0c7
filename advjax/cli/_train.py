"""`advjax train`."""

from pathlib import Path

from advjax import training
from advjax.cli import _runtime
from advjax.cli._parse import parse
from advjax.config import TrainConfig

CONFIG = "config.json"

DESCRIPTION = """Train a classifier, plainly or adversarially.

Writes OUT/config.json, OUT/metrics.jsonl and OUT/checkpoints/ (the newest two and the best by
the validation split). A killed run goes on with the same command and ends with the same
parameters; a finished one says so."""


def train(argv: list[str]) -> None:
    """Run `advjax train`."""
    config = parse(TrainConfig, argv, command="train", description=DESCRIPTION)
    _say_folder(argv, config)
    _runtime.prepare(config.devices)
    result = training.train(config)
    print(f"next: advjax evaluate --runs {result.run_dir} --out {result.run_dir}-robustness")


def _say_folder(argv: list[str], config: TrainConfig) -> None:
    """Name the folder where the config of a run that was moved names the old one."""
    file = Path(argv[0]) if argv else Path()
    given = any(word.split("=")[0] == "--out" for word in argv)
    if file.name == CONFIG and not given and file.parent.resolve() != Path(config.out).resolve():
        print(
            f"out: {config.out}, as {file} says; to work on the folder in which that file lies, "
            f"add --out {file.parent}"
        )
