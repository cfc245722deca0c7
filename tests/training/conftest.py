"""Fixtures of runs: images, findings, a config maker, a network of one layer."""

import pytest

from tests.training.runs import make_config, use_tiny, write_npz


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "single.npz")


@pytest.fixture(scope="session")
def findings(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "multi.npz", multi=True)


@pytest.fixture
def make(images, tmp_path):
    """Return `make(folder, **fields) -> TrainConfig`."""
    return lambda folder, **fields: make_config(tmp_path / folder, **{"data": images, **fields})


@pytest.fixture
def tiny(monkeypatch):
    """Replace every model by the tiny one, and count its traces."""
    return use_tiny(monkeypatch)
