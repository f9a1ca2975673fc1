"""The tables that the ledger and the errata page are made of."""

from collections import Counter

from docutils import nodes
from docutils.parsers.rst.directives import choice
from sphinx.util.docutils import SphinxDirective

from .claims import LEDGER

NAMES = {"eq": "({})", "err": "({})", "fig": "Fig. {}", "tab": "Table {}", "ex": "Exercise {}"}
NUMBERED = {"fig": "figure", "tab": "table", "ex": "exercise"}


class ledger_part(nodes.General, nodes.Element):
    """Stands where a table will be, until all pages are known."""


class Writer:
    """Builds the parts, each a method, for the page that asks for them."""

    def __init__(self, app, docname):
        self.app, self.docname = app, docname
        self.pages, self.claims = app.env.ledger_pages, app.claims.values()
        self.checks = [check for page in self.pages.values() for check in page.checks if check.mark == "✓"]
        self.home = {
            label: name
            for name, page in self.pages.items()
            for label in [*page.equations, *page.figures, *page.exercises]
        }

    def link(self, text, docname, anchor):
        uri = self.app.builder.get_relative_uri(self.docname, docname) + f"#{anchor}"
        return nodes.reference("", text, internal=True, refuri=uri)

    def to(self, label):
        """A link to an equation, a figure or an exercise, named by its number."""
        docname, prefix = self.home[label], label.partition("-")[0]
        kind = NUMBERED.get(prefix, "displaymath")
        anchor = label if prefix in NUMBERED else f"equation-{label}"
        number = ".".join(map(str, self.app.env.toc_fignumbers[docname][kind][anchor]))
        return self.link(NAMES.get(prefix, "({})").format(number), docname, anchor)

    def shown_by(self, claim):
        links = [self.to(label) for label in claim.shown_by if label in self.home]
        return cell(*[piece for link in links for piece in (link, " ")][:-1])

    def totals(self):
        equations = [label for page in self.pages.values() for label in page.equations]
        definitions = [label for label in equations if label.startswith("def-")]
        errata = [claim for claim in self.claims if claim.erratum]
        figures = {
            "equations": len(equations) - len(definitions),
            "definitions": len(definitions),
            "checks that ran": len(self.checks),
            "claims shown": f"{sum(bool(c.shown_by) for c in self.claims)} of {len(self.claims)}",
            "errata answered": f"{sum(bool(c.shown_by) for c in errata)} of {len(errata)}",
        }
        items = [
            nodes.list_item("", *cell(nodes.strong("", str(count)), f" {name}"))
            for name, count in figures.items()
        ]
        return [nodes.bullet_list("", *items, classes=["ledger-totals"])]

    def kinds(self):
        count = Counter(check.kind for check in self.checks)
        rows = [[cell(nodes.literal("", f"check.{kind}")), cell(str(n))] for kind, n in count.most_common()]
        return [table(["kind of check", "times it ran"], rows, "kinds")]

    def equations(self):
        rows = []
        for name, page in self.pages.items():
            for label in page.equations:
                words = dict.fromkeys(check.words for check in page.checks_of(label))
                checks = [part for w in words for part in cell(self.link(w, name, f"check-{label}"))]
                rows.append(
                    [cell(self.to(label)), cell(nodes.literal("", label)), checks or cell("definition")]
                )
        return [table(["number", "label", "shown by"], rows, "equations")]

    def stated(self, claim):
        erratum = cell(nodes.strong("", "Erratum"), f" {claim.erratum}", classes=["erratum"])
        return cell(claim.claim) + (erratum if claim.erratum else [])

    def claims_by_source(self):
        parts = []
        for source, kind in self.app.claim_sources.items():
            rows = [
                [
                    cell(nodes.inline("", claim.id, ids=[f"claim-{claim.id}"])),
                    self.stated(claim),
                    self.shown_by(claim),
                ]
                for claim in self.claims
                if claim.source == source
            ]
            parts.append(nodes.rubric("", f"{source}, {kind}"))
            parts.append(table(["claim", "what is stated", "shown by"], rows, "claims"))
        return parts

    def errata(self):
        rows = [
            [
                cell(self.link(claim.id, LEDGER, f"claim-{claim.id}")),
                cell(claim.claim),
                cell(claim.erratum),
                self.shown_by(claim),
            ]
            for claim in self.claims
            if claim.erratum
        ]
        return [table(["claim", "the source states", "what is wrong or loose", "shown by"], rows, "errata")]


def cell(*content, classes=()):
    content = [nodes.Text(part) if isinstance(part, str) else part for part in content]
    return [nodes.paragraph("", "", *content, classes=list(classes))]


def table(head, rows, name):
    def row(cells):
        return nodes.row("", *[nodes.entry("", *content) for content in cells])

    group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in head], cols=len(head))
    group += nodes.thead("", row([cell(title) for title in head]))
    group += nodes.tbody("", *[row(cells) for cells in rows])
    return nodes.table("", group, classes=["ledger", f"ledger-{name}", "colwidths-auto"])


PARTS = {
    "totals": Writer.totals,
    "kinds": Writer.kinds,
    "equations": Writer.equations,
    "claims": Writer.claims_by_source,
    "errata": Writer.errata,
}


class Ledger(SphinxDirective):
    required_arguments = 1

    def run(self):
        return [ledger_part(part=choice(self.arguments[0], PARTS))]


class Errata(SphinxDirective):
    def run(self):
        return [ledger_part(part="errata")]


def write(app, doctree, docname):
    for node in list(doctree.findall(ledger_part)):
        node.parent.replace(node, PARTS[node["part"]](Writer(app, docname)))


def setup(app):
    app.add_node(ledger_part)
    app.add_directive("ledger", Ledger)
    app.add_directive("errata", Errata)
    app.connect("doctree-resolved", write)
