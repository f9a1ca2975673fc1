"""Each chapter as a notebook for Colab and for replay: plain Markdown, the code, its text outputs.

A build writes them to `_build/notebooks`; `python -m gmbook.notebooks` puts them beside the chapters.
"""

import hashlib
from collections import Counter
from copy import copy
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from jupyter_cache import get_cache
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from .markdown import CodeCell, Markdown, joined

INSTALL = """\
import sys

if "google.colab" in sys.modules:
    %pip install -q "gmlib-book @ git+{repository}@{branch}"
"""
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab's word for it, and Jupyter's


def install_cell(config):
    theme = config.html_theme_options
    source = INSTALL.format(repository=theme["repository_url"], branch=theme["repository_branch"])
    return new_code_cell(source.strip(), metadata={"tags": ["install"], **FOLDED})


def numbers(env, docname):
    """The numbers of what a page numbers, by id and as they are printed."""
    found = {id.removeprefix("#"): number for id, number in env.toc_secnumbers.get(docname, {}).items()}
    for kind in env.toc_fignumbers.get(docname, {}).values():
        found |= kind
    return {id: ".".join(map(str, number)) for id, number in found.items() if number}


def executed(app, docname):
    path = Path(app.outdir).parent / "jupyter_execute" / f"{docname}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    return get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(notebook)[1]


def text_only(output):
    output = nbformat.from_dict(output)
    if "data" in output:
        output.data = {mime: value for mime, value in output.data.items() if mime == "text/plain"}
        output.metadata = {}
    if output.output_type == "execute_result":
        output.execution_count = None
    return output


def code_cell(cell, hidden):
    tags = [tag for tag in cell.metadata.get("tags", []) if tag not in {"hide-input", "remove-cell"}]
    metadata = ({"tags": tags} if tags else {}) | (FOLDED if hidden else {})
    outputs = [text_only(output) for output in joined_streams(cell.outputs)]
    return new_code_cell(cell.source, metadata=metadata, outputs=outputs)


def joined_streams(outputs):
    """What was printed as one output, to the letter, wherever it was cut on its way."""
    found, streams = [], {}
    for output in outputs:
        if output.output_type == "stream" and output.name in streams:
            streams[output.name]["text"] += output.text
            continue
        found.append(copy(output))
        if output.output_type == "stream":
            streams[output.name] = found[-1]
    return found


def cells(app, doctree, docname):
    page = urljoin(app.config.html_baseurl, app.builder.get_target_uri(docname))
    pieces = Markdown(page, numbers(app.env, docname)).blocks(doctree)
    source = executed(app, docname).cells
    done = 0

    def unseen(end):
        return (code_cell(cell, hidden=True) for cell in source[done:end] if cell.cell_type == "code")

    for piece in joined(pieces):
        if isinstance(piece, str):
            yield new_markdown_cell(piece)
        elif isinstance(piece, CodeCell):
            yield from unseen(piece.index)
            yield code_cell(source[piece.index], piece.hidden)
            done = piece.index + 1
    yield from unseen(None)


def notebook(app, doctree, docname):
    page = urljoin(app.config.html_baseurl, app.builder.get_target_uri(docname))
    head = new_markdown_cell(f"*A chapter of [{app.config.html_title}]({page}), where it reads best.*")
    body = [head, install_cell(app.config), *cells(app, doctree, docname)]
    number_cells(body)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"colab": {"provenance": []}, "kernelspec": kernel, "language_info": {"name": "python"}}
    return new_notebook(cells=body, metadata=metadata)


def number_cells(cells):
    """Ids that follow from the source, so that a change to one cell changes no other."""
    seen, count = Counter(), 0
    for cell in cells:
        seen[cell.source] += 1
        cell.id = hashlib.sha256(f"{seen[cell.source]} {cell.source}".encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count


def write(app, doctree, docname):
    if app.builder.format != "html" or "kernelspec" not in app.env.metadata[docname]:
        return
    target = Path(app.outdir).parent / "notebooks" / f"{Path(docname).name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook(app, doctree, docname), target)


def setup(app):
    app.connect("doctree-resolved", write, priority=600)
