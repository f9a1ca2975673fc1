"""What chapters 9 and 11 draw of the 8 x 8 digits, from three seeds, judged by the measures of chapter 11.

    python book/results/draw_digits.py --out book/results/11-digits.json

Plays the code of both chapters as it stands there, with other seeds in their set-up cells, and stores a row
for each generator and seed: the share of 1,000 images that a classifier reads as the digit asked for, the
energy distance to the test images, and the Fréchet distance to them in the features of chapter 9. Two rows
are for no generator: the test images themselves, and the floor, which is the distance between training and
test images. About two minutes a seed.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import torch

from gmlib import check, scoreboard

BOOK = Path(__file__).parent.parent
GAN, DIFFUSION = "09-generative-adversarial-networks", "11-samplers-and-guidance"


def told(label: str, value: float, target: float, at_least: bool = False) -> None:
    """In the place of `check.reached`: what a page says of one training need not hold from another seed."""
    if value < target if at_least else value > target:
        print(f"{label}: {value:g}, not {'at least' if at_least else 'at most'} {target}", file=sys.stderr)


def play(chapter: str, seed: int) -> dict:
    """The names of a chapter after its last cell, its set-up cell having sown this seed."""
    names = {"__name__": "__main__"}
    for cell in jupytext.read(BOOK / f"{chapter}.md").cells:
        if cell.cell_type == "code":
            source = cell.source
            if "\nrng = torch.Generator()" in source:
                source = re.sub(r"manual_seed\(\d+\)", f"manual_seed({seed})", source)
            exec(source, names)
            plt.close("all")
    return names


def rows(seed: int) -> list[dict]:
    """What each generator of the two chapters is worth, after training from this seed."""
    about, start = scoreboard.origin(), time.perf_counter()
    nine, eleven = play(GAN, seed), play(DIFFUSION, seed)
    asked, rng = eleven["asked"], torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = {
            "GAN": (nine["free"].sample(1000, rng=rng), None),
            "conditional GAN": (nine["asked"].sample(1000, asked, rng=rng), asked),
            "20 Gaussians": (nine["twenty"].sample(1000, rng=rng).float(), None),
            "diffusion": (eleven["images"]["$w$ = 0.0"], asked),
            "diffusion, guidance 0.4": (eleven["images"]["$w$ = 0.4"], asked),
            "a Gaussian for each digit": (eleven["images"]["a Gaussian each"], asked),
            "test images": (eleven["test_x"], eleven["grey"].test.y),
            "training images": (eleven["train_x"], eleven["grey"].train.y),
        }
    found = []
    for generator, (x, y) in drawn.items():
        as_asked, apart, nearest = eleven["measures"](x, asked if y is None else y)
        row = {"model": generator, "data": "digits", "seed": seed, "kind": "samples"}
        if y is not None and generator != "training images":  # the classifier has learned those
            row["as_asked"] = round(as_asked, 4)
        if generator != "test images":
            row["energy_distance"] = round(apart, 4)
            features = (nine["hidden"](images[:447]) for images in (x, nine["test_x"]))
            row["frechet_features"] = round(nine["frechet"](*features).item(), 3)
        if generator != "training images":
            row["nearest"] = round(nearest, 3)
        found.append(row)
    common = {"wall_seconds": round(time.perf_counter() - start, 1), **about}
    return [row | common for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, help="a JSON file to keep the rows in")
    options = parser.parse_args()
    out = options.out and options.out.resolve()  # the chapters want to run in their own folder
    torch.set_num_threads(1)
    plt.switch_backend("agg")
    check.reached = told
    os.chdir(BOOK)
    for seed in options.seeds:
        for row in rows(seed):
            print(json.dumps(row), flush=True)
            if out:
                scoreboard.store(row, out)


if __name__ == "__main__":
    main()
