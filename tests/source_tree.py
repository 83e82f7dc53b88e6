"""Reads a Python package without importing it: its modules, their imports, and their lines of code."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")  # the only conditions under which imports are not counted
IMPORTERS = ("__import__", "import_module")
COMPUTED = "(computed)"


@dataclass(frozen=True)
class Import:
    """An import: a statement, a call of `import_module` or `__import__`, or a use of a name such as `package.module`.

    `imported` is a module, never a name inside one, or COMPUTED for a call whose argument is not a constant.
    """

    importer: str
    imported: str
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def find_modules(package: Path) -> dict[str, Path]:
    """Return the dotted name and the path of every module; for a package, the path of its `__init__.py`."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def find_imports(package: Path) -> list[Import]:
    """Return the imports of each module, also inside functions, but not in blocks that only a type checker reads."""
    modules = find_modules(package)
    found = []
    for name, path in modules.items():
        home = name if path.name == "__init__.py" else name.rpartition(".")[0]
        nodes = list(_nodes(ast.parse(path.read_text(encoding="utf-8"))))
        roots = {bound: full for node, _ in nodes for bound, full in _bound(node) if full in modules}
        for node, in_function in nodes:
            for imported in [*_imported(node, home, modules), *_used(node, roots, modules)]:
                found.append(Import(name, imported, node.lineno, in_function))
    return list(dict.fromkeys(found))


def _nodes(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in TYPE_CHECKING:
            for other in child.orelse:
                yield from _nodes(ast.Module([other], []), in_function)
            continue
        if isinstance(child, ast.stmt | ast.expr):
            yield child, in_function
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _nodes(child, in_function or inside)


def _imported(node: ast.AST, home: str, modules: Iterable[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = home.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
            if alias.name in IMPORTERS and alias.asname:  # under another name its calls would not be seen
                yield COMPUTED
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
        given = [*node.args, *(one.value for one in node.keywords if one.arg == "name")]
        name = given[0].value if given and isinstance(given[0], ast.Constant) else None
        if isinstance(name, str):
            yield home + name if name.startswith(".") else name
        else:
            yield COMPUTED


def _bound(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that an `import` statement binds, each with its module."""
    for alias in node.names if isinstance(node, ast.Import) else []:
        first = alias.name.partition(".")[0]
        yield (alias.asname, alias.name) if alias.asname else (first, first)


def _used(node: ast.AST, roots: dict[str, str], modules: Iterable[str]) -> Iterator[str]:
    """Yield the module that an expression such as `package.module` or `package.module.name` reaches."""
    if isinstance(node, ast.Attribute):
        root, *parts = ast.unparse(node).split(".")
        if root in roots:
            names = [".".join([roots[root], *parts[:i]]) for i in range(len(parts), 0, -1)]
            yield from [name for name in names if name in modules][:1]


def find_circles(package: Path) -> list[list[str]]:
    """Return groups of modules that import each other, directly or indirectly.

    An import of `a.b.c` runs `a.b` first, and so counts as an import of it. The package itself is the exception, which
    is always there before its modules, and so are the packages that the importing module lies in.
    """
    modules = find_modules(package)
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for one in find_imports(package):
        parts = one.imported.split(".")
        parents = {".".join(parts[:i]) for i in range(2, len(parts))}
        around = {parent for parent in parents if f"{one.importer}.".startswith(f"{parent}.")}
        edges[one.importer] |= ({one.imported} | parents - around) & edges.keys()
    reached = {name: _reachable(name, edges) for name in edges}
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in edges if a in reached[a]}
    return [list(group) for group in sorted(groups)]


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges[ahead.pop()] - seen
        seen |= new
        ahead.extend(new)
    return seen


def third_party(imports: Sequence[Import], package: str) -> list[Import]:
    """Return the imports of modules that are neither in the package nor in Python's standard library."""
    own = {package, COMPUTED, *sys.stdlib_module_names}
    return [one for one in imports if one.imported.partition(".")[0] not in own]


def count_lines(path: Path) -> tuple[int, int]:
    """Return the number of lines of a module, and of those that are code: not blank, no comment, no docstring."""
    text = path.read_text(encoding="utf-8")
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            code.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(text.splitlines()), len(code)
