"""The pages name what is there: links, anchors, pictures, paths, modules and public names."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "ditcache_rl", "docs", "envs", "policies", "tests")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
)
#: A changelog keeps the names of its time; its links must work like all others.
OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]

FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*|[a-z_]+(?:/\w+)+\.py)")
DOTTED = re.compile(r"(?<![\w/.-])(?:ditcache_rl|dc)(?:\.[A-Za-z_]\w*)+")
#: Stands for a name that the reader chooses, as in `envs/NAME.toml`.
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as GitHub does."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if ":" in link:
            continue  # elsewhere on the net, or a mail address
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing_paths(page: Path) -> Iterator[str]:
    for name in PATH.findall(page.read_text()):
        path = name.rstrip(".")
        if PLACEHOLDER.search(path):
            continue
        if not any((folder / path).exists() for folder in (ROOT, ROOT / "ditcache_rl")):
            yield path


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a module, or what a module holds."""
    module, _, attribute = name.replace("dc.", "ditcache_rl.", 1).rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(
            importlib.util.find_spec(f"{module}.{attribute}")
        )
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not list(dead_links(page))


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_name_that_a_page_gives_exists(page: Path) -> None:
    names = {name for name in DOTTED.findall(page.read_text()) if not resolves(name)}

    assert not [*missing_paths(page), *sorted(names)]


def test_every_page_can_be_found_from_the_readme() -> None:
    found, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        links = (link.split("#")[0] for link in LINK.findall(FENCE.sub("", page.read_text())))
        targets = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        waiting += {target for target in targets - found if target.exists()}

    assert not set((ROOT / "docs").rglob("*.md")) - found


def test_checks_of_names_fail_where_they_should() -> None:
    assert resolves("ditcache_rl.cli")
    assert resolves("dc.cached")
    assert resolves("ditcache_rl.inference.cached")
    assert not resolves("ditcache_rl.no_such_module")
    assert not resolves("dc.no_such_name")
