"""What docker/ installs is what setup.cfg asks for, by steps that .ci/run carries out as well."""

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
CONSTRAINTS = ROOT / "constraints.txt"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.cpu"]
SCRIPTS = [*(DOCKER / "steps").iterdir(), DOCKER / "check-versions", DOCKER / "update-constraints", ROOT / ".ci/run"]
SCRIPTS += [DOCKER / "slurm.sbatch"]


@pytest.fixture(scope="module")
def rehearse() -> ModuleType:
    """docker/rehearse.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("rehearse", DOCKER / "rehearse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements() -> list[Requirement]:
    """All of setup.cfg's, with those of the extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return [Requirement(line) for text in lists for line in text.strip().splitlines()]


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = CONSTRAINTS.read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==\d[\w.]*", line), line  # no place, no host, no +cpu
    assert names == sorted({*names})
    assert names == [canonicalize_name(name) for name in names]


def test_constraints_meet_every_requirement() -> None:
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines())
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    wanted = requirements()
    assert len(wanted) > 30
    for requirement in wanted:
        if requirement.name == "kd_lightning":
            assert requirement.extras <= {*extras["options.extras_require"]}
            continue
        assert requirement.specifier, f"{requirement}: from which version on?"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert {"uv", "setuptools"} <= {*pins}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_every_run_is_one_step(file: Path, rehearse: ModuleType) -> None:
    steps = [rest for word, rest in rehearse.instructions(file) if word == "RUN"]
    assert len(steps) >= 5
    for step in steps:
        called = re.fullmatch(r'/opt/kd/steps/([a-z-]+)(?: (?:[\w+./,-]+|"\$[A-Z]+"))*', step)
        assert called, step
        assert (DOCKER / "steps" / called[1]).stat().st_mode & 0o111, step
    used = {step.split()[0].rpartition("/")[2] for step in steps}
    assert used == {path.name for path in (DOCKER / "steps").iterdir()}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_nothing_else_is_fetched_and_nothing_secret_is_in_it(file: Path, rehearse: ModuleType) -> None:
    found = rehearse.instructions(file)
    assert not [word for word, _ in found if word == "ADD"]
    assert not re.search(r"https?:|KEY|TOKEN|PASSWORD", file.read_text())
    (base,) = (rest for word, rest in found if word == "FROM")
    assert re.fullmatch(r"python:3\.11-slim-\w+", base)
    for word, rest in found:
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert rehearse.sent(source), source
    words = [word for word, _ in found]
    assert words.index("USER") < len(words) - 1 - words[::-1].index("RUN")  # the last step is the user's
    assert dict(found)["ENTRYPOINT"] == '["python", "-m", "kd_lightning"]'
    assert dict(found)["USER"] == "1000:1000"


def test_code_is_copied_behind_what_it_stands_on(rehearse: ModuleType) -> None:
    found = rehearse.instructions(DOCKERFILES[0])
    rests = [rest for _, rest in found]
    installed = next(n for n, rest in enumerate(rests) if "install-python requirements" in rest)
    copied = [n for n, rest in enumerate(rests) if rest.startswith(("kd_lightning ", "configs ", "README"))]
    assert len(copied) == 3
    assert installed < min(copied)


def test_both_images_are_made_alike(rehearse: ModuleType) -> None:
    gpu, cpu = (rehearse.instructions(file) for file in DOCKERFILES)
    other = [each for each in (*gpu, *cpu) if (each in gpu) != (each in cpu)]
    assert {word for word, _ in other} == {"ARG", "ENV"}


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("runs/p/n/id/last.ckpt", True),
        (".git/config", True),
        (".netrc", True),
        ("wandb/settings", True),
        ("docs/index.md", True),
        ("kd_lightning/data/__pycache__/base.pyc", True),
        ("configs/.env", True),
        ("kd_lightning/runs/resume.py", False),
        ("kd_lightning/models/weights/cifar_resnet20.digits.safetensors", False),
        ("constraints.txt", False),
    ],
)
def test_what_docker_is_sent(rehearse: ModuleType, path: str, out: bool) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rehearse.ignored(path, patterns) is out


