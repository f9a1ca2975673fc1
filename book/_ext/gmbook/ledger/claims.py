"""`book/claims.yaml`, and the role that cites a row of it."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxRole

FILE = "book/claims.yaml"
LEDGER = "book/ledger"


@dataclass(frozen=True)
class Claim:
    id: str
    topic: str
    chapter: str
    claim: str
    shown_by: list[str]
    line: int
    erratum: str = ""

    @property
    def source(self):
        return self.id.partition(".")[0]


class claim_reference(nodes.Inline, nodes.TextElement):
    """A claim cited in prose, made a link once all pages are known."""


class ClaimRole(SphinxRole):
    def run(self):
        self.env.temp_data.setdefault("ledger_claims", []).append((self.text, self.get_source_info()[1]))
        return [claim_reference("", claim=self.text)], []


def load(app):
    text = (Path(app.srcdir) / FILE).read_text()
    rows = next(value for key, value in yaml.compose(text).value if key.value == "claims").value
    data = yaml.safe_load(text)
    app.claims = {
        row["id"]: Claim(line=node.start_mark.line + 1, **row)
        for node, row in zip(rows, data["claims"], strict=True)
    }
    app.claim_sources = {name: source["kind"] for name, source in data["sources"].items()}


def resolve(app, doctree, docname):
    for node in list(doctree.findall(claim_reference)):
        claim = app.claims.get(node["claim"])
        link = nodes.reference(
            "", node["claim"], internal=True, classes=["claim"],
            refuri=app.builder.get_relative_uri(docname, LEDGER) + f"#claim-{node['claim']}",
            reftitle=claim.claim if claim else "",
        )  # fmt: skip
        node.parent.replace(node, link)


def setup(app):
    app.connect("builder-inited", load)
    app.connect("doctree-resolved", resolve)
    app.add_node(claim_reference)
    app.add_role("claim", ClaimRole())
