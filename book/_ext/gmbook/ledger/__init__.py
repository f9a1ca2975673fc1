"""The ledger: which equations, figures and claims of the book are shown by a check that ran."""

from . import claims, gate, marks, pages, tables


def setup(app):
    for module in (pages, claims, marks, tables, gate):
        module.setup(app)
