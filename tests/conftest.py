"""Fixtures and settings of the whole suite; set before jax is used for the first time."""

import collections
import os
import tempfile
from pathlib import Path

from tests.xla_flags import NONE, QUICK, STEADY, known_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "advjax-test-cache")
)
# to load a program of one operation takes as long as to compile it
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
_FLAGS = f"{known_flags(STEADY)} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ["XLA_FLAGS"] = f"{known_flags(QUICK)} {_FLAGS}"

# after the flags, which JAX reads once
import jax  # noqa: E402
import pytest  # noqa: E402

# JAX crashes now and then where it stores or loads a compiled program of a CPU (three crashes in
# three full runs); children of tests, which are short, keep the cache
jax.config.update("jax_enable_compilation_cache", False)

# flags are read once, by the first program
jax.block_until_ready(jax.jit(lambda x: x + 1)(0))
os.environ["XLA_FLAGS"] = _FLAGS

DATA = "ADVJAX_DATA_DIR"
GOLDEN = "ADVJAX_GOLDEN_DIR"


def pytest_addoption(parser):
    """Add the word that a release is tested with."""
    parser.addoption("--all", action="store_true", help="slow tests, and every case of the others")


def pytest_configure(config):
    """Run whole what somebody chose; processes of xdist are told by the first one."""
    chosen = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword
    if not hasattr(config, "workerinput") and (chosen or config.option.markexpr):
        config.option.all = True


def pytest_collection_modifyitems(config, items):
    """Leave out what costs most and says least, so that the suite is run before every commit."""
    if config.option.all:
        return
    cases = collections.defaultdict(list)
    for item in items:
        cases[item.nodeid.split("[")[0]].append(item)
    left = {item for item in items if item.get_closest_marker("slow")}
    for family in cases.values():
        sample = family[0].get_closest_marker("sample")
        if sample:
            count, last = sample.args[0], len(family) - 1
            kept = {family[round(i * last / max(count - 1, 1))] for i in range(count)}
            left |= set(family) - kept
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is unset: it names the folder with {what}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder; unset it or point it at {what}")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real medical images; skips where there is none."""
    return _folder(DATA, "real medical images")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder with traces of official implementations; skips where there is none."""
    return _folder(GOLDEN, "traces of official implementations")


def _level(request):
    if not request.node.get_closest_marker("unoptimised"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NONE.upper(), "true")
        jax.config.update(NONE, True)
        yield
        jax.config.update(NONE, False)


@pytest.fixture(scope="module", autouse=True)
def unoptimised_file(request):
    """Compile quickly all of a file that is marked `unoptimised`, its fixtures too."""
    yield from _level(request)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs(unoptimised_file):
    """Free the programs of a file of tests: thousands of them take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Run a test in float64 and switch back."""
    with jax.enable_x64(True):
        yield
