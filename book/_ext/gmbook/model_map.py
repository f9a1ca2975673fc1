"""The map of models on the title page: a box a chapter, a link where the chapter exists."""

import html

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from .chapters import chapter_of


class model_map(nodes.General, nodes.Element):
    """Stands where the map will be, until all pages are known."""


class ModelMap(SphinxDirective):
    """A caption; then families in YAML, each with its models, whose `icon` is the path of an SVG."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        return [model_map(caption=self.arguments[0], families=yaml.safe_load("\n".join(self.content)))]


def box(model, uri):
    icon = f'<svg viewBox="0 0 40 32" aria-hidden="true"><path d="{model["icon"]}"/></svg>'
    words = f"{int(model['chapter'])} {html.escape(model['name'])}<small>{html.escape(model['idea'])}</small>"
    tag, close = (f'a href="{uri}"', "a") if uri else ('span title="in the making"', "span")
    return f"<li><{tag}>{icon}<span>{words}</span></{close}></li>"


def family(group, uris):
    boxes = "".join(box(model, uris.get(model["chapter"])) for model in group["models"])
    title = f"<p>{html.escape(group['family'])}<small>{html.escape(group['about'])}</small></p>"
    return f'<li class="family{" wide" * group.get("wide", False)}">{title}<ul>{boxes}</ul></li>'


def draw(app, doctree, docname):
    uris = {chapter_of(name): app.builder.get_relative_uri(docname, name) for name in app.env.found_docs}
    for node in list(doctree.findall(model_map)):
        families = "".join(family(group, uris) for group in node["families"])
        caption = f"<figcaption><p>{html.escape(node['caption'])}</p></figcaption>"
        figure = f'<figure class="map"><ol>{families}</ol>{caption}</figure>'
        node.parent.replace(node, nodes.raw("", figure, format="html"))


def setup(app):
    app.add_node(model_map)
    app.add_directive("model-map", ModelMap)
    app.connect("doctree-resolved", draw)
