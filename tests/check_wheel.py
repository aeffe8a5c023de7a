"""Builds the package and checks what its users get: `python -m tests.check_wheel` (needs `build`)."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("modeling", "preprocessors", "pipelines", "training", "recipes")
# Names that would be importable from anywhere if a room were installed at the top level.
NOT_IMPORTABLE = (*ROOMS, "tests", "benchmarks")


def expected_files() -> set[str]:
    """The files that belong in the wheel, apart from its metadata."""
    face = {f"perceivers/{path.name}" for path in (ROOT / "perceivers").glob("*.py")}
    face |= {f"perceivers/cli/{path.name}" for path in (ROOT / "perceivers" / "cli").glob("*.py")}
    face |= {"perceivers/py.typed", "perceivers_cli.py"}
    rooms = {f"perceivers/{room}/{path.name}" for room in ROOMS for path in (ROOT / room).glob("*.py")}
    recipes = {f"perceivers/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    return face | rooms | recipes


def wheel_files(wheel: Path) -> set[str]:
    """The files in a wheel, apart from its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        # The wheel is built from the sdist, so that what the sdist lacks is missing from the wheel too.
        subprocess.run([sys.executable, "-m", "build", "--outdir", folder, str(ROOT)], check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        files = wheel_files(wheel)
        if files != expected_files():
            print(f"missing: {sorted(expected_files() - files)}; not expected: {sorted(files - expected_files())}")
            return 1
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
        look = f"from importlib.util import find_spec; print([n for n in {NOT_IMPORTABLE} if find_spec(n)])"
        found = subprocess.run([python, "-c", look], check=True, capture_output=True, text=True, cwd=folder).stdout
        if found.strip() != "[]":
            print(f"importable from outside the repository: {found}")
            return 1
        print(f"{wheel.name}: {len(files)} files, as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
