"""The architecture: allowed imports, the size of the core, what an import loads and what a run executes.

Each check is a function that takes a source tree and returns its faults. So it can be tested on made-up trees with one
fault each.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT
from source_tree import COMPUTED, count_lines, find_circles, find_imports, find_modules, third_party

# The core: the modules directly in llama_onnx/, in reading order.
CORE = (
    "errors", "config", "model_directory", "memory", "session", "pool", "kv_types", "kv_cache", "decoder", "sampling",
    "tokenizer", "tokens", "generate", "model",
)  # fmt: skip
MAY_BE_ABSENT = {"kv_types"}
ENTRIES = {"__init__", "__main__"}  # the public names, and `python -m llama_onnx`
MOST_LINES, MOST_CODE, MOST_IN_A_FILE, WIDTH = 1800, 1150, 250, 120

# The core imports the core and the floor, and wings only in these modules.
FLOOR = "files"  # any module may import it; it imports only `errors`
DOORS = {
    "model": {"streaming", "text", "batching", "decoding", "original", "mixture"},
    "generate": {"decoding"},
    "model_directory": {"original"},
    "__main__": {"commands"},
}

# Wings, with the other wings that each may import. All may import the core and the floor.
WINGS: dict[str, set[str]] = {
    "streaming": set(),
    "text": set(),
    "decoding": set(),
    "original": set(),
    "mixture": set(),
    "store": set(),
    "cluster": set(),
    "vision": set(),
    "batching": {"text", "decoding"},
    "scoring": {"text"},
    "export": {"text", "scoring", "original"},
}
WINGS["serving"] = set(WINGS) - {"export"}  # it receives a function that prepares a model
WINGS["commands"] = {*WINGS}  # no other wing imports it, or `serving`
LAZY = "export"  # imported inside functions only: it needs the extra 'tools'

# Packages that may be imported at the top of a module. All others are imported in the function that needs them.
RUNTIME = {"numpy", "onnxruntime", "sentencepiece"}
TOOLS = {"onnx", "safetensors", "ml_dtypes", "tqdm"}

LOADED = {"numpy"}  # of other packages, by `import llama_onnx`
NEVER_LOADED = {"export", "commands", "scoring", "serving", "store", "cluster", "vision"}  # of our own

# What runs layers otherwise than by `Decoder.through_layers`: the decoders themselves, what tries a single layer, and
# what looks at the states between layers.
LAYER_RUNNERS = {
    "decoder", "original.decoder", "streaming.self_check", "export.quantize.calibration", "export.compare.models",
}  # fmt: skip
SESSION_RUNNERS = {"session", "decoder", "original.decoder", "streaming.lookups", "export.quantize.calibration"}
RUNS = {"run", "run_with_iobinding", "run_with_ort_values", "run_async"}  # names of methods

# What a run may execute besides the core when every layer stays in memory: text/, and the pool that keeps layers
# resident, with the loader from which it borrows sessions, and the session of the embedding.
EXECUTED = (
    "text/", "streaming/promise.py", "streaming/available.py", "streaming/pool.py", "streaming/loader.py",
    "streaming/lookups.py", "files/mapped.py", "files/threads.py", "files/fork.py",
)  # fmt: skip


def area(module: str, package: Path) -> str:
    """Return the wing that a module belongs to, or '' for the core."""
    first = module.split(".")[1:2]
    return first[0] if first and (package / first[0]).is_dir() else ""


def broken_imports(package: Path) -> list[str]:
    """Return the forbidden imports."""
    faults = []
    for one in find_imports(package):
        if one.imported.partition(".")[0] != package.name:
            continue
        home, target = area(one.importer, package), area(one.imported, package)
        name = one.importer.split(".")[-1] if one.importer != package.name else "__init__"
        if home == FLOOR:
            right = target == FLOOR or one.imported == f"{package.name}.errors"
        elif target in ("", FLOOR, home):
            right = True
        else:
            right = target in (WINGS.get(home, set()) if home else DOORS.get(name, set()))
        if not right or (target == LAZY != home and not one.in_function):
            faults.append(str(one))
    return faults


def computed_imports(package: Path) -> list[str]:
    """Return the dynamic imports of computed names. Only the command line may have them: it imports its verb."""
    imports = find_imports(package)
    return [str(one) for one in imports if one.imported == COMPUTED and area(one.importer, package) != "commands"]


def other_walks(package: Path) -> list[str]:
    """Return the places that run a layer or a session where no module may: there is one walk through the model.

    That walk is `Decoder.through_layers`. `run_layer` by any other name, or in any other way than a call, counts too.
    """
    faults = []
    for name, path in find_modules(package).items():
        short = name.removeprefix(f"{package.name}.")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
            if named == "run_layer" and short not in LAYER_RUNNERS:
                faults.append(f"{name} runs a layer")
            may_run = short in SESSION_RUNNERS or area(name, package) == "commands"
            if isinstance(node, ast.Attribute) and node.attr in RUNS and not may_run:
                if ast.unparse(node.value) == "subprocess":
                    continue
                faults.append(f"{name}:{node.lineno} runs a session")
    return faults


def circles(package: Path) -> list[str]:
    """Return the groups of modules that import each other."""
    return [", ".join(group) for group in find_circles(package)]


def unknown_wings(package: Path) -> list[str]:
    """Return subpackages that have no import rule."""
    wings = {area(module, package) for module in find_modules(package)} - {""}
    return sorted(wings - WINGS.keys() - {FLOOR})


def eager_imports(package: Path) -> list[str]:
    """Return imports of optional packages that are not inside a function."""
    return [
        str(one)
        for one in third_party(find_imports(package), package.name)
        if not one.in_function
        and one.imported.partition(".")[0]
        not in RUNTIME | (TOOLS if area(one.importer, package) == "export" else set())
    ]


def misplaced_core(package: Path) -> list[str]:
    """Return modules that are missing in the core, and modules there that are not in the reading order."""
    found = {path.stem for path in package.glob("*.py")}
    return sorted({*CORE, *ENTRIES} - MAY_BE_ABSENT - found) + sorted(found - {*CORE, *ENTRIES})


def over_budget(package: Path) -> list[str]:
    """Return the limits that the core exceeds."""
    counts = {path.name: count_lines(path) for path in sorted(package.glob("*.py"))}
    lines, code = (sum(count[i] for count in counts.values()) for i in (0, 1))
    faults = [f"the core has {lines} lines"] if lines > MOST_LINES else []
    faults += [f"the core has {code} lines of code"] if code > MOST_CODE else []
    faults += [f"{name} has {count[0]} lines" for name, count in counts.items() if count[0] > MOST_IN_A_FILE]
    for path in sorted(package.glob("*.py")):
        wide = [i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > WIDTH]
        faults += [f"{path.name}:{i} is wider than {WIDTH}" for i in wide]
    return faults


def without_a_sentence(package: Path) -> list[str]:
    """Return the wings whose `__init__` does not state their purpose in one sentence."""
    faults = []
    for init in sorted(package.glob("*/__init__.py")):
        said = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        if not re.fullmatch(r"[^.]([^.]|\.(?!\s))*\.", said):
            faults.append(f"{init.parent.name}: {said!r}")
    return faults


def loaded_by_import(root: Path) -> list[str]:
    """Return packages and wings that `import llama_onnx` loads without need."""
    code = "import sys; before = set(sys.modules); import llama_onnx; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = [name.split(".") for name in done.stdout.split()]
    others = {name[0] for name in loaded if name[0] not in sys.stdlib_module_names and not name[0].startswith("_")}
    return sorted(others - LOADED - {"llama_onnx"}) + sorted(
        ".".join(name) for name in loaded if name[0] == "llama_onnx" and name[1:2] and name[1] in NEVER_LOADED
    )


TRACE = """
import atexit, json, runpy, sys, threading

