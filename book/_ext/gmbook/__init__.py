"""What this book adds to Sphinx, one concern a module."""

from . import cache, chapters, figures, ledger, mathjax, notebooks


def setup(app):
    for module in (chapters, cache, mathjax, ledger, notebooks, figures):
        module.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
