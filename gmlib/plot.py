"""The one figure style. `style()` sets it, `figure()` opens a figure, and each function draws on an axes.

Figures are SVG for a page that may be light or dark. All text and lines of the axes have one colour,
`INK`, and the background another, `PAPER`; a page may replace the first by its own text colour and make
the second transparent. The colours of data stand out on white and on near-black alike.
"""

import html
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

T = TypeVar("T")

INK, PAPER = "#2b3340", "#fdfdfb"

# Contrast >= 3:1 on white and on #14181e, and told apart with protan and deutan vision.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#2268ea", "#ee670c", "#0b7b45", "#9c50b1", "#858d98"
MODEL, DATA = BLUE, GREY
PALETTE = (BLUE, ORANGE, GREEN, PURPLE)

# Images are cards of their own, dark strokes on light, whatever the page around them.
SCAN = LinearSegmentedColormap.from_list("scan", ["#eeece6", "#1d2530"]).with_extremes(bad=(0, 0, 0, 0))

MANY = 2_000  # points, above which a cloud of them is an image within the SVG

_STYLE = {
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "gmlib",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelsize": 9,
    "axes.labelpad": 5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0,
    "hatch.color": INK,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "image.cmap": "viridis",
    "image.interpolation": "none",
}


def style() -> None:
    """Sets the style for all figures to come, and in a notebook shows them as SVG of stable bytes."""
    plt.rcParams.update(_STYLE)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def figure(
    width: float | int = 6.0, height: float | int = 3.2, columns: int = 1, rows: int = 1, **subplots_kw
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure of a size in inches, 7 of which fill a text column, and its axes: one, or an array of them."""
    return plt.subplots(rows, columns, figsize=(width, height), **subplots_kw)


def label(ax: Axes, *, x: str | None = None, y: str | None = None) -> Axes:
    """Names the axes: in lower case, with units."""
    ax.set(**{f"{axis}label": text for axis, text in (("x", x), ("y", y)) if text is not None})
    return ax


def curve(
    ax: Axes,
    y: Float[Tensor, " n"] | list[float],
    x: Float[Tensor, " n"] | list[float] | None = None,
    *,
    color: str = MODEL,
    label: str | None = None,
    dashed: bool = False,
) -> Axes:
    """A line through y at x, by default at 1, 2, ...; where it has a label, it is in the legend."""
    y = _array(y)
    x = np.arange(1, len(y) + 1) if x is None else _array(x)
    ax.plot(x, y, color=color, label=label, linestyle="--" if dashed else "-")
    if label is not None:
        ax.legend()
    return ax


def points(
    ax: Axes,
    x: Float[Tensor, "N 2"],
    *,
    color: str = DATA,
    size: float = 4.0,
    label: str | None = None,
) -> Axes:
    """A cloud of points in the plane, both axes to one scale."""
    x = _array(x)
    ax.scatter(x[:, 0], x[:, 1], s=size, color=color, linewidth=0, label=label, rasterized=len(x) > MANY)
    if label is not None:
        ax.legend(markerscale=2)
    ax.set_aspect("equal", adjustable="box")
    return ax


def density(
    ax: Axes,
    log_prob: Callable[[Float[Tensor, "N 2"]], Float[Tensor, " N"]],
    extent: tuple[float, float, float, float],
    *,
    resolution: int = 200,
    highest: float | None = None,
) -> Axes:
    """exp(log_prob) over a rectangle (left, right, bottom, top), dark where it is 0, bright at `highest`.

    Panels to be compared share `highest`; by default it is the highest value drawn.
    """
    left, right, bottom, top = extent
    horizontal, vertical = torch.linspace(left, right, resolution), torch.linspace(bottom, top, resolution)
    grid = torch.cartesian_prod(vertical, horizontal).flip(-1)  # (G, 2), rows from bottom to top
    with torch.no_grad():
        p = log_prob(grid).exp().reshape(resolution, resolution)
    ax.imshow(_array(p), origin="lower", extent=extent, vmin=0, vmax=highest, interpolation="bilinear")
    return ax


def images(
    ax: Axes,
    x: Float[Tensor, "N D"],
    shape: tuple[int, int] = (8, 8),
    columns: int = 10,
    gap: int = 1,
    *,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Rows of images, left to right and top to bottom, `gap` pixels apart; high values are dark.

    Panels to be compared share `limits`, the values drawn lightest and darkest; by default those of x.

    Raises:
        ValueError: if the shape has not as many pixels as x has columns.
    """
    height, width = shape
    if x.ndim != 2 or x.shape[1] != height * width:
        raise ValueError(
            f"images needs x of shape (N, {height * width}) for images {shape}, got {tuple(x.shape)}."
        )
    rows = -(-len(x) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, image in enumerate(_array(x).reshape(-1, height, width)):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    low, high = limits or (np.nanmin(sheet), np.nanmax(sheet))
    ax.imshow(sheet, cmap=SCAN, vmin=low, vmax=high)
    ax.set_axis_off()
    return ax


class Steps:
    """Figures that a page shows one at a time, with a slider and a button, and no server. See `steps`."""

    def __init__(self, figures: list[str], labels: list[str]):
        self.figures, self.labels = figures, labels

    def __repr__(self):
        return f"<Figures: {self.labels[0]} to {self.labels[-1]}>"

    def _repr_html_(self) -> str:
        frames = "".join(
            f'<div class="frame" data-label="{label}"{" hidden" * (i > 0)}>{figure}</div>'
            for i, (figure, label) in enumerate(zip(self.figures, self.labels, strict=True))
        )
        return (
            f'<div class="steps">{frames}<div class="controls">'
            f'<button type="button" aria-label="play" onclick="{_PLAY}">▶</button>'
            f'<input type="range" aria-label="step" min="0" max="{len(self.figures) - 1}" value="0" '
            f'oninput="{_SHOW}"><output>{self.labels[0]}</output></div></div>'
        )


_SHOW = """
const box = this.closest('.steps'), frames = [...box.querySelectorAll('.frame')];
frames.forEach((frame, i) => { frame.hidden = i != this.value });
box.querySelector('output').value = frames[this.value].dataset.label;
this.setAttribute('aria-valuetext', frames[this.value].dataset.label);
"""
_PLAY = """
const slider = this.nextElementSibling, atEnd = () => slider.value == slider.max;
const stop = () => { clearInterval(this.timer); this.timer = null; this.textContent = '▶' };
if (this.timer) return stop();
const go = value => { slider.value = value; slider.oninput() };
if (atEnd()) go(0);
this.textContent = '❚❚';
this.timer = setInterval(() => { go(+slider.value + 1); if (atEnd()) stop() }, 500);
"""


def steps(draw: Callable[[T], Figure], values: Iterable[T], name: str) -> Steps:
    """One figure for each value, drawn by `draw` and closed, to be stepped through or played on the page.

    The value of the figure shown stands beside the slider, as "name = value". Frames that are to look like
    one picture in motion share the limits of their axes.

    Raises:
        ValueError: if there are no values.
    """
    figures, labels = [], []
    for value in values:
        fig, svg = draw(value), io.StringIO()
        fig.savefig(svg, format="svg", metadata={"Date": None})
        plt.close(fig)
        figures.append(svg.getvalue()[svg.getvalue().index("<svg") :])
        labels.append(f"{name} = {value}")
    if not figures:
        raise ValueError("steps needs one value or more, got none.")
    return Steps(figures, labels)


class Table:
    """A table that a page shows, and of which text says no more than its size. See `table`."""

    def __init__(self, headings: list[str], rows: list[list[str]]):
        self.headings, self.rows = headings, rows

    def __repr__(self):
        return f"<Table: {len(self.rows)} rows, {len(self.headings)} columns>"

    def _repr_html_(self) -> str:
        def line(cells: list[str], tag: str) -> str:
            sides = ["left", *["right"] * (len(cells) - 1)]
            return "".join(
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        head = f"<thead><tr>{line(self.headings, 'th')}</tr></thead>"
        return f'<div style="overflow-x: auto"><table>{head}<tbody>{body}</tbody></table></div>'


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows below their headings, the first column to the left and all others to the right.

    Raises:
        ValueError: if a row is not as long as the headings.
    """
    lines = [[str(cell) for cell in row] for row in rows]
    for row in lines:
        if len(row) != len(headings):
            raise ValueError(f"table needs {len(headings)} cells in each row, got {row}.")
    return Table(list(headings), lines)


def _array(x) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
