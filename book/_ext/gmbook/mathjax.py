"""MathJax from the `sphinx-mathjax-offline` wheel: one script, its fonts and three extensions."""

from importlib.util import find_spec
from pathlib import Path
from shutil import copy2

FILES = ["tex-chtml.js", "output/chtml/fonts/woff-v2/*.woff"]
FILES += [f"input/tex/extensions/{name}.js" for name in ("boldsymbol", "cancel", "mathtools")]


def copy(app, exception):
    if exception or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for file in (path for pattern in FILES for path in source.glob(pattern)):
        target = Path(app.outdir) / "_static" / "mathjax" / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy2(file, target)


def setup(app):
    app.connect("build-finished", copy)
