"""The stored results of adaptation between the two data sets of digits."""

import importlib.util
import json
import os

import pytest
import torch
from building import ROOT

SPEC = importlib.util.spec_from_file_location("adapt_digits", ROOT / "book/results/adapt_digits.py")
adapt = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(adapt)

STORED = json.loads((ROOT / "book/results/12-domains.json").read_text())
KEYS = [(row["data"], row["model"], row["seed"]) for row in STORED]
AGAIN = [row for row in STORED if row["data"] == "cropped MNIST to digits" and row["seed"] == 0]


def averaged(image, margin):
    """Means over the areas of 8 x 8 pixels, each the overlap with every pixel of the image."""
    side, small = (28 - 2 * margin) / 8, torch.zeros(8, 8)
    for i in range(28 - 2 * margin):
        for j in range(28 - 2 * margin):
            for a in range(8):
                for b in range(8):
                    rows = min(i + 1, (a + 1) * side) - max(i, a * side)
                    columns = min(j + 1, (b + 1) * side) - max(j, b * side)
                    if rows > 0 and columns > 0:
                        small[a, b] += rows * columns * image[margin + i, margin + j] / side**2
    return small


@pytest.mark.parametrize("margin", [0, 4])
def test_images_shrink_to_means_over_areas(margin):
    image = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    small = adapt.shrunk(image.view(1, -1), margin)
    torch.testing.assert_close(small.view(8, 8), averaged(image, margin))


def test_the_digits_are_those_of_the_chapter():
    digits = adapt.domain("digits")
    assert digits.x.shape == (adapt.IMAGES, 64)
    assert (len(digits.y), len(digits.test_x), len(digits.test_y)) == (adapt.IMAGES, 447, 447)
    assert (digits.x.min(), digits.x.max()) == (0, 1)


def test_each_method_is_stored_once_for_each_pair_and_seed():
    pairs = [f"{source} to {target}" for source, target in adapt.PAIRS]
    assert sorted(KEYS) == sorted((d, m, s) for d in pairs for m in adapt.METHODS for s in range(3))


@pytest.mark.parametrize("row", STORED, ids=lambda row: f"{row['model']}, {row['data']}, {row['seed']}")
def test_a_stored_row_says_what_it_is(row):
    assert row["kind"] == "share of wrong labels"
    assert 0 < row["test"] < 1
    assert 0 < row["source_test"] < 1
    assert row["test_rows"] == (447 if row["data"].endswith("to digits") else 10_000)
    assert (row["effective_share"] < 1) == (row["model"] == "weights")
    assert {"python", "torch"} <= set(row["versions"])
    assert row["configuration"]
    assert row["hardware"]
    assert row["commit"]
    assert row["wall_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("row", AGAIN, ids=lambda row: row["model"])
def test_a_stored_row_comes_out_again(row):
    if "GMLIB_DATA" not in os.environ:
        pytest.skip("the files of MNIST: GMLIB_DATA is not set")
    again = adapt.run(row["model"], "cropped MNIST", "digits", 0)
    for name in ("test", "source_test", "effective_share"):  # another processor rounds otherwise
        assert again[name] == pytest.approx(row[name], abs=0.04)
    assert again["configuration"] == row["configuration"]
