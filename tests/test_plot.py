"""Figures are of one style: colours to be told apart on any page, and SVG of the same bytes each time."""

import io
import itertools
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gmlib import plot

PAGES = ("#ffffff", "#14181e")

# Linear RGB as seen with red-blind and green-blind vision: Machado, Oliveira and Fernandes (2009).
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        plot.style()
        yield
    plt.close("all")


def linear(color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The ratio of WCAG 2.2."""
    low, high = sorted(0.05 + float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return high / low


def lab(color, vision):
    xyz = TO_XYZ @ np.clip(VISION[vision] @ linear(color), 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def svg(fig):
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("color", [*plot.PALETTE, plot.MODEL, plot.DATA])
def test_colours_of_data_stand_out_on_any_page(color, page):
    assert contrast(color, page) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision):
    colors = [*plot.PALETTE, plot.DATA]
    differences = [
        np.linalg.norm(lab(a, vision) - lab(b, vision)) for a, b in itertools.combinations(colors, 2)
    ]
    assert min(differences) > 20  # 2.3 is just noticeable


def test_ink_is_readable_on_paper():
    assert contrast(plot.INK, plot.PAPER) >= 7


def full_figure():
    fig, (left, middle, right) = plot.figure(7.0, 2.5, columns=3)
    plot.label(plot.curve(left, [3.0, 2.0, 1.0], label="loss"), x="step", y="loss (nats)")
    plot.curve(left, torch.ones(3), torch.arange(3.0), dashed=True, color=plot.DATA)
    plot.points(middle, torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), label="data")
    plot.density(right, lambda x: -x.square().sum(-1), (-2.0, 2.0, -1.0, 1.0), resolution=20)
    return fig


def test_every_colour_in_a_figure_is_one_of_ours():
    used = {color.lower() for color in re.findall(r"#[0-9a-fA-F]{6}\b", svg(full_figure()))}
    assert used == {plot.INK, plot.PAPER, plot.MODEL, plot.DATA}


def test_text_is_drawn_as_paths():
    assert "<text" not in svg(full_figure())


def test_same_figure_same_bytes():
    assert svg(full_figure()) == svg(full_figure())


def test_a_figure_fits_the_text_column():
    fig, _ = plot.figure()
    assert fig.get_size_inches()[0] * 72 * 4 / 3 <= 700  # an SVG's point is 4/3 of a page's pixel


def test_spines_only_where_the_axes_are():
    _, ax = plot.figure()
    assert [side for side, spine in ax.spines.items() if spine.get_visible()] == ["left", "bottom"]


def test_figure_has_rows_and_columns():
    _, axes = plot.figure(columns=3, rows=2, sharex=True)
    assert axes.shape == (2, 3)
    assert axes[0, 0].get_shared_x_axes().joined(axes[0, 0], axes[1, 2])


def test_functions_return_their_axes():
    _, ax = plot.figure()
    assert plot.curve(ax, [1.0, 2.0]) is ax
    assert plot.points(ax, torch.zeros(3, 2)) is ax
    assert plot.density(ax, lambda x: x[:, 0], (0.0, 1.0, 0.0, 1.0), resolution=2) is ax
    assert plot.images(ax, torch.zeros(3, 64)) is ax
    assert plot.label(ax, x="x") is ax


def test_curve_counts_from_one():
    _, ax = plot.figure()
    plot.curve(ax, torch.tensor([5.0, 6.0], requires_grad=True))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 5], [2, 6]])
    assert ax.get_legend() is None


def test_label_names_one_axis_or_both():
    _, ax = plot.figure()
    plot.label(plot.label(ax, x="step"), y="nats")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats")


def test_points_are_to_scale_and_many_are_an_image():
    _, (few, many) = plot.figure(columns=2)
    plot.points(few, torch.zeros(plot.MANY, 2))
    plot.points(many, torch.zeros(plot.MANY + 1, 2))
    assert few.get_aspect() == 1
    assert [ax.collections[0].get_rasterized() for ax in (few, many)] == [False, True]


def test_density_puts_each_point_in_its_place():
    _, ax = plot.figure()
    at = torch.tensor([1.5, -0.5])
    plot.density(ax, lambda x: -(x - at).square().sum(-1), (-2.0, 2.0, -1.0, 1.0), resolution=81, highest=2.0)
    (image,) = ax.images
    p, (left, right, bottom, top) = image.get_array(), image.get_extent()
    row, column = np.unravel_index(p.argmax(), p.shape)
    assert left + (right - left) * column / 80 == pytest.approx(1.5)
    assert bottom + (top - bottom) * row / 80 == pytest.approx(-0.5)  # rows go up: origin "lower"
    assert image.origin == "lower"
    assert p.max() == pytest.approx(1)
    assert image.get_clim() == (0, 2)


def test_images_are_laid_out_in_reading_order():
    _, ax = plot.figure()
    x = torch.arange(3.0).repeat_interleave(6).reshape(3, 6)
    x[0, 0] = -1
    plot.images(ax, x, shape=(2, 3), columns=2, gap=1)
    (image,) = ax.images
    gap = np.nan
    np.testing.assert_array_equal(
        image.get_array().filled(np.nan),
        [
            [-1, 0, 0, gap, 1, 1, 1],
            [0, 0, 0, gap, 1, 1, 1],
            [gap] * 7,
            [2, 2, 2, gap, gap, gap, gap],
            [2, 2, 2, gap, gap, gap, gap],
        ],
    )
    assert image.get_clim() == (-1, 2)
    assert not ax.axison


def test_images_show_gaps_as_the_page_and_high_values_dark():
    assert plot.SCAN(np.ma.masked_invalid([np.nan]))[0, 3] == 0
    light, dark = ("#" + "".join(f"{round(255 * c):02x}" for c in plot.SCAN(v)[:3]) for v in (0.0, 1.0))
    assert contrast(light, "#ffffff") < 1.3
    assert contrast(light, dark) > 10


def test_images_share_limits_when_asked():
    _, ax = plot.figure()
    plot.images(ax, torch.zeros(1, 64), limits=(0.0, 16.0))
    assert ax.images[0].get_clim() == (0, 16)


def test_importing_changes_no_setting():
    code = (
        "import matplotlib; before = dict(matplotlib.rcParams); import gmlib.plot; "
        "assert dict(matplotlib.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_notebook_shows_svg_of_stable_bytes():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell\n"
        "shell = Shell.instance()\n"
        "import matplotlib; matplotlib.use('module://matplotlib_inline.backend_inline')\n"
        "from gmlib import plot; plot.style()\n"
        "from matplotlib.figure import Figure\n"
        "fig, ax = plot.figure()\n"
        "formatter = shell.display_formatter.formatters['image/svg+xml']\n"
        "first = formatter(fig)\n"
        "assert '<svg' in first and 'dc:date' not in first and formatter(fig) == first\n"
        "assert formatter.for_type(Figure) and not shell.display_formatter.formatters['image/png'](fig)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _disc(radius):
    fig, ax = plot.figure(1, 1)
    ax.add_patch(plt.Circle((0, 0), radius))
    return fig


def test_steps_hold_one_figure_for_each_value_and_show_the_first():
    before = plt.get_fignums()
    shown = plot.steps(_disc, [0.1, 0.2, 0.4], "radius")
    html = shown._repr_html_()
    frame = r'<div class="frame" data-label="(.*?)"( hidden)?><svg.*?</svg>\s*</div>'
    frames = re.findall(frame, html, re.DOTALL)
    assert frames == [("radius = 0.1", ""), ("radius = 0.2", " hidden"), ("radius = 0.4", " hidden")]
    assert len(set(shown.figures)) == 3, "each its own drawing"
    assert shown.figures == plot.steps(_disc, [0.1, 0.2, 0.4], "radius").figures
    assert re.search(r'max="2" value="0".*<output>radius = 0.1</output>', html, re.DOTALL)
    assert repr(shown) == "<Figures: radius = 0.1 to radius = 0.4>"
    assert plt.get_fignums() == before, "a figure left open would be shown once more"


def test_steps_ask_the_network_for_nothing():
    html = plot.steps(_disc, [1], "radius")._repr_html_()
    links = set(re.findall(r'(?:src|href)="([^#"]*)', html))
    assert not {link for link in links - {""} if not link.startswith("data:")}
    assert "<script" not in html, "a page may be shown where scripts of outputs are not run"


def test_no_steps():
    with pytest.raises(ValueError, match=r"one value or more, got none"):
        plot.steps(_disc, [], "radius")


def test_a_table_shows_its_rows_and_says_its_size():
    shown = plot.table(["model", "nats"], [["A < B", 86.5], ("C", "—")])
    assert repr(shown) == "<Table: 2 rows, 2 columns>"
    html = shown._repr_html_()
    assert re.findall(r"<t[hd] [^>]*>(.*?)</t", html) == ["model", "nats", "A &lt; B", "86.5", "C", "—"]
    assert html.count("<tr>") == 3


def test_a_row_of_another_length():
    with pytest.raises(ValueError, match=r"table needs 2 cells in each row, got \['A'\]"):
        plot.table(["model", "nats"], [["A"]])
