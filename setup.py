"""What pyproject.toml can't say: the README as an index shows it, where links to the files beside it lead nowhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def for_an_index(readme: str, version: str, source: str = "") -> str:
    """The README with its links to files made absolute, as they are at the tag of `version` in the repository at the
    address `source`; without an address pictures are left out, and of links the words stay."""

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        if not source:
            return "" if picture else words
        return f"{picture}[{words}]({source}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, readme)


if __name__ == "__main__":
    urls = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    found = re.search(
        r'^__version__ = "(.+)"$', (HERE / "src/gptcli/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found, "src/gptcli/__init__.py names the version"
    setup(
        version=found[1],
        long_description=for_an_index(
            (HERE / "README.md").read_text(encoding="utf-8"), found[1], urls.get("Source", "")
        ),
        long_description_content_type="text/markdown",
    )
