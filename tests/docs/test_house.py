"""The rules that a reader relies on: small files, telling names, posts found four ways, documented names."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

import tianwen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
OURS = ["tianwen", "tests", "examples", "benchmarks", "docs", ".ci"]
TEXT = {".py", ".md", ".toml", ".txt", ".jsonl", ".tsv", ".html", ".css", ".js", ""}


def files(*suffixes: str) -> list[Path]:
    """Our files with these endings, at the top and in our folders."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for folder in OURS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts)


def test_no_source_file_is_longer_than_500_lines():
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files(".py")}
    assert len(lengths) > 20
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_no_file_is_a_drawer():
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert not [path for path in files(".py") if path.stem.strip("_") in drawers]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_readme_fits_in_150_lines(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150


def test_no_path_of_somebodys_machine():
    machine = re.compile(r"(?<![\w.~])/(?:home|root|work|Users|mnt|data)/\w+")
    hits = [(path, hit[0]) for path in files(*TEXT) if (hit := machine.search(path.read_text(encoding="utf-8")))]
    assert not hits


def posts() -> dict[str, tuple[str, str, str]]:
    """The table of posts in docs/map.md: number -> (folder, example, page)."""
    row = re.compile(
        r"^\| (\d{4}) \|.*\| `(tianwen/[\w/]+)` \| `(examples/[\w.]+)` \| \[.*\]\((posts/\d{4}\.md)\) \|$", re.M
    )
    return {
        number: (folder, example, page)
        for number, folder, example, page in row.findall((ROOT / "docs/map.md").read_text())
    }


def test_a_post_is_found_four_ways():
    assert posts().keys() >= {"8802", "8998"}
    for number, (folder, example, page) in posts().items():
        sources = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
        assert any(re.search(rf"^Post: .*{number}", source, re.M) for source in sources), (
            f"{folder} names no post {number}"
        )
        assert (ROOT / example).name.startswith(f"{number}_"), example
        assert (ROOT / example).is_file(), example
        assert (ROOT / "docs" / page).name == f"{number}.md"
        assert (ROOT / "docs" / page).is_file(), page


def test_every_page_and_example_is_in_the_table_of_posts():
    pages = {path.stem for path in (ROOT / "docs/posts").glob("*.md")}
    examples = {path.name[:4] for path in (ROOT / "examples").glob("[0-9]*.py")}
    assert pages | examples <= posts().keys()


@pytest.mark.parametrize("name", sorted(set(tianwen.__all__) - {"__version__"}))
def test_public_names_are_documented(name):
    thing = getattr(tianwen, name)
    assert f"`{name}" in (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert inspect.getdoc(thing), f"{name} has no docstring"
    members = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
    methods = {
        key: value
        for key, value in members.items()
        if inspect.isroutine(value) or isinstance(value, property | classmethod)
    }
    assert not [key for key in methods if not inspect.getdoc(getattr(thing, key))], f"undocumented members of {name}"


def test_an_unknown_public_name_is_refused_with_the_list():
    with pytest.raises(AttributeError, match="KnowledgeBase"):
        tianwen.Oracle  # noqa: B018


def test_links_between_pages_lead_somewhere():
    link = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in files(".md")
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_every_file_of_the_package_is_installed():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    package = ROOT / "tianwen"
    data = {
        path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc", ".nbi", ".nbc"}
    }
    installed = {path for pattern in declared["tianwen"] for path in package.glob(pattern)}
    assert not data - installed, "name it in pyproject.toml under package-data"
