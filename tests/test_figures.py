"""Figures as parts of a page."""

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from gmbook import figures

from gmlib import plot


@pytest.fixture(scope="module")
def drawing():
    with plt.rc_context():
        plot.style()
        figure, axes = plot.figure()
        axes.plot([1, 3, 2])
        axes.imshow(np.eye(3))
        plot.label(axes, x="step", y="nats")
        file = io.StringIO()
        figure.savefig(file, format="svg")
        plt.close(figure)
    return file.getvalue()


def test_ink_and_paper_are_those_of_the_figures():
    assert (figures.INK, figures.PAPER) == (plot.INK, plot.PAPER)


def test_a_figure_takes_the_colours_of_its_page(drawing):
    svg = figures.inline(drawing, "one", "A curve.")
    assert plot.INK in drawing
    assert plot.PAPER in drawing
    assert plot.INK not in svg
    assert plot.PAPER not in svg
    assert "currentColor" in svg


def test_ids_of_two_figures_are_apart_and_all_used(drawing):
    one, two = (figures.inline(drawing, name, "A curve.") for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    assert ids[0] == set(re.findall(r'(?:url\(|href=")#([^")]+)', one))


def test_words_of_a_figure_are_escaped(drawing):
    assert 'aria-label="&quot;a&quot; &lt; b"' in figures.inline(drawing, "one", '"a" < b')


def test_a_figure_styles_nothing_else(drawing):
    assert "<style" in drawing
    assert "<style" not in figures.inline(drawing, "one", "A curve.")
