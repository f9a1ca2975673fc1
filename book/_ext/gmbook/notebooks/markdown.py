"""A resolved page as plain Markdown, cut where its code cells stand."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from docutils import nodes


@dataclass(frozen=True)
class CodeCell:
    index: int
    hidden: bool


@dataclass(frozen=True)
class Break:
    """A new text cell begins, so that Colab and Jupyter can fold a section."""


class Markdown:
    """One method a kind of node. Inline nodes become a string; blocks a list of strings, cells and breaks.

    Args:
        page: the address of the page, to which its links are relative.
        numbers: the numbers of the page's equations, figures and sections, by their ids.
    """

    def __init__(self, page, numbers):
        self.page, self.numbers = page, numbers

    def visit(self, node, *args):
        for kind in type(node).__mro__:
            if method := getattr(self, kind.__name__, None):
                return method(node, *args)
        raise NotImplementedError(
            f"{node.source}:{node.line}: {type(node).__name__} has no form in a notebook"
        )

    def inline(self, node):
        return "".join(self.visit(child) for child in visible(node))

    def blocks(self, node, level=1):
        blocks = []
        for child in visible(node):
            blocks += self.section(child, level) if isinstance(child, nodes.section) else self.visit(child)
        return blocks

    def text(self, node):
        """The blocks of a place where no code cell can stand."""
        return "\n\n".join(self.blocks(node))

    # inline

    def Text(self, node):
        return re.sub(r"([\\`*$]|(?<!\w)_|_(?!\w)|<(?=\w))", r"\\\1", node.astext())

    def emphasis(self, node):
        return f"*{self.inline(node)}*"

    def strong(self, node):
        return f"**{self.inline(node)}**"

    def literal(self, node):
        return f"`{node.astext()}`"

    def math(self, node):
        return f"${' '.join(node.astext().split())}$"

    def reference(self, node):
        uri = node.get("refuri") or f"#{node['refid']}"
        return f"[{self.inline(node)}]({urljoin(self.page, uri)})"

    def footnote_reference(self, node):
        return f"<sup>{node.astext()}</sup>"

    # blocks

    def paragraph(self, node):
        return [self.inline(node)]

    def section(self, node, level):
        title, *content = node
        number = self.numbers.get(node["ids"][0])
        heading = f"{'#' * level} {number + ' ' if number else ''}{self.inline(title)}"
        return [Break(), heading, *self.blocks(content, level + 1)]

    def math_block(self, node):
        tag = f" \\tag{{{self.numbers[node['ids'][0]]}}}" if node.get("label") else ""
        return [f"$$\n{node.astext().strip()}{tag}\n$$"]

    def literal_block(self, node):
        return [f"```{node.get('language', '')}\n{node.astext()}\n```"]

    def bullet_list(self, node):
        return [self.items(node, lambda number: "-")]

    def enumerated_list(self, node):
        start = node.get("start", 1)
        return [self.items(node, lambda number: f"{start + number}.")]

    def items(self, node, marker):
        return "\n".join(self.item(item, marker(number)) for number, item in enumerate(node))

    def item(self, node, marker):
        return indent(self.text(node), f"{marker} ", " " * (len(marker) + 1))

    def definition_list(self, node):
        items = [(self.inline(item[0]), self.text(item[-1])) for item in node]
        return [indent(f"**{term}**\n\n{definition}", "- ", "  ") for term, definition in items]

    def block_quote(self, node):
        return [quote(self.text(node))]

    def Admonition(self, node):
        return [quote(f"**{type(node).__name__.capitalize()}.**\n\n{self.text(node)}")]

    def admonition(self, node):
        title, *content = node
        return [quote(f"**{self.inline(title)}**\n\n{self.text(content)}")]

    def exercise_enumerable_node(self, node):
        title, content = node
        name = f"Exercise {self.numbers[node['label']]} {title.astext().strip()}"
        return [quote(f"**{name}**\n\n{self.text(content)}")]

    def solution_node(self, node):
        """Text folds away; the code below it runs, its source folded too."""
        title, content = node
        pieces = []
        for piece in joined(self.blocks(content)):
            if isinstance(piece, str):
                pieces.append(
                    f"<details>\n<summary><b>{title.astext()}</b></summary>\n\n{piece}\n\n</details>"
                )
            else:
                pieces.append(CodeCell(piece.index, hidden=True))
        return pieces

    def table(self, node):
        node = node.deepcopy()
        head, body = (next(node.findall(kind)) for kind in (nodes.thead, nodes.tbody))
        rows = [[self.table_cell(entry) for entry in row] for row in [*head, *body]]
        rows.insert(1, ["---"] * len(rows[0]))
        return ["\n".join(f"| {' | '.join(row)} |" for row in rows)]

    def table_cell(self, node):
        for math in node.findall(nodes.math):
            bars = math.astext().replace(r"\|", r"\Vert ").replace("|", r"\vert ")
            math.children = [nodes.Text(bars)]
        return self.text(node).replace("\n\n", "<br>").replace("\n", " ").replace("|", r"\|")

    def container(self, node):
        if node.get("nb_element") != "cell_code":
            return self.blocks(node)
        hidden = "hide-input" in node["cell_metadata"].get("tags", [])
        words = [self.figure(figure) for figure in node.findall(nodes.figure)]
        return [CodeCell(node["cell_index"], hidden), *words]

    def figure(self, node):
        (caption,) = node.findall(nodes.caption)
        return f"*Fig. {self.numbers[node['ids'][0]]}.* {self.inline(caption)}"

    def footnote(self, node):
        label, *content = node
        return [f"<sup>{label.astext()}</sup> {self.text(content)}"]

    def transition(self, node):
        return ["---"]


def visible(node):
    return [child for child in node if not isinstance(child, nodes.Invisible | nodes.raw)]


def joined(blocks):
    """Neighbouring strings become one."""
    pieces = []
    for block in blocks:
        if isinstance(block, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += "\n\n" + block
        else:
            pieces.append(block)
    return [piece for piece in pieces if piece]


def indent(text, first, rest):
    lines = text.split("\n")
    return "\n".join([first + lines[0], *[(rest + line).rstrip() for line in lines[1:]]])


def quote(text):
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
