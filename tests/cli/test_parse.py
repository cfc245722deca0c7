"""Words, files and exit codes."""

import ast
import inspect
import itertools
import json
import re

import pytest

from advjax import attacks
from advjax import config as configs
from advjax.cli import main
from advjax.cli._main import UsageError
from advjax.cli._parse import parse, read_config
from advjax.config import AttackConfig, EvaluateConfig, TrainConfig


def read(*words, cls=TrainConfig):
    return parse(cls, words, command="train", description="test")


def test_defaults_and_nested_fields():
    config = read("--model.width", "16", "--data.source", "npz:a.npz", "--balanced", "True")
    assert config.model.width == 16
    assert config.data.source == "npz:a.npz"
    assert config.balanced is True
    assert read() == TrainConfig()


@pytest.mark.parametrize("words", [("--eps", "8/255"), ("--eps=8/255",)])
def test_budgets_as_people_say_them(words):
    assert read(*words).eps == 8 / 255


def test_lists():
    config = read(
        "--runs", "a", "b", "--attacks", "pgd:num_steps=5", "fgsm", "--epsilons", "1/255", "2/255",
        cls=EvaluateConfig,
    )  # fmt: skip
    assert config.runs == ("a", "b")
    assert config.attacks == ("pgd:num_steps=5", "fgsm")
    assert config.epsilons == (1 / 255, 2 / 255)


def test_python_config_and_fields_after_it(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from advjax.config import TrainConfig\nconfig = TrainConfig(method='pgd', epochs=3)\n"
    )
    config = read(str(file), "--epochs", "5")
    assert (config.method, config.epochs) == ("pgd", 5)


def test_json_config_of_an_earlier_run(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"method": "fgsm", "model": {"width": 8}}}))
    config = read(str(file))
    assert (config.method, config.model.width) == ("fgsm", 8)
    file.write_text(json.dumps({"config": {"metod": "fgsm"}}))
    with pytest.raises(ValueError, match="metod"):
        read(str(file))
    file.write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        read(str(file))


