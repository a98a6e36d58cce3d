"""The folders mean what the README says they mean."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ditcache_rl").rglob("*.py"))
#: Beyond this a file has more than one subject.
MOST_LINES = 300
DATA = {
    "envs": {".toml", ".txt", ".md", ".safetensors"},
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


def test_files_with_slow_tests_begin(request: pytest.FixtureRequest) -> None:
    """Else `make test` ends with one worker on them, and the other idle."""
    items = request.session.items
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    order = [item.path in slow for item in items]

    assert order == sorted(order, reverse=True)
    assert "--no-loadscope-reorder" in (ROOT / "Makefile").read_text()  # files of few tests first


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
    silent = [place(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]

    assert not silent


def test_the_diagram_of_contributing_has_the_layers_of_import_linter() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]

    assert "\n".join(["```", *layers, "```"]) in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("stack", "may"),
    [
        ("gymnasium", {"rl", "cli"}),
        ("fastapi", {"serve", "cli"}),  # its rooms without the server are named one by one
        ("ray", {"rl", "serve", "cli"}),  # likewise
        ("gradio", {"studio", "cli"}),
    ],
)
def test_whoever_may_not_reach_a_stack_is_named_in_its_contract(stack: str, may: set[str]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (sources,) = [
        contract["source_modules"]
        for contract in contracts
        if stack in contract.get("forbidden_modules", ())
    ]

    modules = {path.stem for path in (ROOT / "ditcache_rl").iterdir() if path.suffix == ".py"}
    modules |= {path.parent.name for path in (ROOT / "ditcache_rl").glob("*/__init__.py")}
    named = {name.split(".")[1] for name in sources}
    assert modules - {"__init__"} - may == named - may
    rooms = {path.stem for path in (ROOT / "ditcache_rl" / "serve").glob("*.py")}
    rooms -= {"__init__", "deployment"}
    if "serve" in may:
        assert {f"ditcache_rl.serve.{room}" for room in rooms} <= set(sources)


def test_no_file_of_the_package_has_more_than_one_subject() -> None:
    lengths = {place(path): len(path.read_text().splitlines()) for path in MODULES}

    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_no_two_public_types_of_the_package_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [ast.unparse(target) for target in node.targets]
            else:
                continue
            for name in names:  # a type, or an alias of one, is written like `ThisOne`
                if name[0].isupper() and not name.isupper():
                    homes[name].append(place(path))

    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def place(path: Path) -> str:
    """Name a file as seen from the root."""
    return path.relative_to(ROOT).as_posix()
