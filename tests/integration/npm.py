"""The npm packages of examples/node, pinned by their hashes."""

import shutil
import subprocess
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/node"


def install(folder: Path) -> None:
    """Install the packages in a folder."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(EXAMPLE / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