root, result, *sys.argv = sys.argv[1:]
ran, seen = set(), set()

def write():  # registered first, so called after everything else that is done at the end of a process
    sys.setprofile(None)
    with open(result, "w") as file:
        json.dump(sorted(f"{path[len(root) + 1:]}:{name}" for path, name in ran), file)

def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code not in seen and code.co_filename.startswith(root):
        while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        if not frame:  # called by a function, and not while a module is imported
            seen.add(code)
            ran.add((code.co_filename, code.co_qualname))

atexit.register(write)
threading.setprofile(note)
sys.setprofile(note)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def executed(root: Path, result: Path, *arguments: str) -> list[str]:
    """Run `demo.py` of a tree and return the functions of the package it calls, as path:name inside the package."""
    command = [sys.executable, "-c", TRACE, str(root / "llama_onnx"), str(result), "demo.py", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(result.read_text()))


def out_of_place(functions: list[str]) -> list[str]:
    """Return the functions that a run with all shards resident should not execute."""
    return [name for name in functions if "/" in name and not name.startswith(EXECUTED)]


def demo_faults(demo: Path) -> list[str]:
    """Return the rules that `demo.py` breaks: at most 60 lines, and public names only."""
    text = demo.read_text(encoding="utf-8")
    faults = [f"demo.py has {len(text.splitlines())} lines"] if len(text.splitlines()) > 60 else []
    for node in ast.walk(ast.parse(text)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        own = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
        faults += [f"demo.py imports {name}" for name in sorted(own - {"llama_onnx"})]
    return faults


def stray_tests(root: Path) -> list[str]:
    """Return the test folders that match no folder of the package, and none of scripts, benchmarks and real models."""
    folders = {path.parent.relative_to(root / "tests") for path in (root / "tests").rglob("test_*.py")}
    known = {Path("tools"), Path("benchmarks"), Path("real")}
    return [str(folder) for folder in sorted(folders - known) if not (root / "llama_onnx" / folder).is_dir()]


# The real tree

PACKAGE = ROOT / "llama_onnx"
CHECKS = (
    broken_imports, computed_imports, other_walks, unknown_wings, circles, eager_imports, misplaced_core, over_budget,
    without_a_sentence,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package_follows_the_plan(check: Callable[[Path], list[str]]) -> None:
    faults = check(PACKAGE)
    assert not faults, "\n".join(faults)


def test_import_loads_only_numpy_and_the_runtime() -> None:
    assert loaded_by_import(ROOT) == []


@pytest.mark.skipif(not (ROOT / "models" / "demo" / "manifest.json").is_file(), reason="no embedded model in this tree")
def test_run_with_all_shards_resident_executes_only_the_core(tmp_path: Path) -> None:
    functions = executed(ROOT, tmp_path / "functions.json", "bonjour", "--max", "5")
    assert {"model.py:load", "decoder.py:Decoder.forward"} <= set(functions)
    faults = out_of_place(functions)
    assert not faults, "\n".join(faults)


def test_demo_is_short_and_uses_only_public_names() -> None:
    assert demo_faults(ROOT / "demo.py") == []


def test_architecture_page_shows_the_rule() -> None:
    """Its tables list the wings of the tree, what each may import, and the doors of the core."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|$", page.partition("## How a pass works")[0], re.MULTILINE)
    shown = {
        name: set(re.findall(r"`(\w+)`", text)) for names, text in rows for name in re.findall(r"`([^`]*)`", names)
    }
    here = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    rules = {f"{door}.py": wings & here for door, wings in DOORS.items()}
    rules |= {wing: wings & here for wing, wings in WINGS.items() if wing in here}
    rules |= {FLOOR: {"errors"}, "commands": {LAZY}}  # which may import any wing, and this one with care
    assert shown == rules
    doors = {1: "one place", 2: "two places", 3: "three places", 4: "four places", 5: "five places"}[len(DOORS)]
    assert f"imports a wing in {doors} only" in page


def test_tests_mirror_the_tree() -> None:
    assert stray_tests(ROOT) == []


# The checks find their faults


def write_tree(root: Path, sources: dict[str, str]) -> Path:
    """Write a package without faults, then add `sources`: module → text."""
    package = root / "llama_onnx"
    files = {f"{name}.py": '"""Doc."""\n' for name in (*CORE, *ENTRIES)}
    files |= {f"{wing}/__init__.py": '"""What it is for."""\n' for wing in (*WINGS, FLOOR)}
    files["text/open.py"] = "from ..config import x\nfrom ..files import y\n"
    files["model.py"] = "from .text import open\nfrom .generate import tokens\n"
    files["commands/tool.py"] = "def f():\n    from ..export import x\n"
    files |= {f"{name}.py": text for name, text in sources.items()}
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


LONG = "x = 1\n" * 140


@pytest.mark.parametrize(
    ("check", "sources"),
    [
        (broken_imports, {"decoder": "from .text.open import x\n"}),
        (broken_imports, {"decoder": "def f():\n    from .original import x\n"}),
        (broken_imports, {"decoder": "import llama_onnx.streaming\n"}),
        (broken_imports, {"decoder": "from importlib import import_module\nimport_module('.text')\n"}),
        (broken_imports, {"decoder": "import importlib\nimportlib.import_module(name='llama_onnx.text')\n"}),
        (broken_imports, {"decoder": "__import__('llama_onnx.text')\n"}),
        (broken_imports, {"decoder": "import llama_onnx\ndef f():\n    return llama_onnx.text.open.x\n"}),
        (broken_imports, {"decoder": "import llama_onnx as own\nx = own.text\n"}),
        (broken_imports, {"decoder": "from typing import *\nif not TYPE_CHECKING:\n    from .text import x\n"}),
        (broken_imports, {"decoder": "from typing import *\nif 1 or TYPE_CHECKING:\n    from .text import x\n"}),
        (computed_imports, {"decoder": "import importlib\nimportlib.import_module('llama_onnx.' + 'text')\n"}),
        (computed_imports, {"decoder": "import importlib\nimportlib.import_module(name=f'{1}')\n"}),
        (computed_imports, {"decoder": "def f(name):\n    __import__(name)\n"}),
        (computed_imports, {"decoder": "from importlib import import_module as get\nget('llama_onnx.text')\n"}),
        (other_walks, {"scoring/a": "from ..decoder import run_layer\n"}),
        (other_walks, {"scoring/a": "from ..decoder import run_layer as step\nstep()\n"}),
        (other_walks, {"scoring/a": "def f(decoder, states):\n    return map(decoder.run_layer, states)\n"}),
        (other_walks, {"batching/a": "def f(pool, layer):\n    with pool.use(layer) as s:\n        s.run({}, {})\n"}),
        (other_walks, {"batching/a": "def f(session):\n    session.runtime.run(None, {})\n"}),
        (broken_imports, {"generate": "from .text.open import x\n"}),
        (broken_imports, {"model": "from .scoring import x\n"}),
        (broken_imports, {"session": "from .commands import x\n"}),
        (broken_imports, {"files/a": "from ..config import x\n"}),
        (broken_imports, {"streaming/a": "from ..text import x\n"}),
        (broken_imports, {"streaming/a": "from .. import text\n"}),
        (broken_imports, {"scoring/a": "from ..batching import x\n"}),
        (broken_imports, {"batching/deep/a": "from ...original import x\n"}),
        (broken_imports, {"export/a": "from ..commands import x\n"}),
        (broken_imports, {"store/a": "from ..serving import x\n"}),
        (broken_imports, {"commands/a": "from ..export import x\n"}),
        (broken_imports, {"serving/a": "def f():\n    from ..export import x\n"}),
        (unknown_wings, {"attic/__init__": '"""What it is for."""\n'}),
        (circles, {"memory": "from .pool import x\n", "pool": "from .memory import x\n"}),
        (circles, {"memory": "def f():\n    from .pool import x\n", "pool": "from . import memory\n"}),
        (circles, {"memory": "from . import __version__\n", "__init__": "from .memory import x\n"}),
        (
            circles,  # through the `__init__` of a package of which another module is imported
            {
                "export/a/__init__": '"""A."""\nfrom ..b import x\n',
                "export/a/c": "",
                "export/b": "from .a.c import x\n",
            },
        ),
        (eager_imports, {"session": "import torch\n"}),
        (eager_imports, {"text/fast": "try:\n    import tokenizers\nexcept ImportError:\n    pass\n"}),
        (eager_imports, {"scoring/a": "from onnx import helper\n"}),
        (misplaced_core, {"attic": '"""Doc."""\n'}),
        (over_budget, {"pool": '"""Doc.\n' + "\n" * 250 + '"""\n'}),
        (over_budget, dict.fromkeys(CORE[:13], LONG)),
        (over_budget, dict.fromkeys(CORE[:12], "x = 1\n" * 100)),
        (over_budget, dict.fromkeys(CORE[:8], "\n" * 240)),
        (over_budget, {"pool": f"x = '{'y' * 120}'\n"}),
        (without_a_sentence, {"text/__init__": ""}),
        (without_a_sentence, {"text/__init__": '"""What it is for. And more."""\n'}),
        (without_a_sentence, {"text/__init__": '"""What it is for"""\n'}),
    ],
)
def test_each_fault_is_found_by_its_own_check_alone(
    tmp_path: Path, check: Callable[[Path], list[str]], sources: dict[str, str]
) -> None:
    package = write_tree(tmp_path, sources)
    assert [one.__name__ for one in CHECKS if one(package)] == [check.__name__]


def test_core_module_that_is_missing_is_found(tmp_path: Path) -> None:
    package = write_tree(tmp_path, {})
    (package / "kv_types.py").unlink()
    assert misplaced_core(package) == []
    (package / "pool.py").unlink()
    assert misplaced_core(package) == ["pool"]


@pytest.mark.parametrize(
    "sources",
    [
        {},
        {"decoder": "import typing\nif typing.TYPE_CHECKING:\n    from .text import x\n    import torch\n"},
        {"decoder": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .text import x\n"},
        {"decoder": "import llama_onnx\nx = llama_onnx.config.y, llama_onnx.__version__\n"},
        {"commands/a": "from importlib import import_module\ndef f(verb):\n    import_module(f'.{verb}', 'x')\n"},
        {"decoder": "def run_layer(session):\n    session.run()\n"},
        {"store/a": "import subprocess\nsubprocess.run(['true'])\n"},
        {"__main__": "from .commands.tool import f\n", "model_directory": "from .original import x\n"},
        {"serving/a": "from ..batching import x\n", "commands/a": "from ..serving.a import x\n"},
        {"export/a": "import onnx\nfrom ..scoring import x\ndef f():\n    import gguf\n"},
        {"export/__init__": '"""A."""\nfrom .a import x\n', "export/a": "from .b import x\n", "export/b": ""},
        {"pool": '"""Doc.\n' + "\n" * 200 + '"""\n# comment\n'},
    ],
)
def test_allowed_imports_are_not_faults(tmp_path: Path, sources: dict[str, str]) -> None:
    package = write_tree(tmp_path, sources)
    assert [fault for check in CHECKS for fault in check(package)] == []


def test_lines_of_code_are_neither_blank_nor_comment_nor_docstring(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""Doc\nof two lines."""\n\n# why\nx = """a\nb"""  # two\n\n\n'
        'def f():\n    "Doc."\n    return (\n        1\n    )\n'
    )
    assert count_lines(path) == (13, 6)


@pytest.mark.parametrize(
    ("source", "fault"),
    [("import json", ""), ("import turtle_graphics", "turtle_graphics"), ("from . import export", "llama_onnx.export")],
)
def test_packages_loaded_by_an_import_are_found(tmp_path: Path, source: str, fault: str) -> None:
    package = write_tree(tmp_path, {"__init__": f"{source}\n"})
    (package.parent / "turtle_graphics.py").write_text("")
    assert loaded_by_import(tmp_path) == [fault] * bool(fault)


def test_functions_executed_by_a_run_are_found(tmp_path: Path) -> None:
    """Finds functions called at run time, also in threads and at exit, but not code that runs on import."""
    write_tree(
        tmp_path,
        {
            "__init__": "from .streaming import slots\n",
            "streaming/slots": "def idle(): 0\ndef early(): 0\ndef run(): import llama_onnx.streaming.late\nearly()\n",
            "streaming/late": "def at_import(): pass\nclass A: x = at_import()\n",
            "streaming/pool": "def use(): pass\n",
            "decoder": "def forward(): pass\n",
            "files/a": "def close(): pass\n",
        },
    )
    (tmp_path / "demo.py").write_text(
        "import atexit, sys, threading, llama_onnx.decoder, llama_onnx.files.a, llama_onnx.streaming.pool as pool\n"
        "atexit.register(llama_onnx.files.a.close)\nllama_onnx.decoder.forward()\npool.use()\n"
        "thread = threading.Thread(target=llama_onnx.slots.run)\nthread.start()\nthread.join()\nsys.exit(0)\n"
    )
    functions = executed(tmp_path, tmp_path / "functions.json")
    assert functions == ["decoder.py:forward", "files/a.py:close", "streaming/pool.py:use", "streaming/slots.py:run"]
    assert out_of_place(functions) == ["files/a.py:close", "streaming/slots.py:run"]


@pytest.mark.parametrize(
    "text", ["x = 1\n" * 61, "import numpy\n", "from llama_onnx.commands import x\n", "def f():\n    import torch\n"]
)
def test_demo_that_breaks_its_rules_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.py").write_text("import sys\nimport llama_onnx\n")
    assert demo_faults(tmp_path / "demo.py") == []
    (tmp_path / "demo.py").write_text(text)
    assert len(demo_faults(tmp_path / "demo.py")) == 1


def test_folders_without_a_part_of_the_package_are_found(tmp_path: Path) -> None:
    write_tree(tmp_path, {})
    for folder in (".", "text", "tools", "attic"):
        (tmp_path / "tests" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / folder / "test_a.py").write_text("")
    assert stray_tests(tmp_path) == ["attic"]
