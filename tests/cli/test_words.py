"""What the commands say, and how they end when nobody listens any more."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from advjax import training
from advjax.cli import main
from advjax.training import TrainResult
from tests.data.made import arrays

INTERRUPTED = """
import builtins, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
real = builtins.__import__
def stopped(name, *rest, **more):
    if name.split(".")[0] == "jax":
        try:  # Ctrl-C while the large modules are loaded
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("what extensions make of it")
    return real(name, *rest, **more)
builtins.__import__ = stopped
from advjax.cli import main
sys.exit(main(["train"]))
"""


def test_an_interrupt_while_modules_are_loaded_is_one_line():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("advjax: interrupted")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_is_no_failure(words):
    gone, pipe = os.pipe()
    os.close(gone)
    done = subprocess.run(
        [sys.executable, "-m", "advjax", *words], stdout=pipe, stderr=subprocess.PIPE, text=True
    )
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, "")


def _train(monkeypatch):
    """Run nothing, but say that it was done."""

    def trained(config):
        print(f"{config.out}: done; best epoch 1 of 1")
        return TrainResult(config.out, 1, 1, 0.5, "val_accuracy", [], 0)

    monkeypatch.setattr(training, "train", trained)


def test_the_end_of_a_training_is_said_once(monkeypatch, capsys):
    _train(monkeypatch)
    assert main(["train", "--out", "runs/k"]) == 0
    said = capsys.readouterr().out
    assert said.count("best epoch") == 1
    assert "next: advjax evaluate --runs runs/k --out runs/k-robustness" in said


def test_the_config_of_a_moved_run_says_which_folder_it_names(monkeypatch, capsys, tmp_path):
    _train(monkeypatch)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"out": "runs/old"}}))
    assert main(["train", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"out: runs/old, as {file} says;")
    assert f"add --out {tmp_path}" in said
    assert main(["train", str(file), "--out", str(tmp_path)]) == 0
    assert "as " not in capsys.readouterr().out.splitlines()[0]


def _check(tmp_path, capsys, **changed):
    np.savez_compressed(tmp_path / "scans.npz", **{**arrays(), **changed})
    assert main(["data", "check", f"npz:{tmp_path / 'scans.npz'}"]) == 0
    return capsys.readouterr()


def test_sound_data(tmp_path, capsys):
    said = _check(tmp_path, capsys)
    assert said.out.splitlines()[-1].startswith("sound: ")
    assert said.err == ""


def test_a_leak_between_splits_is_said_once_and_is_not_sound(tmp_path, capsys, recwarn):
    numbers = {"train": 12, "val": 4, "test": 6}
    groups = {f"{split}_groups": np.arange(n) for split, n in numbers.items()}
    said = _check(tmp_path, capsys, **groups)
    assert said.out.count("are in both train and test") == 1
    assert said.err == ""
    assert len(recwarn) == 0
    assert said.out.splitlines()[-1].startswith("readable: ")
    assert "sound" not in said.out


@pytest.mark.slow
def test_data_check_says_what_it_checks(capsys):
    numbers = ["--num-train", "8", "--num-val", "4", "--num-test", "4", "--size", "16"]
    assert main(["data", "check", *numbers]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no source is named; checking the default, phantom:dermoscopy")
    assert "sound" in said


def test_remedies_name_the_flags_of_the_command(capsys):
    assert main(["data", "check", "phantom:ct", "--size", "0"]) == 1
    assert "--size must be at least 1" in capsys.readouterr().err
    assert main(["data", "check", "phantom:ct", "--num-train", "0"]) == 1
    assert "--num-train must be at least 1" in capsys.readouterr().err


def test_text_that_is_called_npz(tmp_path, capsys):
    file = tmp_path / "notes.npz"
    file.write_text("this is a text, and a long one at that, " * 20)
    assert main(["data", "check", f"npz:{file}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a readable .npz file (it begins with b'this i'); write it with" in line
