"""The house numbers, walked over the syntax trees; the import contracts; what may not be written at all."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsi_detect"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted([*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MODULE_LINES = 400
PIPELINE_LINES = 120
BODY_LINES = 60
PARAMETERS = 7
PUBLIC_METHODS = 12
INHERITANCE = 1
INHERITANCE_OF_ERRORS = 3

ROOMS_WITHOUT_TORCH = ("slides", "tiling", "annotations", "stitching", "exports", "report")
NO_TORCH = (*ROOMS_WITHOUT_TORCH, "schema", "taxonomy", "geometry", "config", "artifact", "errors")
HEAVY = ("torch", "torchvision", "lightning", "albumentations", "ray", "openvino", "onnxruntime")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(), filename=str(path))))


def _functions(path: Path) -> Iterator[Function]:
    for node in _nodes(path):
        if isinstance(node, Function):
            yield node


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in _nodes(path):
        if isinstance(node, ast.ClassDef):
            yield node


def _body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _parameters(function: Function) -> list[str]:
    args = function.args
    names = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _is_command(function: Function) -> bool:
    # The parameters of a command are the options of the command line: they cannot be folded into a value.
    return any(isinstance(d, ast.Call) and ast.unparse(d.func).endswith(".command") for d in function.decorator_list)


def _base_name(base: ast.expr) -> str:
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base).split(".")[-1]


def test_modules_are_short():
    found = {_name(path): len(path.read_text().splitlines()) for path in MODULES + PROGRAMS + TESTS}
    limits = {name: PIPELINE_LINES if name.startswith("pipelines/") else MODULE_LINES for name in found}
    assert {name: lines for name, lines in found.items() if lines > limits[name]} == {}


def test_functions_are_short_and_narrow():
    found = []
    for path in MODULES + PROGRAMS:
        for function in _functions(path):
            if _body_lines(function) > BODY_LINES:
                found.append(f"{_name(path)}: {function.name} has {_body_lines(function)} lines")
            if len(_parameters(function)) > PARAMETERS and not _is_command(function):
                found.append(f"{_name(path)}: {function.name} has {len(_parameters(function))} parameters")
    assert found == []


def test_no_open_ended_parameters_in_public():
    found = [(_name(path), f.name) for path in MODULES for f in _functions(path) if f.args.kwarg is not None]
    assert [entry for entry in found if not entry[1].startswith("_")] == []


def test_classes_have_few_public_methods():
    found = {
        f"{_name(path)}: {entry.name}": {n.name for n in entry.body if isinstance(n, Function)}
        for path in MODULES
        for entry in _classes(path)
    }
    public = {name: [m for m in methods if not m.startswith("_")] for name, methods in found.items()}
    assert {name: methods for name, methods in public.items() if len(methods) > PUBLIC_METHODS} == {}


def test_inheritance_is_shallow():
    bases = {
        (_name(path), entry.name): [_base_name(base) for base in entry.bases]
        for path in MODULES
        for entry in _classes(path)
    }
    ours = {name: parents for (_, name), parents in bases.items()}

    def depth(name: str) -> int:
        return max((1 + depth(parent) for parent in ours[name] if parent in ours and parent != name), default=0)

    too_deep = {
        f"{file}: {name}": depth(name)
        for file, name in bases
        if depth(name) > (INHERITANCE_OF_ERRORS if file.endswith("errors.py") else INHERITANCE)
    }
    assert too_deep == {}


def test_no_module_state_is_rebound():
    nodes = [(_name(path), node) for path in MODULES + PROGRAMS for node in _nodes(path)]
    assert [(name, node.names) for name, node in nodes if isinstance(node, ast.Global)] == []


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of everything neither raises again nor uses what it caught."""
    if handler.type is None:
        return True
    if not re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)):
        return False
    body = [child for statement in handler.body for child in ast.walk(statement)]
    raises = any(isinstance(child, ast.Raise) for child in body)
    return not raises and not any(isinstance(child, ast.Name) and child.id == handler.name for child in body)