def test_files_that_hold_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        read_config(str(tmp_path / "none.py"), TrainConfig)
    with pytest.raises(UsageError, match=r"\.py or \.json"):
        read_config("config.yaml", TrainConfig)
    file = tmp_path / "other.py"
    file.write_text("config = 3\n")
    with pytest.raises(ValueError, match="TrainConfig"):
        read_config(str(file), TrainConfig)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "config = TrainConfig(epoch=3)",
            r"mine\.py, line 2: TrainConfig has no field 'epoch'; known: out, .*epochs",
        ),
        ("config = TrainConfig(data=DataConfig(src='x'))", "DataConfig has no field 'src'; known"),
        ("import no_such_thing", r"line 2: it imports 'no_such_thing', which is not installed"),
        ("config = TrainConfig(", r"mine\.py, line 2: SyntaxError"),
        ("config = 1 / 0", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        ("config = TrainConfig(eps='4/255')", r"mine\.py: config: eps must be a number, got '4/"),
        ("config = TrainConfig(epochs=True)", "epochs must be a whole number, got True"),
        ("config = TrainConfig(ema='no')", "ema must be a number or None, got 'no'"),
        ("config = TrainConfig(balanced=1)", "balanced must be True or False, got 1"),
        ("config = TrainConfig(data='phantom:ct')", "data must be a group of fields, got 'phan"),
        ("config = TrainConfig(data=DataConfig(size=2.5))", r"data\.size must be a whole number"),
    ],
)
def test_mistakes_in_a_python_config_are_one_line(tmp_path, capsys, text, match):
    file = tmp_path / "mine.py"
    file.write_text(f"from advjax.config import DataConfig, TrainConfig\n{text}\n")
    assert main(["train", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(match, line), line
    assert "advjax[run]" not in line


def test_lists_and_whole_numbers_of_a_config_become_what_the_field_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nfrom advjax.config import EvaluateConfig\n"
        "config = EvaluateConfig(runs=['a'], epsilons=[np.float32(0.5), 1])\n"
    )
    found = read_config(str(file), EvaluateConfig)
    assert found.runs == ("a",)
    assert found.epsilons == (0.5, 1.0)
    assert [type(eps) for eps in found.epsilons] == [float, float]
    file.write_text(
        "from advjax.config import EvaluateConfig\nconfig = EvaluateConfig(runs='runs/a')\n"
    )
    with pytest.raises(ValueError, match="runs must be a list, each entry text, got 'runs/a'"):
        read_config(str(file), EvaluateConfig)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["evaluate", "--help"], 0),
        (["report", "--help"], 0),
        (["data", "--help"], 0),
        (["data", "list"], 0),
        (["data"], 2),
        (["data", "fetch"], 2),
        (["attack"], 2),
        (["train", "--metod", "pgd"], 2),
        (["train", "--epochs", "many"], 2),
        (["train", "config.yaml"], 2),
        (["train", "missing.py"], 1),
        (["train", "--method", "magic"], 1),
        (["train", "--data.source", "npz:missing.npz"], 1),
        (["train", "--data.source", "ftp:there"], 1),
        (["train", "--model.name", "resnet19"], 1),
        (["evaluate"], 1),
        (["evaluate", "--runs", "missing"], 1),
        (["evaluate", "--runs", "x", "--epsilons", "0.2", "0.1"], 1),
        (["evaluate", "--runs", "x", "--attacks", "pdg"], 1),
        (["evaluate", "--runs", "x", "--attacks", "pgd:steps=3"], 1),
        (["report", "missing"], 1),
        (["data", "check", "npz:missing.npz"], 1),
    ],
)
def test_exit_codes(words, code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVJAX_DATA_DIR", raising=False)
    assert main(words) == code
    said = capsys.readouterr()
    if code == 1:
        lines = said.err.strip().splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("advjax: ")
    assert "Traceback" not in said.err


def test_help_names_every_field(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--eps", "--method", "--data.source", "--model.width", "--devices", "pixel units"):
        assert word in text


def test_every_field_has_a_text():
    for cls in ast.parse(inspect.getsource(configs)).body:
        for field, after in itertools.pairwise([*getattr(cls, "body", []), None]):
            if isinstance(field, ast.AnnAssign):
                told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert told, f"{cls.name}.{field.target.id}"


def test_defaults_of_attacks_are_what_help_says(capsys):
    told = {"pgd": 20, "cw_linf": 30, "deepfool": 50, "hopskipjump": 64, "cw_l2": 1000,
            "simba": 5000, "square": 5000, "segpgd": 20, "cospgd": 20, "dag": 200,
            "asma": 1000}  # fmt: skip
    told |= dict.fromkeys(("apgd", "fab", "ddn", "fmn", "nes", "spsa"), 100)
    for name, make in attacks.ATTACKS.items():
        steps = inspect.signature(make).parameters.get("num_steps")
        assert (1 if steps is None else steps.default) == (
            1 if name in ("fgsm", "gap", "rs_fgsm", "universal") else told.get(name, 10)
        )
    assert main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("20 for pgd", "30 for cw_linf", "50 for deepfool", "64 for hopskipjump",
                  "100 for apgd, fab, ddn, fmn, nes and spsa", "1000 for cw_l2",
                  "20 for pgd, segpgd and cospgd", "200 for dag",
                  "5000 for simba and square"):  # fmt: skip
        assert words in " ".join(re.sub("[│|]", " ", text).split())


def test_interrupt_is_said(monkeypatch, capsys):
    from advjax import training

    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["train"]) == 1
    assert "goes on" in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    from advjax import training

    def broken(config):
        raise RuntimeError("out of memory\nwith details")

    monkeypatch.setattr(training, "train", broken)
    assert main(["train"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "out of memory" in said[0]
    assert "ADVJAX_DEBUG=1" in said[0]


def test_folders_that_look_like_fractions_stay_folders():
    assert read("--out", "2024/05").out == "2024/05"


def test_attack_words():
    assert AttackConfig.parse("pgd:norm=l2,num_steps=7,step_size=0.5") == AttackConfig(
        "pgd", "l2", 7, 0.5
    )
    assert AttackConfig.parse("pgd:num_steps=7,norm=l2").label() == "pgd-7-l2"
    for bad in ("pgd:steps=3", "pgd:num_steps", "pgd:num_steps=many"):
        with pytest.raises(ValueError, match=r"NAME:norm|numbers"):
            AttackConfig.parse(bad)


def test_a_comma_within_a_name():
    found = AttackConfig.parse(r"pgd:num_steps=3,goal=class-nevus\, blue,norm=l2")
    assert (found.goal, found.num_steps, found.norm) == ("class-nevus, blue", 3, "l2")
    with pytest.raises(
        ValueError, match=r"' blue' is no option.*a comma within a name is written \\,"
    ):
        AttackConfig.parse("pgd:goal=class-nevus, blue")
