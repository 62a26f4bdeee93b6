# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and other promises that only the source files can break."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "effdet"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each part of the package with the parts it may import; a part that is not named is an error.
BASE = {
    "config", "settings", "structures", "errors", "files", "flags", "distributed", "processes",
    "metrics", "precision", "presets", "levels", "cache", "checks", "names", "extras", "web",
    "counts", "cpus", "bars", "run_files", "scripts",
}  # fmt: skip
LOW = BASE | {"boxes", "ops", "anchors", "annotations", "drawing"}
MIDDLE = LOW | {"data", "models", "weights", "targets", "losses", "postprocess"}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    "annotations": BASE,
    "drawing": BASE | {"boxes"},
    "page": BASE,
    "boxes": BASE,
    "ops": BASE | {"boxes"},
    "anchors": BASE | {"boxes", "ops"},
    "data": LOW,
    "models": LOW,
    "weights": LOW | {"models"},
    "targets": LOW,
    "losses": LOW | {"targets"},
    "postprocess": LOW,
    **dict.fromkeys(("evaluation", "export"), MIDDLE),
    "training": MIDDLE | {"evaluation"},
    "keepsakes": MIDDLE | {"evaluation"},
    "inference": MIDDLE | {"evaluation", "export"},
    "check": MIDDLE | {"page"},
    "report": MIDDLE | {"page", "evaluation", "keepsakes", "inference"},
    "benchmark": MIDDLE | {"evaluation", "inference", "export"},
    "commands": MIDDLE
    | {
        "training",
        "keepsakes",
        "evaluation",
        "inference",
        "export",
        "benchmark",
        "check",
        "report",
        "page",
    },
    "cli": BASE | {"commands"},
}


