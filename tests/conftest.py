"""Fixtures and settings of the whole suite; set before jax is used for the first time."""

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