def test_no_error_is_swallowed():
    nodes = [(_name(path), node) for path in MODULES + PROGRAMS for node in _nodes(path)]
    handlers = [(name, node) for name, node in nodes if isinstance(node, ast.ExceptHandler)]
    assert [f"{name}:{node.lineno}" for name, node in handlers if _swallows(node)] == []


MAY_PRINT = {"cli", "demo", "pipelines", "scripts"}
#: Where a forbidden call is right, and why.
EXCEPTIONS = {("wsi_detect/tiling/pool.py", "pickle.loads"): "its own bytes, made in the same statement"}
FORBIDDEN_CALLS = {
    "eval": "runs data as code",
    "exec": "runs data as code",
    "os.system": "goes through a shell",
    "pickle.load": "runs code from a file",
    "pickle.loads": "runs code from a file",
    "yaml.load": "safe_load is the one that only reads data",
    "yaml.unsafe_load": "safe_load is the one that only reads data",
    "multiprocessing.Pool": "hangs when a worker is killed",
    "torch.export.load": "falls back to pickle",
    "tarfile.extractall": "writes outside its folder",
}


def _forbidden(path: Path, call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name in FORBIDDEN_CALLS and (_name(path), name) not in EXCEPTIONS:
        yield f"{name} {FORBIDDEN_CALLS[name]}"
    if keywords.get("shell") == "True":
        yield "shell=True"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True runs code from a file"
    if name == "print" and not MAY_PRINT.intersection([path.stem, path.parent.name]):
        yield "print outside the command line"


def test_no_forbidden_calls():
    calls = [(path, n) for path in MODULES + PROGRAMS for n in _nodes(path) if isinstance(n, ast.Call)]
    assert [f"{_name(path)}:{call.lineno}: {why}" for path, call in calls for why in _forbidden(path, call)] == []


def test_nothing_is_left_for_later():
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    paths = [path for path in MODULES + PROGRAMS + TESTS if path != Path(__file__)]
    assert [_name(path) for path in paths if marks.search(path.read_text())] == []


def test_every_import_is_declared():
    """What the package imports stands in pyproject.toml, in the core or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=!~ ;]", d)[0].lower().replace("_", "-") for d in declared}
    distributions = packages_distributions()
    undeclared = set()
    for path in MODULES:
        for node in _nodes(path):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            else:
                continue
            for top in {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"wsi_detect"}:
                owners = {d.lower().replace("_", "-") for d in distributions.get(top, [top])}
                if not owners & names:
                    undeclared.add(f"{_name(path)}: {top}")
    assert undeclared == set()


def _first_heavy(modules: list[str]) -> str:
    """Import modules one after the other in a fresh process; name the first that loads something heavy."""
    program = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {set(HEAVY)} & set(sys.modules)\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} loads {heavy}')\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT).stderr


@pytest.mark.parametrize("module", ["wsi_detect", "wsi_detect.cli"])
def test_import_loads_nothing_heavy(module: str):
    assert _first_heavy([module]) == ""


def test_rooms_of_a_lab_pc_load_no_torch_at_all():
    """Every module of these rooms, not only their front."""
    paths = [PACKAGE / room for room in NO_TORCH]
    files = [
        file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")])
    ]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert _first_heavy(names) == ""


def test_import_contracts_are_kept():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", program, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_path_of_a_machine_is_written_down():
    texts = [
        path
        for folder in ("wsi_detect", "configs", "data_cards", "docs", "pipelines", "scripts")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".json", ".toml", ".csv", ".html"}
    ]
    front = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "Makefile")
    texts += [ROOT / name for name in front]
    pattern = re.compile(r"(?<![\w.])/(home|root|Users|tmp|work|opt)/\w|index-url|find-links|files\.pythonhosted")
    assert [_name(path) for path in texts if pattern.search(path.read_text())] == []


def test_constraints_are_names_and_versions_only():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line)] == []
