"""The cluster scripts are sound, start what they say, and stand in the README."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "scripts" / "cluster"
FILES = ("slurm.sh", "tpu_pod.sh", "kubernetes.yaml")


def run(script, arguments, folder, **env):
    """Run a script in which srun and gcloud print what they are called with."""
    for name in ("srun", "gcloud", "advjax"):
        (folder / name).write_text(f'#!/bin/sh\necho "{name}" "$@"\n')
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "ADVJAX": "advjax"} | env
    return subprocess.run(["bash", FOLDER / script, *arguments], env=env, cwd=folder,
                          capture_output=True, text=True)  # fmt: skip


def test_the_readme_names_each_file():
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)
    section = (ROOT / "README.md").read_text().split("### On a cluster\n")[1].split("\n## ")[0]
    for name in FILES:
        assert f"scripts/cluster/{name}" in section


@pytest.mark.parametrize("script", [name for name in FILES if name.endswith(".sh")])
def test_scripts_parse_and_ask_for_a_config(script, tmp_path):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)
    assert os.access(FOLDER / script, os.X_OK)
    done = run(script, [], tmp_path)
    assert done.returncode != 0
    assert "advjax" not in done.stdout


def test_slurm_starts_a_process_for_each_gpu_or_one_share(tmp_path):
    done = run("slurm.sh", ["a.py", "--restarts", "2"], tmp_path)
    assert re.fullmatch(r"srun .* advjax sweep a.py --restarts 2 --distributed\n", done.stdout)
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7",
             "SLURM_ARRAY_TASK_COUNT": "8"}  # fmt: skip
    done = run("slurm.sh", ["a.py"], tmp_path, **array)
    assert done.stdout == "advjax sweep a.py --shard 5/8\n"
    # some tasks again
    array |= {
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_MAX": "5",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    done = run("slurm.sh", ["a.py"], tmp_path, **array)
    assert (done.returncode, done.stdout) == (2, "")
    assert "SHARDS=8 sbatch" in done.stderr
    assert run("slurm.sh", ["a.py"], tmp_path, **array, SHARDS="8").stdout.endswith("--shard 5/8\n")


def test_every_worker_of_a_tpu_pod_sweeps(tmp_path):
    done = run("tpu_pod.sh", ["sweep", "a b.py"], tmp_path, TPU="name", ZONE="zone")
    assert done.stdout.startswith("gcloud compute tpus tpu-vm ssh name --zone=zone --worker=all")
    assert "advjax sweep a\\ b.py --distributed" in done.stdout
    done = run("tpu_pod.sh", ["sweep", "a.py"], tmp_path, TPU="t", ZONE="z", ADVJAX_DATA_DIR="/d")
    assert "cd advjax && ADVJAX_DATA_DIR=/d .venv/bin/advjax sweep a.py" in done.stdout
    done = run("tpu_pod.sh", ["look"], tmp_path, TPU="name", ZONE="zone")
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_pods_of_the_kubernetes_job_find_each_other():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifest")
    service, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    said = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    [port] = [one["port"] for one in service["spec"]["ports"]]
    # pods of an indexed job are called after the job and their index
    assert said["JAX_COORDINATOR_ADDRESS"] == f"{name}-0.{pod['subdomain']}:{port}"
    assert spec["completionMode"] == "Indexed"
    assert int(said["JAX_NUM_PROCESSES"]) == spec["completions"] == spec["parallelism"]
    assert "job-completion-index" in said["JAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
    assert container["command"][:2] == ["advjax", "sweep"]
    assert container["command"][-1] == "--distributed"
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
