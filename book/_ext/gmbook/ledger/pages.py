"""What each page holds, read from its executed form: equations, checks, figures, exercises, claims."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.environment.collectors import EnvironmentCollector
from sphinx_exercise.nodes import is_exercise_node

CALL = re.compile(r"""\bcheck\.(\w+)\(\s*["']([\w-]+)["']""")
LINE = re.compile(r"^([✓·○]) ((?:def|eq|err|ex|fig|tab)-[a-z0-9-]+)  (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Check:
    label: str
    kind: str
    mark: str
    words: str
    line: int


@dataclass
class Page:
    file: str
    equations: dict[str, int] = field(default_factory=dict)
    unlabelled: list[int] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)  # and tables
    exercises: dict[str, int] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    claims: list[tuple[str, int]] = field(default_factory=list)
    referenced: set[str] = field(default_factory=set)  # labels in {eq}
    faults: list[tuple[int, str]] = field(default_factory=list)

    def checks_of(self, label):
        return [check for check in self.checks if check.label == label]

    def defines(self, label):
        return label in {**self.equations, **self.figures, **self.exercises}


def cells(doctree):
    return [node for node in doctree.findall(nodes.container) if node.get("nb_element") == "cell_code"]


def inside(node):
    while node.parent is not None:
        node = node.parent
        if node.get("nb_element") == "cell_code":
            return True
    return False


def source(cell):
    parts = [part for part in cell if part.get("nb_element") == "cell_code_source"]
    return "\n".join(part.astext() for part in parts)


def streams(cell):
    return [node for node in cell.findall(nodes.literal_block) if "stream" in node["classes"]]


def read_checks(page, cell):
    called = defaultdict(list)
    for kind, label in CALL.findall(source(cell)):
        called[label].append(kind)
    printed = LINE.findall("\n".join(node.astext() for node in streams(cell)))
    for mark, label, words in printed:
        kinds = called.get(label)
        if not kinds:
            page.faults.append((cell.line, f"prints a check of {label} that it does not call by name"))
            continue
        kind = kinds.pop(0) if len(kinds) > 1 else kinds[0]
        page.checks.append(Check(label, kind, mark, words, cell.line))
    for label in called.keys() - {label for _, label, _ in printed}:
        page.faults.append((cell.line, f"calls a check of {label} that printed nothing"))


def anchor_cell(page, cell, taken):
    """Give the cell an id for every label that it is the first on its page to check."""
    for label in dict.fromkeys(label for _, label in CALL.findall(source(cell))):
        if label not in taken and page.checks_of(label):
            taken.add(label)
            cell["ids"].append(f"check-{label}")


def is_drawing(node):
    return isinstance(node, nodes.image) or (isinstance(node, nodes.raw) and "<svg" in node.astext())


def read_images(page, cell):
    """The words of a figure stand in the cell's metadata: move `alt` to the image, and miss none."""
    options = cell["cell_metadata"].get("mystnb", {}).get("figure", {})
    for image in cell.findall(is_drawing):
        image["alt"] = options.get("alt", "")
        for key in ("name", "caption", "alt"):
            if not options.get(key):
                page.faults.append((cell.line, f"figure without {key}"))


def read_page(app, doctree):
    page = Page(Path(doctree["source"]).relative_to(app.srcdir).as_posix())
    for node in doctree.findall(nodes.math_block):
        if node.get("label"):
            page.equations[node["label"]] = node.line
        elif not inside(node):
            page.unlabelled.append(node.line)
    for node in doctree.findall(lambda node: isinstance(node, nodes.figure | nodes.table)):
        page.figures |= {label: node.line for label in node["ids"] if label.startswith(("fig-", "tab-"))}
    for node in doctree.findall(is_exercise_node):
        page.exercises[node["label"]] = node.line
    for node in doctree.findall(addnodes.pending_xref):
        if node["reftype"] == "eq":
            page.referenced.add(node["reftarget"])
    taken = set()
    for cell in cells(doctree):
        read_checks(page, cell)
        anchor_cell(page, cell, taken)
        read_images(page, cell)
    return page


class Pages(EnvironmentCollector):
    def process_doc(self, app, doctree):
        page = read_page(app, doctree)
        page.claims = app.env.temp_data.get("ledger_claims", [])
        app.env.ledger_pages[app.env.docname] = page

    def clear_doc(self, app, env, docname):
        env.ledger_pages.pop(docname, None)

    def merge_other(self, app, env, docnames, other):
        env.ledger_pages |= {name: other.ledger_pages[name] for name in docnames}


def prepare(app):
    if not hasattr(app.env, "ledger_pages"):
        app.env.ledger_pages = {}


def setup(app):
    app.connect("builder-inited", prepare)
    app.add_env_collector(Pages)
