"""What this book adds to Sphinx, one concern a module."""

from . import cache, chapters, figures, ledger, mathjax, model_map, notebooks, weight


def setup(app):
    for module in (chapters, cache, mathjax, ledger, model_map, notebooks, figures, weight):
        module.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
