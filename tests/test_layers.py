"""A module imports from lower floors only; siblings on floor 2 never see each other."""

import ast
from pathlib import Path

import advjax

ROOT = Path(advjax.__file__).parent
FLOORS = {
    "_version": 0, "types": 0, "status": 0, "tree": 0, "random": 0, "mesh": 0, "config": 0,
    "boxes": 0,
    "threat": 1, "losses": 1, "criteria": 1, "metrics": 1, "testing": 1.5,
    "tasks": 2, "attacks": 2, "models": 2, "data": 2, "checkpoint": 2, "store": 2,
    "privacy": 2, "poisoning": 2,
    "engine": 3, "training": 3, "analysis": 3,
    "report": 4,
    "cli": 5, "__main__": 6, "__init__": 6,
}  # fmt: skip


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The packages of advjax that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "advjax"
        ):
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found.update(p[1] if len(p) > 1 else "__init__" for p in parts if p[0] == "advjax")
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def test_every_file_has_a_floor():
    unknown = {package(p) for p in ROOT.rglob("*.py")} - set(FLOORS)
    assert not unknown, f"give these a floor in tests/test_layers.py: {unknown}"


def test_imports_go_down():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        own = package(path)
        for other in imported(path) - {own}:
            # names imported from the package itself, such as Status, live on floor 0
            floor = FLOORS.get(other, 0)
            if floor >= FLOORS[own]:
                wrong.append(
                    f"{path.relative_to(ROOT)} (floor {FLOORS[own]}) imports {other} ({floor})"
                )
    assert not wrong, "\n".join(wrong)


def test_sizes_to_hold():
    """Files up to 400 lines, functions up to 60 (docstrings not counted)."""
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        if text.count("\n") > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                length = node.end_lineno - node.lineno - (doc.count("\n") + 1 if doc else 0)
                if length > 60:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)
