"""Checks what `python -m build` has made, before it is published.

python .ci/check_dist.py dist                              # what the wheel and the source distribution hold
python .ci/check_dist.py dist --gpt fresh/bin/gpt          # and that the installed wheel trains a model, offline
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = "On a clear day you can see the sea, and the ships that go out to it. " * 400
COMMANDS = """\
gpt --version
gpt tokenize sea.txt --local-dir sea
gpt train --data-root sea --preset demo --context-length 32 --max-iters 3 --metrics none --device cpu
gpt eval loss --data-root sea --device cpu
gpt generate "On a clear day" --max-new-tokens 8 --device cpu
"""


def expected_in_wheel() -> set[str]:
    """Every file of the package, by its place in the wheel."""
    package = ROOT / "src" / "gptcli"
    return {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def faults_of(folder: Path) -> list[str]:
    """What is wrong with the two files in `folder`."""
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if (len(wheels), len(sources)) != (1, 1):
        return [f"{folder} holds {len(wheels)} wheels and {len(sources)} source distributions, not one of each"]
    faults = []
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = set(wheel.namelist())
        (about,) = (name.rpartition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        told = wheel.read(f"{about}/METADATA").decode("utf-8")
    package = {name for name in names if not name.startswith(about)}
    faults += [f"the wheel lacks {name}" for name in sorted(expected_in_wheel() - package)]
    faults += [f"the wheel has {name}, which is not the package's" for name in sorted(package - expected_in_wheel())]
    licences = [f"{about}/licenses/LICENSE", f"{about}/licenses/src/gptcli/vocabulary/LICENSE.gpt2"]
    faults += [f"the wheel lacks {name}" for name in licences if name not in names]
    if "\n# gpt\n" not in told or "](docs/" in told or "](src/" in told:
        faults.append("the README in the wheel's METADATA is missing, or has links to files beside it")
    with tarfile.open(sources[0]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    for name in (
        "pyproject.toml",
        "setup.py",
        "Makefile",
        "tests/conftest.py",
        "tests/cli/conftest.py",
        "docs/demo.png",
    ):
        if name not in held:
            faults.append(f"the source distribution lacks {name}")
    return faults


def use(gpt: list[str]) -> None:
    """Runs the four commands on a small text in an empty folder, without the network. Raises CalledProcessError."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("GPTCLI_")}
    env = settings | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sea.txt").write_text(TEXT, encoding="utf-8")
        for line in COMMANDS.splitlines():
            sys.stderr.write(f"+ {line}\n")
            subprocess.run([*gpt, *shlex.split(line)[1:]], cwd=folder, env=env, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--gpt", help="the command of an installed wheel, to be tried")
    args = parser.parse_args()
    if faults := faults_of(args.dist):
        sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
        return 1
    if args.gpt:
        program = shlex.split(args.gpt, posix=os.name == "posix")
        use([str(Path(program[0]).absolute()), *program[1:]])
    sys.stderr.write("The distributions are whole.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
