"""What a run is made of, as frozen dataclasses: the command line, the config files under
`experiments/configs/` and the `config.json` of every run are these, field by field.

Nothing of the library is imported here: a config is data. The floors above turn it into objects.
"""  # noqa: D205  # a title of two lines

from advjax.config._attack import TRAINING, AttackConfig
from advjax.config._data import DataConfig, ModelConfig
from advjax.config._evaluate import EvaluateConfig, SweepConfig
from advjax.config._train import AugmentConfig, OptimizerConfig, TrainConfig

__all__ = [
    "TRAINING",
    "AttackConfig",
    "AugmentConfig",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SweepConfig",
    "TrainConfig",
]
