"""The house numbers, walked over the syntax trees; the import contracts; what may not be written at all."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, Function):
            yield node


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(_tree(path)):
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


@pytest.mark.parametrize("path", MODULES + PROGRAMS + TESTS, ids=_name)
def test_module_is_short(path: Path):
    limit = PIPELINE_LINES if path.parent.name == "pipelines" else MODULE_LINES
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=_name)
def test_functions_are_short_and_narrow(path: Path):
    found = []
    for function in _functions(path):
        if _body_lines(function) > BODY_LINES:
            found.append(f"{function.name}: {_body_lines(function)} lines")
        if len(_parameters(function)) > PARAMETERS and not _is_command(function):
            found.append(f"{function.name}: {len(_parameters(function))} parameters")
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_open_ended_parameters_in_public(path: Path):
    public = [f for f in _functions(path) if not f.name.startswith("_")]
    assert [f.name for f in public if f.args.kwarg is not None] == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_classes_have_few_public_methods(path: Path):
    for entry in _classes(path):
        methods = [n.name for n in entry.body if isinstance(n, Function) and not n.name.startswith("_")]
        assert len(set(methods)) <= PUBLIC_METHODS, entry.name


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


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=_name)
def test_no_module_state_is_rebound(path: Path):
    assert [node.names for node in ast.walk(_tree(path)) if isinstance(node, ast.Global)] == []


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=_name)
def test_no_error_is_swallowed(path: Path):
    """A handler of everything raises again or uses what it caught; nothing is passed over in silence."""
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        where = f"{_name(path)}:{node.lineno}"
        assert node.type is not None, f"{where}: bare except"
        caught = ast.unparse(node.type)
        body = [child for statement in node.body for child in ast.walk(statement)]
        if re.search(r"\b(Base)?Exception\b", caught):
            raises = any(isinstance(child, ast.Raise) for child in body)
            uses = any(isinstance(child, ast.Name) and child.id == node.name for child in body)
            assert raises or uses, f"{where}: {caught} neither raised again nor recorded"


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


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=_name)
def test_no_forbidden_calls(path: Path):
    found = []
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN_CALLS and (_name(path), name) not in EXCEPTIONS:
            found.append(f"line {node.lineno}: {name} {FORBIDDEN_CALLS[name]}")
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if keywords.get("shell") == "True":
            found.append(f"line {node.lineno}: shell=True")
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only=True runs code from a file")
        if (
            name == "print"
            and path.name not in ("cli.py", "demo.py")
            and path.parent.name not in ("cli", "pipelines", "scripts")
        ):
            found.append(f"line {node.lineno}: print outside the command line")
    assert found == []


@pytest.mark.parametrize("path", MODULES + PROGRAMS + TESTS, ids=_name)
def test_nothing_is_left_for_later(path: Path):
    if path == Path(__file__):
        return
    text = path.read_text()
    assert re.findall(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError", text) == []


def test_every_import_is_declared():
    """What the package imports stands in pyproject.toml, in the core or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=!~ ;]", d)[0].lower().replace("_", "-") for d in declared}
    distributions = packages_distributions()
    undeclared = set()
    for path in MODULES:
        for node in ast.walk(_tree(path)):
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


def _loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["wsi_detect", "wsi_detect.cli", *(f"wsi_detect.{room}" for room in NO_TORCH)])
def test_import_loads_nothing_heavy(module: str):
    assert _loaded_after(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("room", NO_TORCH)
def test_rooms_of_a_lab_pc_load_no_torch_at_all(room: str):
    """Every module of these rooms, not only their front."""
    path = PACKAGE / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    assert _loaded_after("\n".join(f"import {name}" for name in names)).isdisjoint(HEAVY)


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
