"""What is installed: one top-level name, every module and preset, and versions that agree."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hypermarl import cli

TOP = Path(__file__).parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
FOLDERS = {"hypermarl": "hypermarl", "envs": "hypermarl/envs", "configs": "hypermarl/configs"}


def tree(ends: str) -> set[str]:
    """Files of ours that end so, under the path they have when installed."""
    return {
        f"{inside}/{path.relative_to(TOP / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (TOP / folder).rglob(f"*{ends}")
    }


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree."""
    copy = tmp_path_factory.mktemp("copy")
    for name in (*FOLDERS, "pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        source = TOP / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(out), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"hypermarl", f"hypermarl-{PROJECT['version']}.dist-info"}


def test_the_wheel_has_every_module_and_preset_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hypermarl/")}
    assert names == tree(".py") | tree(".yaml") | {"hypermarl/py.typed"}
    assert {"hypermarl/envs/games.py", "hypermarl/configs/env/vmas/dispersion.yaml"} <= names


def test_the_wheel_works_away_from_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    script = (
        "import hypermarl, hypermarl.envs, pathlib; print(pathlib.Path(hypermarl.envs.__file__).parent);"
        "from hypermarl.config import compose; print(compose(['env=vmas/dispersion'])['env']['name'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "site/hypermarl/envs"), "dispersion"]


def test_the_package_list_is_the_tree() -> None:
    """A package missing from the list would be dropped from the wheel without a warning."""
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    listed = parser["options"]["packages"].split()
    packages = {Path(name).parent.as_posix().replace("/", ".") for name in tree("__init__.py")}
    assert sorted(listed) == sorted(packages)
    assert set(parser.sections()) == {"options", "options.package_data"}


def test_pins_satisfy_the_ranges_and_cover_every_direct_dependency() -> None:
    pins = {}
    for requirement in requirements(
        [line for line in (TOP / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    ):
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "+" not in pin.version, requirement
        pins[canonicalize_name(requirement.name)] = pin.version
    assert pins["torch"] == "2.13.0"
    wanted = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    for requirement in requirements(wanted):
        name = canonicalize_name(requirement.name)
        if name in ("hypermarl", "setuptools", "wheel"):
            continue
        assert requirement.specifier.contains(pins[name]), requirement


PACKAGE_OF = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "hydra": "hydra-core",
    "omegaconf": "hydra-core",
    "imageio_ffmpeg": "imageio-ffmpeg",
}


def test_every_package_that_is_imported_is_asked_for() -> None:
    asked = {canonicalize_name(each.name) for each in requirements(PROJECT["dependencies"])}
    for extra in ("vmas", "mpe", "butterfly", "video", "export", "ray", "language"):
        asked |= {canonicalize_name(each.name) for each in requirements(PROJECT["optional-dependencies"][extra])}
    for folder in FOLDERS:
        for path in (TOP / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
                for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"hypermarl"}:
                    assert canonicalize_name(PACKAGE_OF.get(name, name)) in asked, f"{path} imports {name}"


def test_make_installs_the_pinned_torch_first() -> None:
    installs = re.findall(r"pip install .*", (TOP / "Makefile").read_text())
    assert installs[0].endswith("torch==2.13.0") and all("-c constraints.txt" in line for line in installs[1:])


def test_every_missing_package_is_sent_to_an_extra_that_exists() -> None:
    assert set(cli.EXTRAS.values()) <= set(PROJECT["optional-dependencies"])


def test_the_changelog_and_the_citation_know_the_version() -> None:
    citation = (TOP / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert "## Unreleased" in (TOP / "CHANGELOG.md").read_text()
