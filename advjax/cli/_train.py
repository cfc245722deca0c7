"""`advjax train`."""

from advjax import training
from advjax.cli import _runtime
from advjax.cli._parse import parse
from advjax.config import TrainConfig

DESCRIPTION = """Train a classifier, plainly or adversarially.

Writes OUT/config.json, OUT/metrics.jsonl and OUT/checkpoints/ (the newest two and the best by
the validation split). A killed run goes on with the same command and ends with the same
parameters; a finished one says so."""


def train(argv: list[str]) -> None:
    """Run `advjax train`."""
    config = parse(TrainConfig, argv, command="train", description=DESCRIPTION)
    _runtime.prepare(config.devices)
    result = training.train(config)
    if result.resumed_from == result.epochs:
        print(f"{result.run_dir}: nothing to do, all {result.epochs} epochs are done")
    print(
        f"best epoch {result.best_epoch} of {result.epochs} by {result.score} on the validation "
        f"split: {result.best_score:.4f}\n"
        f"next: advjax evaluate --runs {result.run_dir} --out {result.run_dir}-robustness"
    )
