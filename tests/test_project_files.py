"""Files about the project agree with one another: versions, Pythons, targets of make, addresses."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from tests.documentation import ROOT, page

import nearfar

PROJECT: dict[str, Any] = tomllib.loads(page("pyproject.toml"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load(page(".github/workflows/test.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_every_file_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load(page("CITATION.cff"))
    assert PROJECT["version"] == nearfar.__version__ == citation["version"]
    assert PROJECT["license"] == citation["license"]


def test_the_citation_names_software_and_report() -> None:
    citation = yaml.safe_load(page("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "repository-code"} <= citation.keys()
    (report,) = citation["references"]
    assert report["type"] == "report"
    assert report["title"].casefold() in " ".join(page("docs/method.md").split()).casefold()


def test_the_changelog_keeps_the_form_of_keep_a_changelog() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", page("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", page("CHANGELOG.md"), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_workflows_test_every_python_of_the_classifiers_on_three_systems() -> None:
    prefix = "Programming Language :: Python :: "
    listed = {line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(f"{prefix}3.")}
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == listed
    assert min(listed, key=lambda text: int(text.split(".")[1])) == PROJECT["requires-python"].removeprefix(">=")
    systems = {name.partition("-")[0] for name in (*matrix["os"], *(entry["os"] for entry in matrix["include"]))}
    assert systems == {"ubuntu", "macos", "windows"}


def test_workflows_call_targets_that_make_has() -> None:
    steps = [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    called = {name for step in steps for name in re.findall(r"\bmake ([a-z-]+)", step)}
    called |= set(re.findall(r"^make ([a-z-]+)", page("README.md") + page("CONTRIBUTING.md"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    assert {"lint", "release", "docs"} <= called <= targets
    (phony,) = re.findall(r"^\.PHONY: (.*)$", page("Makefile"), re.MULTILINE)
    assert set(phony.split()) == targets


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_an_issue_form_has_what_forms_need(form: Any) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert content["name"]
    assert content["description"]
    names = [field["id"] for field in content["body"]]
    assert len(names) == len(set(names)) > 0
    assert all(field["attributes"]["label"] for field in content["body"])


def test_there_are_issue_forms() -> None:
    assert len(FORMS) >= 2


def test_addresses_of_the_project_are_those_of_the_citation() -> None:
    home = yaml.safe_load(page("CITATION.cff"))["repository-code"]
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= PROJECT["urls"].keys()
    assert all(address.startswith(home) for address in PROJECT["urls"].values())
    for name in ("Documentation", "Changelog"):
        assert (ROOT / PROJECT["urls"][name].partition("/blob/main/")[2]).is_file()
