"""Figures become part of the page: inline SVG that takes the page's text colour in either theme."""

import re
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes

from .ledger.pages import inside

INK, PAPER = "#2b3340", "#fdfdfb"  # those of gmlib.plot: text and lines, background
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
REFERENCE = re.compile(r"(url\(#|^#)([^)]+)")

ElementTree.register_namespace("", SVG[1:-1])


def inline(text, name, alt):
    """The SVG as an element for an HTML page: `name` keeps its ids apart from those of other figures."""
    root = ElementTree.fromstring(text)
    drop(root, "metadata")
    drop(root, "style")  # matplotlib's one rule is for every element of the page
    for element in root.iter():
        if HREF in element.attrib:
            element.set("href", element.attrib.pop(HREF))
    rename(root, name)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, paint(round_off(key, value)))
    width = float(re.match(r"[\d.]+", root.attrib.pop("width"))[0])
    del root.attrib["height"]
    root.attrib |= {
        "role": "img",
        "aria-label": alt,
        "class": "figure",
        "style": f"width:{width / 12:.4g}rem",
    }
    return ElementTree.tostring(root, encoding="unicode")


def inline_all(drawing, name):
    """The HTML of a drawing, such as that of `gmlib.plot.steps`, each SVG an element of the page."""
    frames = count()
    return re.sub(
        r"<svg.*?</svg>",
        lambda svg: inline(svg[0], f"{name}-{next(frames)}", drawing["alt"]),
        drawing.astext(),
        flags=re.DOTALL,
    )


def drop(root, tag):
    for parent in root.iter():
        for child in parent.findall(SVG + tag):
            parent.remove(child)


def rename(root, name):
    """Number the ids that something refers to, drop all others."""
    used = {
        m[2]
        for element in root.iter()
        for value in element.attrib.values()
        for m in REFERENCE.finditer(value)
    }
    names = dict(zip(sorted(used), (f"{name}-{number}" for number in count()), strict=False))
    for element in root.iter():
        if (old := element.attrib.pop("id", None)) in names:
            element.set("id", names[old])
        for key, value in element.attrib.items():
            element.set(key, REFERENCE.sub(lambda m: m[1] + names[m[2]], value))


def paint(value):
    value = re.sub(INK, "currentColor", value, flags=re.IGNORECASE)
    return re.sub(PAPER, "none", value, flags=re.IGNORECASE)


def round_off(key, value):
    if key in {"d", "points", "x", "y"}:
        return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", value)
    return value


def replace_images(app, doctree, docname):
    if app.builder.format != "html":
        return
    drawings = [node for node in doctree.findall(nodes.raw) if "alt" in node]
    for number, drawing in enumerate(drawings):
        drawn = nodes.raw("", inline_all(drawing, f"drawing{number}"), format="html")
        drawing.parent.replace(drawing, drawn)  # the classes of an output would put it on a card
    images = [node for node in doctree.findall(nodes.image) if node["uri"].endswith(".svg") and inside(node)]
    for number, image in enumerate(images):
        text = (Path(app.srcdir) / image["uri"]).read_text()
        svg = inline(text, f"svg{number}", image.get("alt", ""))
        image.parent.replace(image, nodes.raw("", svg, format="html"))


def setup(app):
    app.connect("doctree-resolved", replace_images, priority=700)  # after the notebooks are written