def test_a_file_that_is_not_sent_ends_a_rehearsal(rehearse: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY docs /work/docs\n")
    with pytest.raises(SystemExit, match="COPY docs: nothing is sent"):
        rehearse.Rehearsal(tmp_path / "root", chroot=False).carry_out(tmp_path / "Dockerfile")


def test_a_step_that_fails_ends_a_rehearsal(rehearse: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch\nCOPY docker/steps/make-user /opt/kd/steps/\nRUN /opt/kd/steps/make-user kd 0 \\\n  /work\n"
    )
    with pytest.raises(SystemExit, match=r"RUN .*make-user kd 0 +/work: exit status 2"):
        rehearse.Rehearsal(tmp_path / "root", chroot=False).carry_out(tmp_path / "Dockerfile")


def test_steps_refuse_to_do_nothing() -> None:
    for name, args in (("install-system", []), ("install-python", ["everything"]), ("make-user", ["kd"])):
        environment = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": "/nowhere", "KD_DRY_RUN": "1"}
        done = subprocess.run([DOCKER / "steps" / name, *args], env=environment, capture_output=True, check=False)
        assert done.returncode == 2, (name, done.stderr)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound(script: Path) -> None:
    assert script.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    checker = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if checker:
        subprocess.run([checker, "--external-sources", script], cwd=ROOT, check=True)


def test_ci_carries_the_dockerfile_out() -> None:
    assert "docker/rehearse.py docker/Dockerfile" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("script", [".ci/run", "docker/check-versions", "docker/update-constraints"])
def test_no_setting_of_the_environment_changes_versions(script: str) -> None:
    """What these scripts install is what the lines in them say."""
    lines = (ROOT / script).read_text().splitlines()
    sourced = next(n for n, line in enumerate(lines) if line.startswith("source .ci/environment"))
    assert sourced < next(n for n, line in enumerate(lines) if "pip " in line.partition("#")[0] or "bash -" in line)
    assert not [line for line in lines if re.search(r"\b(UV|PIP)_(?!CACHE_DIR)\w+=", line)]


def test_what_stays_in_the_environment() -> None:
    changes = ["CONSTRAINT", "BUILD_CONSTRAINT", "OVERRIDE", "EXCLUDE", "EXCLUDE_NEWER", "RESOLUTION", "PRERELEASE"]
    changes += ["TORCH_BACKEND", "PRE", "REQUIREMENT", "PYTHON", "SYSTEM_PYTHON", "CONFIG_FILE"]
    gone = [f"{tool}_{name}" for tool in ("UV", "PIP") for name in changes] + ["UV_INDEX_STRATEGY"]
    gone += ["VIRTUAL_ENV", "PYTHONPATH", "PYTEST_ADDOPTS", "WANDB_API_KEY"]
    stays = [
        "PIP_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_CERT",
        "UV_DEFAULT_INDEX",
        "UV_CACHE_DIR",
        "UV_HTTP_TIMEOUT",
        "HOME",
    ]
    command = ["bash", "-euo", "pipefail", "-c", "source .ci/environment; export -p"]
    given = dict.fromkeys([*gone, *stays], "x")
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
    assert {*re.findall(r"^declare -x (\w+)", done.stdout, re.M)} & {*given} == {*stays}


def test_the_lowest_versions_are_all_of_setup_cfg(tmp_path: Path) -> None:
    """docker/check-versions reads them by sed."""
    (command,) = re.findall(r"^ +(sed -nE '.+' setup\.cfg) >", (DOCKER / "check-versions").read_text(), re.M)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    lowest = dict(line.split("==") for line in done.stdout.splitlines())
    wanted = [requirement for requirement in requirements() if requirement.name != "kd_lightning"]
    assert {*lowest} == {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert requirement.specifier.contains(lowest[requirement.name]), requirement
        assert any(each.version == lowest[requirement.name] for each in requirement.specifier), requirement
