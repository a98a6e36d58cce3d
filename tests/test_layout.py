"""The folders mean what the README says they mean."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = {
    "envs": {".toml", ".txt", ".md"},
    "policies": {".json", ".safetensors", ".md"},
}


@pytest.mark.parametrize("folder", DATA)
def test_data_folders_hold_no_code(folder: str) -> None:
    strays = [
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in DATA[folder]
    ]

    assert not strays, f"{folder}/ holds data only; code belongs into ditcache_rl/: {strays}"


@pytest.mark.parametrize("name", ["train", "eval"])
def test_root_scripts_are_a_docstring_and_one_call(name: str) -> None:
    tree = ast.parse((ROOT / f"{name}.py").read_text())

    assert ast.get_docstring(tree)
    *imports, guard = tree.body[1:]
    assert [ast.unparse(node) for node in imports] == [
        "import sys",
        "from ditcache_rl.cli import main",
    ]
    assert isinstance(guard, ast.If)
    assert ast.unparse(guard) == (
        f"if __name__ == '__main__':\n    raise SystemExit(main(['{name}', *sys.argv[1:]]))"
    )


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "ditcache_rl").rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not silent
