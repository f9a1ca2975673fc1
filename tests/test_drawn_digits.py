"""The stored scores of what chapters 9 and 11 draw of the digits."""

import importlib.util
import json

import pytest
from building import ROOT

from gmlib.data import digits
from gmlib.divergences import energy_distance

SPEC = importlib.util.spec_from_file_location("draw_digits", ROOT / "book/results/draw_digits.py")
draw = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(draw)

STORED = json.loads((ROOT / "book/results/11-digits.json").read_text())
OF = {(row["model"], row["seed"]): row for row in STORED}
SEEDS = (1, 2, 3)
ASKED = ("conditional GAN", "diffusion", "diffusion, guidance 0.4", "a Gaussian for each digit")


def test_each_generator_is_stored_once_for_each_seed():
    others = ("GAN", "20 Gaussians", "training images", "test images")
    assert sorted((row["model"], row["seed"]) for row in STORED) == sorted(
        (model, seed) for model in (*ASKED, *others) for seed in SEEDS
    )


def test_the_floor_comes_out_again():
    train, _, test = (split.x.double() / 8 - 1 for split in digits())
    for seed in SEEDS:
        found = OF["training images", seed]["energy_distance"]
        assert found == pytest.approx(energy_distance(train, test).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("model", "as_asked", "apart"), [("conditional GAN", 0.92, 1.0), ("diffusion, guidance 0.4", 0.98, 0.1)]
)
def test_digits_are_those_asked_for_and_near_the_test_images(model, as_asked, apart):
    for seed in SEEDS:
        assert as_asked <= OF[model, seed]["as_asked"] <= 1
        assert 0 < OF[model, seed]["energy_distance"] <= apart


def test_a_row_says_where_it_came_from():
    for row in STORED:
        assert {"python", "torch"} <= set(row["versions"])
        assert row["hardware"]
        assert row["commit"]


def test_a_chapter_is_played_with_another_seed(tmp_path, monkeypatch):
    cells = "```{code-cell} python3\nimport torch\n\nrng = torch.Generator().manual_seed(9)\n```\n"
    more = "```{code-cell} python3\nother = torch.Generator().manual_seed(1)\n```\n"
    head, _, _ = (draw.BOOK / f"{draw.GAN}.md").read_text().partition("# ")
    (tmp_path / "a.md").write_text(head + cells + "\n" + more)
    monkeypatch.setattr(draw, "BOOK", tmp_path)
    names = draw.play("a", 7)
    assert names["rng"].initial_seed() == 7
    assert names["other"].initial_seed() == 1


def test_an_outcome_that_another_seed_misses_is_told(capsys):
    draw.told("fig-a", 0.5, 1.0)
    draw.told("fig-b", 0.5, 1.0, at_least=True)
    assert capsys.readouterr().err == "fig-b: 0.5, not at least 1.0\n"
