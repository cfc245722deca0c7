"""The README works as printed, and the repository names no address or machine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import jax
import pytest

import advjax

pytestmark = pytest.mark.unoptimised

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_python_blocks_of_the_readme_run_in_order(capsys):
    space: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), space)
    result = space["result"]
    assert isinstance(result, advjax.types.AttackResult)
    eps = jax.numpy.array([0, 1, 4, 8]) / 255
    assert (result.distance <= eps + 1e-6).all()
    # what is printed means something: not everything falls at once, and not nothing
    assert not result.success[0]
    assert result.success.any()
    assert (result.num_steps > 0).any()
    said = capsys.readouterr().out
    assert "0/255: withstood after" in said
    robust = [float(line.rsplit(" ", 1)[1]) for line in said.splitlines() if "robust acc" in line]
    assert len(robust) == 4
    assert robust == sorted(robust, reverse=True)
    from advjax import losses, threat

    objective = advjax.attacks.from_logits(lambda x: x.mean((1, 2)), loss=losses.cross_entropy)
    assert space["adam_pgd"](objective, threat.linf()).spec.num_steps == 40


def test_the_readme_names_every_attack_and_command():
    for name in advjax.attacks.ATTACKS:
        assert f"`{name}`" in README
    for command in ("train", "evaluate", "report", "data"):
        assert f"advjax {command}" in README


def test_constraints_pin_every_dependency_and_name_no_host():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[<>=\[]", d)[0] for d in
              (*project["dependencies"], *extras["run"], *extras["dev"])} - {"advjax"}  # fmt: skip
    for file in (ROOT / "constraints").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^\s/:@]+", line) for line in lines), file
        pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
        assert wanted <= pinned, f"{file}: {sorted(wanted - pinned)}"


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_are_executable(name):
    assert os.access(ROOT / name, os.X_OK)


def _fake_python(folder, *, pip=True, new=True):
    """A folder that looks like an environment, its python a script that answers what is asked."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
    "-m pip --version") exit {int(not pip)} ;;
    *version_info*"(3, 11)"*) exit {int(not new)} ;;
esac
"""
    )
    python.chmod(0o755)


@pytest.mark.parametrize(
    ("state", "usable"),
    [({}, True), ({"pip": False}, False), ({"new": False}, False), (None, False)],
)
@pytest.mark.parametrize("named", [False, True])
def test_half_made_environments_are_made_again(tmp_path, state, usable, named):
    if state is not None:
        _fake_python(tmp_path / ".venv", **state)
        (tmp_path / ".venv" / "kept").touch()
    script = (ROOT / "scripts" / "_bootstrap.sh").read_text().replace('bootstrap "$1"', "")
    # what makes an environment is replaced, and installing left out
    making = 'python() { echo "made: $*"; }; find_python() { echo python; }; bootstrap run'
    script += making.replace("bootstrap run", "cat() { exit 0; }; bootstrap run")
    env = {"PATH": os.environ["PATH"], **({"ADVJAX_VENV": ".venv"} if named else {})}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True,
                          text=True)  # fmt: skip
    remade = "made: -m venv --clear .venv" in done.stdout
    assert remade == (not usable and not (named and state is not None)), done
    if named and state is not None and not usable:
        assert done.returncode == 1
        assert "remove it or unset ADVJAX_VENV" in done.stderr


def test_core_dependencies_are_the_seven():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=]", d)[0] for d in project["dependencies"]}
    assert names == {"chex", "flax", "jax", "numpy", "optax", "orbax-checkpoint",
                     "tensorflow-datasets"}  # fmt: skip
    assert (ROOT / "advjax" / "py.typed").exists()


def test_configs_of_the_experiments_are_sound():
    import runpy

    from advjax.config import EvaluateConfig, SweepConfig, TrainConfig

    files = sorted((ROOT / "experiments").glob("*/*.py"))
    files = [file for file in files if re.search("^config = ", file.read_text(), re.M)]
    assert len({file.parent for file in files}) == 5
    for file in files:
        found = runpy.run_path(str(file))
        assert isinstance(found["config"], TrainConfig | EvaluateConfig | SweepConfig), file
        assert f"{file.relative_to(ROOT)}" in found["__doc__"], file


def test_commands_of_the_experiments_parse():
    """Each page's `run` is a script that its page names, for the CPU and in full."""
    for page in sorted((ROOT / "experiments").glob("*/README.md")):
        script = page.parent / "run"
        assert os.access(script, os.X_OK)
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
        for words in ("run ", "run full"):
            assert f"experiments/{page.parent.name}/{words}" in page.read_text(), page
            assert f"experiments/{page.parent.name}/{words.strip()}" in script.read_text(), script
