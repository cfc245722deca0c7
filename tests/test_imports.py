"""`import advjax` loads what jax, numpy, optax and chex load, and nothing else."""

import os
import subprocess
import sys

import pytest

LIST = "import sys; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"


def loaded(statement: str) -> set[str]:
    """Top-level modules in a bare process after a statement."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    out = subprocess.run(
        [sys.executable, "-c", f"{statement}; {LIST}"],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    return set(out.stdout.split())


def test_import_is_light():
    bare = loaded("import jax, numpy, optax, chex")
    ours = loaded("import advjax")
    extra = ours - bare - {"advjax"} - set(sys.stdlib_module_names)
    assert not extra, f"import advjax also loads {sorted(extra)}"


def test_the_attack_core_needs_no_flax():
    modules = loaded("from advjax import attacks, losses, threat, criteria, testing, engine")
    assert not modules & {"flax", "orbax", "tensorflow_datasets", "pyarrow", "matplotlib", "PIL"}


def test_packages_are_found_lazily():
    assert "flax" in loaded("import advjax; advjax.models")


def test_unknown_attribute():
    import advjax

    with pytest.raises(AttributeError, match="nothing"):
        _ = advjax.nothing
    assert "models" in dir(advjax)
