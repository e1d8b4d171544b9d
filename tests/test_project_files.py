"""The pages and files for those who carry the project on agree with the code, and with each other."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import gptcli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "RELEASING.md", "CHANGELOG.md", "benchmarks/README.md")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def from_yaml(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_changelog_begins_with_the_version_and_says_something_about_it() -> None:
    heading, entry = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text("CHANGELOG.md"), re.DOTALL | re.MULTILINE)[0]
    assert heading.split()[0] == gptcli.__version__
    assert re.search(r"^- \S", entry, re.MULTILINE)


def test_the_version_stands_in_one_place() -> None:
    places = ["pyproject.toml", "setup.py", *(path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py"))]
    assert [str(place) for place in places if f'"{gptcli.__version__}"' in text(str(place))] == [
        str(Path("src/gptcli/__init__.py"))
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if ":" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
    assert links or page in ("CHANGELOG.md", "benchmarks/README.md")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "RELEASING.md", "README.md", ".github/workflows/test.yml"])
def test_targets_of_make_and_scripts_that_are_named_are_there(page: str) -> None:
    targets = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:", text("Makefile"), re.MULTILINE))
    named = re.findall(r"^[-`\s]*(?:run: )?make ([a-z][\w-]*)", text(page), re.MULTILINE)
    assert named
    assert set(named) <= targets
    assert all((ROOT / script).is_file() for script in re.findall(r"python (\.ci/\S+|examples/\S+)", text(page)))


def test_the_workflow_reads_only_and_none_of_its_jobs_runs_for_ever() -> None:
    workflow = from_yaml(ROOT / ".github" / "workflows" / "test.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 300
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_workflow_tests_the_oldest_python_that_is_promised_on_every_system() -> None:
    (oldest,) = re.findall(r'^requires-python = ">=(.+)"$', text("pyproject.toml"), re.MULTILINE)
    matrix = from_yaml(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    systems = {"ubuntu-latest", "macos-latest", "windows-latest"}
    assert {each["os"] for each in matrix if each["python"] == oldest} == systems


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem)
def test_a_form_has_what_the_hub_of_issues_asks_of_one(form: Path) -> None:
    content = from_yaml(form)
    assert content["name"]
    assert content["description"]
    ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
    assert ids
    assert len(ids) == len(set(ids))
    for part in content["body"]:
        needed = "value" if part["type"] == "markdown" else "label"
        assert part["attributes"][needed]


def test_there_are_forms_for_faults_wishes_and_questions() -> None:
    assert {form.stem for form in FORMS} == {"bug", "feature", "question", "config"}
    assert "gpt doctor --json" in text(".github/ISSUE_TEMPLATE/bug.yml")


def test_git_leaves_the_vocabulary_as_it_is_and_gives_all_systems_the_same_line_ends() -> None:
    assert "gpt2.bpe -text" in text(".gitattributes")
    assert "* text=auto eol=lf" in text(".gitattributes")
    told = text("src/gptcli/vocabulary/README.md")
    assert hashlib.sha256((ROOT / "src/gptcli/vocabulary/gpt2.bpe").read_bytes()).hexdigest() in told


# The README on a package index


@pytest.fixture
def for_an_index() -> Any:
    pytest.importorskip("setuptools")
    return runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]


def test_links_to_files_become_those_of_the_tag_where_the_repository_has_an_address(for_an_index: Any) -> None:
    shown = for_an_index("![a](docs/a.png) [b](src/b.py) [c](https://c.org) [d](#d)", "2.0.0", "https://h.org/r")
    files = "![a](https://h.org/r/raw/v2.0.0/docs/a.png) [b](https://h.org/r/blob/v2.0.0/src/b.py)"
    assert shown == f"{files} [c](https://c.org) [d](#d)"


def test_without_an_address_no_link_leads_nowhere(for_an_index: Any) -> None:
    shown = for_an_index(text("README.md"), gptcli.__version__)
    assert [link for link in re.findall(r"\]\(([^)\s]+)\)", shown) if ":" not in link] == []
    assert "\nCHANGELOG.md" in shown or " CHANGELOG.md" in shown  # the words stay
    assert "![" not in shown
