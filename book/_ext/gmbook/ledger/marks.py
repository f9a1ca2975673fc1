"""The check mark beside an equation's number, and the way back from a check to what it checked."""

import html

from docutils import nodes

from .pages import LINE, streams


def beside_equation(equation, checks):
    refuted = equation["label"].startswith("err-")
    mark, verb = ("✗", "refuted") if refuted else ("✓", "checked")
    words = "; ".join(dict.fromkeys(check.words for check in checks))
    link = (
        f'<a class="check-mark {verb}" href="#check-{equation["label"]}" title="{verb}: {html.escape(words)}"'
        f' aria-label="{equation["label"]} {verb}: {html.escape(words)}">{mark}</a>'
    )
    box = nodes.container(classes=["equation"])
    equation.parent.replace(equation, box)
    box += [equation, nodes.raw("", link, format="html")]


def back_link(page):
    def line(match):
        mark, label, words = match.groups()
        state = {"✓": "passed", "○": "unsolved", "·": "unjudged"}[mark]
        target = f"equation-{label}" if label in page.equations else label
        return f'<span class="{state}">{mark}</span> <a href="#{target}">{label}</a>  {words}'

    return line


def in_output(stream, page):
    text = html.escape(stream.astext(), quote=False)
    if LINE.search(text):
        lines = LINE.sub(back_link(page), text)
        raw = f'<div class="output stream checks"><pre>{lines}</pre></div>'
        stream.parent.replace(stream, nodes.raw("", raw, format="html"))


def add(app, doctree, docname):
    if app.builder.format != "html":
        return
    page = app.env.ledger_pages[docname]
    for equation in list(doctree.findall(nodes.math_block)):
        if checks := page.checks_of(equation.get("label")):
            beside_equation(equation, checks)
    for stream in streams(doctree):
        in_output(stream, page)


def setup(app):
    app.connect("doctree-resolved", add, priority=700)  # after the notebooks are written
