"""The tree keeps the shape that the architecture promises."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "protocol": "headwater_protocol",
    "models": "headwater_models",
    "agent": "headwater_agent",
    "shard": "headwater_shard",
    "gateway": "headwater_gateway",
    "firmware-sim": "headwater_firmware_sim",
}
CORES = (
    "protocol/headwater_protocol",
    "shard/headwater_shard/state",
    "shard/headwater_shard/shardchain",
    "shard/headwater_shard/mainchain",
    "shard/headwater_shard/engine",
    "gateway/headwater_gateway/machine",
    "agent/headwater_agent/machine",
)
"""Where time, entropy and I/O are arguments; a folder `shell` in them brings these."""
FORBIDDEN_IN_CORES = {
    "time",
    "random",
    "secrets",
    "socket",
    "os",
    "logging",
    "asyncio",
    "threading",
    "subprocess",
    "sqlite3",
    "uuid",
    "pathlib",
    "datetime",
}
NAMED_BY_THE_USER = ("paho-mqtt", "tflite-runtime", "numpy", "cbor2", "pycryptodome", "aiomqtt")
MAX_LINES = 760
"""No file grows past this; most stay under 400."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(("folder", "package"), sorted(PACKAGES.items()))
def test_each_folder_holds_its_typed_package(folder: str, package: str) -> None:
    assert (ROOT / folder / package / "__init__.py").is_file()
    assert (ROOT / folder / package / "py.typed").is_file()


def test_the_files_that_people_look_for_are_there() -> None:
    for name in (
        "README.md",
        "LICENSE",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Makefile",
        "requirements.txt",
        "docs/ARCHITECTURE.md",
        ".ci/run",
    ):
        assert (ROOT / name).stat().st_size > 100, name


def test_requirements_pin_the_packages_that_the_project_is_built_on() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert pinned >= set(NAMED_BY_THE_USER)
    for line in lines:
        if line and not line.startswith("#"):
            assert "==" in line, line


@pytest.mark.parametrize("folder", CORES)
def test_cores_reach_for_no_clock_no_entropy_and_no_io(folder: str) -> None:
    for path in sources(folder):
        if "shell" in path.relative_to(ROOT / folder).parts:
            continue
        reached = imported(ast.parse(path.read_text())) & FORBIDDEN_IN_CORES
        assert not reached, f"{path.relative_to(ROOT)} imports {sorted(reached)}"


def test_no_record_has_a_float() -> None:
    for folder in PACKAGES:
        for path in sources(folder):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ClassDef):
                    continue
                fields = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
                if any(getattr(entry.target, "id", "") == "KIND" for entry in fields):
                    floats = [e for e in fields if "float" in ast.unparse(e.annotation)]
                    assert not floats, f"{path.relative_to(ROOT)}: {node.name}"


def test_input_is_never_checked_with_assert() -> None:
    for folder in PACKAGES:
        for path in sources(folder):
            asserts = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)
            ]
            assert not asserts, f"{path.relative_to(ROOT)}:{asserts[0].lineno}"


def test_nothing_is_unpickled() -> None:
    for folder in PACKAGES:
        for path in sources(folder):
            text = path.read_text()
            assert not re.search(r"\b(pickle|marshal|dill|joblib)\b", text), path
            assert "allow_pickle=True" not in text, path


def test_no_file_outgrows_a_reader() -> None:
    for folder in (*PACKAGES, "tests"):
        for path in sources(folder):
            lines = len(path.read_text().splitlines())
            assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_every_module_says_what_it_is() -> None:
    for folder in PACKAGES:
        for path in sources(folder):
            assert ast.get_docstring(ast.parse(path.read_text())), path.relative_to(ROOT)


def test_a_device_needs_nothing_of_gateways_or_simulators() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        re.split(r"[<>=;\[ ]", entry)[0]
        for entry in (*project["dependencies"], *project["optional-dependencies"]["agent"])
    }
    assert names == {
        "cbor2",
        "pycryptodome",
        "numpy",
        "paho-mqtt",
        "tflite-runtime",
        "ai-edge-litert",
    }


def test_console_scripts_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        package = module.partition(".")[0]
        folder = next(folder for folder, held in PACKAGES.items() if held == package)
        path = ROOT / folder / (module.replace(".", "/") + ".py")
        if not path.is_file():
            path = path.with_suffix("") / "__init__.py"
        assert f"def {function}(" in path.read_text(), name
