"""Small faults, made in the syntax tree of a piece of code."""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
REDUCTIONS = {
    "sum": "mean",
    "mean": "sum",
    "logsumexp": "sum",
    "cumsum": "cumprod",
    "amax": "amin",
    "amin": "amax",
}
DROPPED = {"exp", "log", "square", "sqrt", "softplus", "sigmoid", "log_softmax", "softmax", "detach"}
AXIS = {
    *REDUCTIONS,
    *DROPPED,
    "chunk",
    "cat",
    "stack",
    "unsqueeze",
    "squeeze",
    "gather",
    "unflatten",
    "flatten",
}
DRAWS = {"randn", "rand", "randint", "linspace", "arange", "sample", "manual_seed", "normal", "uniform"}
BESIDE_THE_POINT = {"source", "within", "below", "tolerance", "steps", "batch_size", "lr", "width", "height"}


class Mutant(NamedTuple):
    """A fault: where it is, what it does, the whole tree with it, and the lines that it is on."""

    where: str
    what: str
    tree: ast.Module
    lines: range

    @property
    def name(self) -> str:
        return f"{self.where}: {self.what}"


def mutants(source: str, where: str, leave: frozenset[str] = frozenset()) -> Iterator[Mutant]:
    """Every single fault of this code; `where` is its file, and the line is added.

    What only chooses random inputs is left alone, as other inputs prove as much; so are the wrong version in
    a refutation, tolerances, and text.
    """
    tree = ast.parse(source)
    for index, node in enumerate(_sites(tree)):
        for what, change in () if _called(node) in leave else _changes(node):
            broken = copy.deepcopy(tree)
            site = _sites(broken)[index]
            change(site)
            before, after = ast.unparse(node), ast.unparse(site)
            if before != after:
                line = source.splitlines()[node.lineno - 1].strip()
                says = f"`{line}`, {what}: {before} -> {after}"
                lines = range(node.lineno, node.end_lineno + 1)
                yield Mutant(where, says, ast.fix_missing_locations(broken), lines)


def _sites(tree: ast.AST) -> list[ast.AST]:
    """Nodes in a fixed order, without those in annotations, defaults, or beside the point."""
    found: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        found.append(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases", "args") and not isinstance(
                node, ast.Call
            ):
                continue
            if isinstance(node, ast.Raise | ast.JoinedStr) or name == "msg":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and getattr(child, "arg", None) not in BESIDE_THE_POINT:
                    visit(child)

    visit(tree)
    return found


def _changes(node: ast.AST):
    if (isinstance(node, ast.BinOp) and not _draws(node)) or isinstance(node, ast.AugAssign):
        yield from _operator(node)
    elif (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and not isinstance(node.operand, ast.Constant)
    ):
        yield "sign", lambda n: setattr(n, "op", ast.UAdd())
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _call(node)
    elif isinstance(node, ast.Subscript) and _is_int(node.slice):
        yield "index", lambda n: setattr(n, "slice", ast.Constant(1 if ast.literal_eval(n.slice) == 0 else 0))


def _called(node: ast.AST) -> str:
    return getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""


def _operator(node):
    if type(node.op) in OPERATORS:
        yield "operator", lambda n: setattr(n, "op", OPERATORS[type(n.op)]())


def _call(node):
    name, receiver = node.func.attr, node.func.value
    if name in REDUCTIONS:
        yield "reduction", lambda n: setattr(n.func, "attr", REDUCTIONS[n.func.attr])
    is_method = not (isinstance(receiver, ast.Name) and receiver.id in ("torch", "np", "math", "F"))
    if name in DROPPED and is_method:
        yield "dropped", lambda n: _become(n, n.func.value)
    if name in AXIS and is_method:
        for i, argument in enumerate(node.args):
            if _is_int(argument) and not (name == "chunk" and i == 0):
                yield (
                    "axis",
                    lambda n, i=i: n.args.__setitem__(
                        i, ast.Constant(0 if ast.literal_eval(n.args[i]) else -1)
                    ),
                )


def _become(node: ast.Call, other: ast.expr) -> None:
    """Turns a call f(x) or x.f() into x, in place."""
    node.func, node.args, node.keywords = ast.Name("_same", ast.Load()), [other], []


def _draws(node: ast.AST) -> bool:
    names = (
        getattr(n.func, "attr", getattr(n.func, "id", "")) for n in ast.walk(node) if isinstance(n, ast.Call)
    )
    return any(name in DRAWS for name in names)


def _is_int(node: ast.AST) -> bool:
    try:
        return type(ast.literal_eval(node)) is int
    except ValueError:
        return False
