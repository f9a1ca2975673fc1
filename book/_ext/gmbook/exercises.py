"""sphinx-exercise gives the content of all exercises one id, and that of all solutions another: drop them."""

from docutils import nodes


def drop_ids(app, doctree, docname):
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []


def setup(app):
    app.connect("doctree-resolved", drop_ids)
