"""The shape of the house, read from the syntax tree: who imports whom, and what no module may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent

# A part imports only parts of lower rows, so parts of one row never import each other.
# `errors` may be imported from everywhere except by what must not know us at all.
ROWS = {
    "errors": 0,
    "envs": 0,
    "configs": 0,
    "spec": 0,
    "activations": 0,
    "stacking": 0,
    "typed": 0,
    "seeding": 0,
    "discriminants": 0,
    "updates": 0,
    "memory": 0,
    "signals": 0,
    "runs": 0,
    "evaluation": 0,
    "machine": 0,
    "checkpoints": 1,
    "config": 1,
    "monitoring": 1,
    "conditioning": 1,
    "heads": 1,
    "completion": 2,
    "generator": 2,
    "targets": 1,
    "diversity": 1,
    "actor": 3,
    "sharing": 3,
    "marl": 4,
    "language": 4,
    "sweep": 5,
    "language_cli": 5,
    "__init__": 5,
    "cli": 6,
    "__main__": 7,
}
STRANGERS = {"errors", "envs", "configs"}  # import nothing of ours, not even errors
FORBIDDEN_WORDS = {"manager", "handler", "helper", "helpers", "util", "utils", "common", "base", "data", "info", "misc"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "eval", "exec"}


def modules() -> dict[str, Path]:
    """Every module of ours by the name it has when installed."""
    found = {}
    for folder, name in (("hypermarl", "hypermarl"), ("envs", "hypermarl.envs"), ("configs", "hypermarl.configs")):
        for path in sorted((TOP / folder).rglob("*.py")):
            parts = path.relative_to(TOP / folder).with_suffix("").parts
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def part(module: str) -> str:
    """`hypermarl.marl.train` -> `marl`."""
    return [*module.split("."), "__init__"][1]


def imports(module: str, path: Path) -> Iterator[str]:
    """Modules of ours that `module` imports anywhere in its code, functions included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*parent, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "hypermarl":
                # `from hypermarl import config` names a module, `from hypermarl.spec import Weights` does not
                yield name if name in MODULES else name.rpartition(".")[0]


def trespasses(module: str, path: Path) -> list[str]:
    own = part(module)
    wrong = []
    for target in imports(module, path):
        other = part(target)
        if other == own or (other == "errors" and own not in STRANGERS):
            continue
        if ROWS[other] >= ROWS[own] or own in STRANGERS:
            wrong.append(f"{module} (row {ROWS[own]}) imports {target} (row {ROWS[other]})")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    assert part(module) in ROWS, f"{module} has no row yet: give it one"
    assert trespasses(module, MODULES[module]) == []


def test_the_check_of_imports_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    for code, caught in {
        "from hypermarl.marl.policy import Policy": True,
        "import hypermarl.marl.policy": True,
        "def f():\n    from hypermarl import cli": True,
        "from hypermarl.generator import Generator": True,
        "from hypermarl.spec import Weights": False,
        "from hypermarl import errors": False,
        "import torch": False,
    }.items():
        path.write_text(code)
        assert bool(trespasses("hypermarl.targets.mlp", path)) == caught, code
    path.write_text("from ..errors import UserError")
    assert trespasses("hypermarl.envs.games", path)
    path.write_text("from .interface import View")
    assert not trespasses("hypermarl.envs.games", path)


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)}


@pytest.mark.parametrize("module", MODULES)
def test_names_say_what_things_are(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    names = {MODULES[module].stem} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert not {name for name in names if words(name) & FORBIDDEN_WORDS}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled_and_no_text_is_run_as_code(module: str) -> None:
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & FORBIDDEN_CALLS
    assert not found


@pytest.mark.parametrize("module", MODULES)
def test_importing_changes_nothing_outside(module: str) -> None:
    """Top-level code may define and assign; it may not call for an effect, as logging set-up or a registry would."""
    tree = ast.parse(MODULES[module].read_text())
    effects = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ]
    assert effects == []


@pytest.mark.parametrize("module", [name for name in MODULES if MODULES[name].stat().st_size > 0])
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


@pytest.mark.parametrize("command", ["import hypermarl", "from hypermarl import cli"])
def test_the_start_is_light(command: str) -> None:
    script = f"{command}\nimport sys\nassert not {{'torch', 'hydra', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
