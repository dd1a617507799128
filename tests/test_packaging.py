"""The files that install, run and describe the project agree with one another."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGING_FILES = ["pyproject.toml", "requirements.lock", "environment.yml", "Makefile", ".ci/run"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LOCKED = ["train", "wandb", "dev", "docs", "examples"]  # extras
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")

# The brackets keep the patterns from matching this file.
REGISTRY_HOST = re.compile(r"pypi[.]org|pythonhosted[.]org|pytorch[.]org/whl|anaconda[.]org", re.IGNORECASE)
INDEX_OPTION = re.compile(r"index[-]url|find[-]links|/[s]imple\b|file[:]/|trusted[-]host")


def locked_versions(python: str, platform: str) -> dict[str, str]:
    """What `pip install -r requirements.lock` installs for one Python version on one platform."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": platform,
        "platform_machine": "x86_64",
    }
    versions = {}
    for line in LOCK.splitlines():
        if line.lstrip().startswith("#"):
            continue
        pin = Requirement(line)
        assert re.fullmatch(r"==[^,*+]+", str(pin.specifier)), f"not one exact public version: {line}"
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in versions, f"two versions of {name} on Python {python}, {platform}"
            versions[name] = str(pin.specifier).removeprefix("==")
    return versions


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_every_declared_dependency(python, platform):
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    versions = locked_versions(python, platform)
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(line for extra in LOCKED for line in extras[extra])]):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}"


def test_every_import_of_the_package_is_declared():
    imported = set()
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "train.py"]:
        imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    distributions = {"hydra": "hydra-core", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    extras = PROJECT["optional-dependencies"]
    declared = {Requirement(r).name for r in [*PROJECT["dependencies"], *extras["train"], *extras["wandb"], *extras["parquet"]]}
    foreign = imported - sys.stdlib_module_names - {"late_phase", *(path.stem for path in ROOT.glob("scripts/*.py"))}
    assert {distributions.get(name, name) for name in foreign} <= declared


def test_only_linux_installs_cuda_packages():
    cuda = re.compile(r"nvidia-|cuda-|triton")
    assert any(map(cuda.match, locked_versions("3.12", "linux")))
    assert not any(map(cuda.match, locked_versions("3.12", "darwin")))


def test_lock_names_the_command_that_wrote_it():
    extras = " ".join(f"--extra {extra}" for extra in LOCKED)
    command = f"uv pip compile --universal --python-version {PYTHONS[0]} {extras} pyproject.toml -o requirements.lock"
    assert LOCK.splitlines()[1].lstrip("# ") == command


def test_all_files_name_the_same_pythons():
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"python(3\.\d+)", makefile) == PYTHONS[::-1]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"Python {oldest} to {newest}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{oldest} to {newest}" in (ROOT / "scripts" / "install.py").read_text(encoding="utf-8")


def test_conda_environment_installs_the_lock_on_a_supported_python():
    environment = OmegaConf.to_container(OmegaConf.load(ROOT / "environment.yml"))
    assert environment["name"] == PROJECT["name"]
    (python,) = (d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert pip == ["-r requirements.lock", "-e ."]


def test_no_tracked_file_names_a_package_registry():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    tracked = [ROOT / name for name in listing.stdout.split("\0") if name]
    if listing.returncode:  # a downloaded archive: all that lies in the project's own folders
        folders = (ROOT / name for name in (".ci", "configs", "docs", "examples", "results", "scripts", "src", "tests"))
        tracked = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.glob("*"))
    assert len(tracked) > 50
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in tracked if path.is_file()}
    assert [path for path, text in texts.items() if REGISTRY_HOST.search(text)] == []


@pytest.mark.parametrize("name", PACKAGING_FILES)
def test_packaging_files_leave_the_index_to_the_user(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not REGISTRY_HOST.search(text)
    assert not INDEX_OPTION.search(text)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split()
    output = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    described = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert list(described) == targets


def test_continuous_integration_lints_and_tests():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert {"set -euo pipefail", "make lint", "make test"} <= set(lines)


def test_citation_states_the_packaged_version():
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert (citation.version, citation.license) == (PROJECT["version"], PROJECT["license"])
