"""`advjax train`."""

from pathlib import Path

from advjax import training
from advjax.cli import _runtime
from advjax.cli._many import expand, split_lists
from advjax.cli._parse import parse
from advjax.config import TrainConfig

CONFIG = "config.json"

DESCRIPTION = """Train a classifier, plainly or adversarially.

Writes OUT/config.json, OUT/metrics.jsonl and OUT/checkpoints/ (the newest two and the best by
the validation split). A killed run goes on with the same command and ends with the same
parameters; a finished one says so.

Several runs train together, in one program, where a list is given: --seeds 0..3 (or 0,2,5), and
with a comma --optimizer.learning-rate 0.1,0.05, --eps 2/255,4/255, --beta 1,6. Every combination is
an ordinary run in a folder of its own: OUT/seed-0, OUT/eps-0.01569-seed-0, ..."""


def train(argv: list[str]) -> None:
    """Run `advjax train`."""
    argv, lists = split_lists(argv)
    config = parse(TrainConfig, argv, command="train", description=DESCRIPTION)
    _say_folder(argv, config)
    _runtime.prepare(config.devices)
    together = expand(config, lists)
    results = training.train_many(together) if lists else [training.train(config)]
    folders = " ".join(str(result.run_dir) for result in results)
    print(f"next: advjax evaluate --runs {folders} --out {config.out}-robustness")


def _say_folder(argv: list[str], config: TrainConfig) -> None:
    """Name the folder where the config of a run that was moved names the old one."""
    file = Path(argv[0]) if argv else Path()
    given = any(word.split("=")[0] == "--out" for word in argv)
    if file.name == CONFIG and not given and file.parent.resolve() != Path(config.out).resolve():
        print(
            f"out: {config.out}, as {file} says; to work on the folder in which that file lies, "
            f"add --out {file.parent}"
        )
