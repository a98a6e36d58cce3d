"""One word for each thing: the last column of CONTRIBUTING's table is not used in the package."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ditcache_rl"
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
#: The parts of `first_rows`, `KnownPlans` and `L1Cache`.
PART = re.compile(r"[A-Z]+[0-9]*(?![a-z])|[A-Z]?[a-z]+[0-9]*")


class Found(NamedTuple):
    """A word of the package, and where it stands."""

    word: str
    place: Literal["name", "function", "docstring"]


class Ban(NamedTuple):
    """A word that is not used, in some folders of the package or outside of them."""

    word: str
    within: tuple[str, ...] = ("",)
    without: tuple[str, ...] = ()

    def holds_in(self, file: str) -> bool:
        """Tell whether a file of the package is concerned."""
        return file.startswith(self.within) and not (self.without and file.startswith(self.without))

    def is_broken_by(self, found: Found) -> bool:
        """Tell whether a word is the banned one, or has it among its parts."""
        if self.word.endswith("()"):
            return found.place == "function" and found.word.lstrip("_") == self.word[:-2]
        if not self.word.islower():  # in a docstring it may begin a sentence
            return found.place == "name" and found.word.lstrip("_") == self.word
        parts, banned = [part.lower() for part in PART.findall(found.word)], self.word.split("_")
        return any(parts[i : i + len(banned)] == banned for i in range(len(parts)))


def bans(table: str) -> Iterator[Ban]:
    """Read the last column of the table of words."""
    for line in table.splitlines():
        if not line.startswith("| `"):
            continue
        for part in line.strip("| ").split(" | ")[-1].split(";"):
            words, *scope = re.split(r" (in|outside) (?=`)", part, maxsplit=1)
            folders = tuple(re.findall(r"`(.+?)`", scope[-1])) if scope else ()
            for word in re.findall(r"`(.+?)`", words):
                inside = ("",) if "outside" in scope else folders or ("",)
                yield Ban(word, inside, folders if "outside" in scope else ())


def words_of(source: str) -> Iterator[Found]:
    """List identifiers, names of functions, and words of docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield Found(token.string, "name")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Found(node.name, "function")
        # A string that is a statement documents what it stands below.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for word in IDENTIFIER.findall(str(node.value.value)):
                yield Found(word, "docstring")


BANS = list(bans((ROOT / "CONTRIBUTING.md").read_text().partition("## Words")[2]))
WORDS = {
    path.relative_to(PACKAGE).as_posix(): Counter(words_of(path.read_text()))
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.word)
def test_the_package_does_not_use_a_banned_word(ban: Ban) -> None:
    used = {
        file: sum(count for found, count in words.items() if ban.is_broken_by(found))
        for file, words in WORDS.items()
        if ban.holds_in(file)
    }
    used = {file: count for file, count in used.items() if count}

    assert not used, f"CONTRIBUTING has another word for {ban.word!r}, which is used in {used}"


def test_the_folders_of_the_table_exist() -> None:
    named = {folder for ban in BANS for folder in (*ban.within, *ban.without)}

    assert not {folder for folder in named if not (PACKAGE / folder).exists()}


def test_a_ban_is_read_from_the_table_and_kept() -> None:
    line = "| `row` | x | `Row`, `plan`; `row` in `search`; `mask` outside `rl`; `skip()`; line |"
    row_class, plan, row, mask, skip = bans(line)

    assert row_class.is_broken_by(Found("_Row", "name"))
    assert not row_class.is_broken_by(Found("RowTargets", "name"))
    assert plan.is_broken_by(Found("KnownPlan", "name"))
    assert plan.is_broken_by(Found("search_plan", "docstring"))
    assert not plan.is_broken_by(Found("planned", "name"))
    assert row.holds_in("search/space.py")
    assert not row.holds_in("types.py")
    assert mask.holds_in("bench/board.py")
    assert not mask.holds_in("rl/env.py")
    assert skip.is_broken_by(Found("_skip", "function"))
    assert not skip.is_broken_by(Found("skip", "name"))
    assert Found("says", "docstring") in words_of('def f():\n    """What it says."""')