def part_of(file: Path) -> str:
    """``config`` for effdet/config.py, ``data`` for effdet/data/coco.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Absolute names of the imported modules; ``from effdet import flags`` is ``effdet.flags``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module == "effdet":
                names |= {f"effdet.{alias.name}" for alias in node.names}
            else:
                names.add("." * node.level + (node.module or ""))
    return names


def imported_parts(file: Path) -> set[str]:
    """The other parts of the package that ``file`` imports anywhere."""
    names = imported(ast.parse(file.read_text()))
    parts = {name.split(".")[1] for name in names if name.startswith("effdet.")}
    return parts - {part_of(file), "__version__"}


def at_import(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run when a module is imported for real (not for a type checker)."""
    return [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_imports_only_what_lies_below_it(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        pytest.skip("the package's own names are loaded on first use; tested below")
    assert part_of(file) in MAY_IMPORT, "a new part of the package needs its row in MAY_IMPORT"
    forbidden = imported_parts(file) - MAY_IMPORT[part_of(file)]
    assert not forbidden, f"{name_of(file)} must not import {sorted(forbidden)}"


def test_no_part_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        if file != PACKAGE / "__init__.py":
            graph.setdefault(part_of(file), set()).update(imported_parts(file))
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_package_imports_absolutely_and_nothing_that_stands_on_it() -> None:
    above = {"", "train", "validate", "tests", "benchmarks"}  # "" begins a relative import
    for file in FILES:
        names = {name.split(".")[0] for name in imported(ast.parse(file.read_text()))}
        assert not names & above, name_of(file)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_torchvision_is_never_imported_with_a_module(file: Path) -> None:
    for node in at_import(ast.parse(file.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert not any(name.startswith("torchvision") for name in imported(node))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_starts_with_its_licence_and_has_a_telling_name(file: Path) -> None:
    assert file.read_text().splitlines()[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert file.stem not in {"utils", "util", "misc", "helpers", "common"}


@pytest.mark.parametrize("file", [f for f in FILES if f.name == "__init__.py"], ids=name_of)
def test_init_files_only_name_what_others_define(file: Path) -> None:
    tree = ast.parse(file.read_text())
    allowed: tuple[type[ast.stmt], ...] = (ast.Import, ast.ImportFrom, ast.Assign)
    if file == PACKAGE / "__init__.py":  # __getattr__ and __dir__ load its names on first use
        allowed += (ast.FunctionDef,)
    if file == PACKAGE / "ops" / "__init__.py":  # the compiled kernels register themselves
        allowed += (ast.Expr,)
    body = at_import(tree)
    docstring, rest = body[0], body[1:]
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        assert isinstance(node, allowed), f"line {node.lineno}"
        if isinstance(node, ast.Expr):
            assert ast.unparse(node) == "_extension.load()"
        if isinstance(node, ast.FunctionDef):
            assert node.name in {"__getattr__", "__dir__"}
        if isinstance(node, ast.Assign):
            ast.literal_eval(node.value)  # plain values: nothing is computed


def test_every_public_name_of_a_package_is_one_that_it_imports() -> None:
    for file in FILES:
        if file.name != "__init__.py" or file.parent == PACKAGE:
            continue
        tree = ast.parse(file.read_text())
        names = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if not alias.name.startswith("_")
        }
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                assert set(ast.literal_eval(node.value)) == names, name_of(file)


def fresh(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys, effdet; print(effdet.__version__, {'torch', 'torchvision'} & {*sys.modules})"
    )
    assert fresh(code).endswith(" set()")


def test_every_public_name_is_found_where_the_package_says_and_no_torchvision_comes_with_it() -> (
    None
):
    code = (
        "import sys, effdet\n"
        "assert dir(effdet) == sorted(effdet.__all__)\n"
        "for name in effdet.__all__: getattr(effdet, name)\n"
        "assert not hasattr(effdet, 'nothing')\n"
        "print('torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    assert fresh(code) == "True False"


UNPICKLERS = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg",
    "torch.package", "torch.hub", "torch.utils.model_zoo", "torch.distributed.checkpoint",
}  # fmt: skip
"""Modules that run what is in a file."""

LOADERS = {
    "torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "np.load", "numpy.load",
    "torch._inductor.aoti_load_package",
}  # fmt: skip
ONE_LOADER = PACKAGE / "weights" / "formats" / "torch_file.py"
PROGRAM_LOADER = PACKAGE / "export" / "programs.py"
"""Exported programs (.pt2) are code: they are run, but only where the user said so by name."""
PROGRAMS = [
    ROOT / "train.py", ROOT / "validate.py", ROOT / "setup.py",
    *sorted((ROOT / "_build").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py")),
]  # fmt: skip


def calls(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    """The calls of functions that are written as one of ``names``."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if ast.unparse(node.func) in names]


@pytest.mark.parametrize("file", [*FILES, *PROGRAMS], ids=name_of)
def test_nothing_that_may_run_what_is_in_a_file_is_called(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not {name for name in imported(tree) if name in UNPICKLERS}
    assert not calls(tree, {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load"})
    assert not calls(tree, {"os.system", "os.popen", "subprocess.getoutput"})
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        assert "shell" not in {word.arg for word in call.keywords}, f"line {call.lineno}"
        assert "allow_pickle" not in {word.arg for word in call.keywords}, f"line {call.lineno}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
            assert not {"load", "add_safe_globals"} & {alias.name for alias in node.names}
    assert not calls(tree, {"torch.serialization.add_safe_globals", "torch.serialization.load"})
    if file == ROOT / "benchmarks" / "postprocess.py":  # also runs where there is only the peer
        (call,) = calls(tree, LOADERS)
        assert "weights_only=True" in map(ast.unparse, call.keywords)
    elif file not in (ONE_LOADER, PROGRAM_LOADER):
        assert not calls(tree, LOADERS), "read_tensors is the only way to a pickle"


def test_the_one_place_that_loads_asks_for_weights_only() -> None:
    (call,) = calls(ast.parse(ONE_LOADER.read_text()), LOADERS)
    assert ast.unparse(call.func) == "torch.load"
    assert "weights_only=True" in map(ast.unparse, call.keywords)


def test_programs_are_loaded_behind_one_door_that_asks() -> None:
    tree = ast.parse(PROGRAM_LOADER.read_text())
    found = [ast.unparse(call.func) for call in calls(tree, LOADERS)]
    assert sorted(found) == ["torch._inductor.aoti_load_package", "torch.export.load"]
    (door,) = [n for n in tree.body if getattr(n, "name", "") == "program_runner"]
    lines = ast.unparse(door).splitlines()
    asked = next(i for i, line in enumerate(lines) if "if not trust_code:" in line)
    assert "raise UsageError" in lines[asked + 1]
    assert not any("_load_p" in line for line in lines[:asked])
    assert ast.unparse(tree).count("_load_package(") == 3  # defined, called there, and torch's
    assert ast.unparse(tree).count("_load_program(") == 2


def test_every_progress_bar_is_the_one_without_a_thread() -> None:
    users = [name_of(file) for file in FILES if "tqdm" in imported(ast.parse(file.read_text()))]
    assert users == ["effdet/bars.py"]


ONE_DECODER = PACKAGE / "data" / "images.py"


@pytest.mark.parametrize("file", [*FILES, ROOT / "train.py", ROOT / "validate.py"], ids=name_of)
def test_images_are_decoded_in_one_place(file: Path) -> None:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("PIL"):
            assert not {"open", "ImageFile"} & {alias.name for alias in node.names}
    assert not {name.split(".")[0] for name in imported(tree)} & {"cv2", "imageio", "skimage"}
    assert not {name for name in imported(tree) if name.startswith("torchvision.io")}
    assert not calls(tree, {"torchvision.io.read_image", "torchvision.io.decode_image"})
    opened = calls(tree, {"Image.open", "PIL.Image.open"})
    assert len(opened) == (file == ONE_DECODER)
    for call in opened:
        assert "formats=FORMATS" in map(ast.unparse, call.keywords)
