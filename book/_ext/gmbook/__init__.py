"""What this book adds to Sphinx, one concern a module."""

from . import cache, chapters, exercises, figures, ledger, mathjax, model_map, notebooks, weight


def setup(app):
    for module in (chapters, cache, mathjax, ledger, exercises, model_map, notebooks, figures, weight):
        module.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
