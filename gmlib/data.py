"""Data sets: handwritten digits, the binary tables of the NADE papers, and toys that are drawn afresh."""

import functools
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from gmlib import files
from gmlib.base import require_count
from gmlib.nn import bernoulli, categorical, normal, uniform

_LIKE = torch.empty(0)  # the toys are float32, on the CPU

_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_STATIC = ("https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
_TABLES = ("https://raw.githubusercontent.com/arranger1044/DEBD/master/datasets/",)

# sha256 of the decoded content: of a file without its compression, of binary images as one byte a pixel.
_PINS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "binarized_mnist_train": "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    "binarized_mnist_valid": "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    "binarized_mnist_test": "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
    "mushrooms.train.data": "465c712c066bbbee3ccceded24bbe42b4c379df67b524e28cce9bf3a8b83f27b",
    "mushrooms.valid.data": "5a067e6854df71623415e6adc8e913cbff766637a324788882ba800907aa5385",
    "mushrooms.test.data": "313c5f04b5d0a18bee2f2ffa264be265d09f5362aad6f714637acd9552f81aa0",
    "plants.train.data": "1fb1219ff94068d12a563f9e81f8889a1885f41e867884cff608669300c6848f",
    "plants.valid.data": "47834ed318b2d74f48e4b083226ef47fd446d41986012ceae19d230574821b34",
    "plants.test.data": "95f53c033cd1d86467aec2610dc5bfe014534206c2da4919f73bcab246ab8755",
    "jester.train.data": "dd93578c3359d5b234bb278bf0901c5215d83b910f7d51d7c91951a0a4c244cd",
    "jester.valid.data": "91df833941e189265345898d3f63211560c2456df599f34beee8e95381ee7524",
    "jester.test.data": "346044fb561cf18f284f7e9d5896178b03048991b6ebb6f7482885fccbc16082",
}


class Split(NamedTuple):
    """Rows x (N, D) with one label y (N,) each."""

    x: Float[Tensor, "N D"]
    y: Shaped[Tensor, " N"]


class Dataset(NamedTuple):
    """Three disjoint sets of rows: to fit, to choose by, and to report on."""

    train: Split
    validation: Split
    test: Split


class Source(NamedTuple):
    """A data set with a name, and what is known of it before it is loaded.

    Its rows are whole numbers from 0 to levels - 1, but for training rows with a `transform`, which makes
    them so, anew at each step. `contents` are those of its files, if it needs any. `images` says that rows
    are square images.
    """

    load: Callable[[], Dataset]
    rows: tuple[int, int, int]
    dim: int
    origin: str
    contents: Callable[[], list[files.Content]] = list
    levels: int = 2
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None
    images: bool = False


def digits(*, binary: bool = False) -> Dataset:
    """Handwritten digits, 8 x 8 pixels: 1,000 rows to train, 350 to validate, 447 to test, always the same.

    Pixels are the grey levels 0, 1, ..., 16, or with `binary` whether they are 8 or more, as 0 and 1.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, https://archive.ics.uci.edu/dataset/80; its test set, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.int64)
    x = (x >= 8).float() if binary else x
    return Dataset(*(Split(x[a:b], y[a:b]) for a, b in [(0, 1000), (1000, 1350), (1350, 1797)]))


def mnist(*, binary: Literal["static", "dynamic"] | None = None) -> Dataset:
    """MNIST, 28 x 28 pixels: 50,000 images to train, 10,000 to validate, 10,000 to test, always the same.

    Pixels are grey levels in [0, 1], and the labels are the digits; the validation images are the last
    10,000 of the 60,000. The two binary versions are different data, and their nats do not compare:

    - "static": the fixed binary images of the NADE papers. They come without labels (y is 0) and in an
      order of their own.
    - "dynamic": the training images stay grey, to be drawn anew at each step by `fit(...,
      transform=binarize)`, which leaves 0 and 1 as they are; the others are drawn here, the same each time.

    The files are looked for in $GMLIB_DATA, then in the cache, and else downloaded (12 MB; "static" 110 MB);
    the content is checked against a pin. They are below `mnist/`, with the names of the source, and below
    `binarized_mnist/`, as `binarized_mnist_{train,valid,test}.amat`, or all three with their bits packed
    (`numpy.packbits` along the pixels) in `static_binarized_mnist_packed.npz`.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
    recognition; commonly redistributed under CC BY-SA 3.0. "static": the binary images of Larochelle and
    Murray (2011), The neural autoregressive distribution estimator, from
    http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/; drawn from MNIST, no licence stated.

    Raises:
        FileNotFoundError: if a file is nowhere; it says where it was looked for and how to get it.
        ValueError: if a file is damaged, or `binary` is something else.
    """
    if binary not in (None, "static", "dynamic"):
        raise ValueError(f"mnist needs binary None, 'static' or 'dynamic', got {binary!r}.")
    if binary == "static":
        return Dataset(*(_unlabelled(_static(part).reshape(-1, 784)) for part in ("train", "valid", "test")))
    (x, y), (test_x, test_y) = _grey("train"), _grey("t10k")
    train, validation = Split(x[:-10_000], y[:-10_000]), Split(x[-10_000:], y[-10_000:])
    test = Split(test_x, test_y)
    if binary == "dynamic":
        rng = torch.Generator().manual_seed(0)
        validation, test = (split._replace(x=binarize(split.x, rng)) for split in (validation, test))
    return Dataset(train, validation, test)


def binary_table(name: str) -> Dataset:
    """A table of 0 and 1 on which densities are compared, in its usual three parts. It has no labels: y is 0.

    | name | columns | rows to train, validate, test | what a row is |
    |---|---|---|---|
    | mushrooms | 112 | 2,000, 500, 5,624 | a mushroom's traits |
    | plants | 69 | 17,412, 2,321, 3,482 | the states in which a North American plant grows |
    | jester | 100 | 9,000, 1,000, 4,116 | which of 100 jokes a reader liked |

    The files are looked for in $GMLIB_DATA, then in the cache, and else downloaded (up to 3 MB a table); the
    content is checked against a pin. They are `debd/NAME/NAME.{train,valid,test}.data`.
    `read_binary_table` reads other tables.

    Source: https://github.com/arranger1044/DEBD, with the splits of Larochelle and Murray (2011), The neural
    autoregressive distribution estimator (mushrooms), and of Lowd and Davis (2010), Learning Markov network
    structure with decision trees (the others).
    Mushrooms and plants are of the UCI Machine Learning Repository, https://archive.ics.uci.edu/dataset/73
    and https://archive.ics.uci.edu/dataset/180, under CC BY 4.0; jester is of Goldberg et al. (2001),
    Eigentaste, https://eigentaste.berkeley.edu/dataset/, for research.

    Raises:
        FileNotFoundError: if a file is nowhere; it says where it was looked for and how to get it.
        ValueError: if a file is damaged, or no table has this name.
    """
    known = sorted({pin.partition(".")[0] for pin in _PINS if pin.endswith(".data")})
    if name not in known:
        raise ValueError(
            f"binary_table needs a name among {', '.join(known)}, got {name!r}; "
            "read_binary_table(folder, name) reads other tables."
        )
    parts = [_table(files.read(content), Path(content.files[0].path).name) for content in _of_table(name)]
    return Dataset(*map(_unlabelled, parts))


def read_binary_table(folder: str | Path, name: str) -> Dataset:
    """Any binary table, from the files `NAME.{train,valid,test}.data` in a folder. It has no labels: y is 0.

    A line is a row of 0 and 1 with commas between them. Nothing is known of the content, so none is pinned.

    Raises:
        FileNotFoundError: if one of the three files is missing.
        ValueError: if a file has another form, or the three differ in their number of columns.
    """
    paths = [Path(folder) / f"{name}.{part}.data" for part in ("train", "valid", "test")]
    parts = [_table(path.read_bytes(), str(path)) for path in paths]
    columns = [part.shape[1] for part in parts]
    if len(set(columns)) > 1:
        raise ValueError(f"{name} needs as many columns to train, validate and test, got {columns}.")
    return Dataset(*map(_unlabelled, parts))


def binarize(x: Float[Tensor, "N D"], rng: torch.Generator | None) -> Float[Tensor, "N D"]:
    """Draws 0 or 1 with mean x: a binary image anew from each grey one.

    Raises:
        ValueError: if an element of x is not in [0, 1].
    """
    return bernoulli(x, rng)


def two_moons(n: int, *, rng: torch.Generator | None, noise: float = 0.1) -> Float[Tensor, "n 2"]:
    """Two half circles of radius 1 that interlock, with Gaussian noise. Scikit-learn's `make_moons`."""
    from sklearn.datasets import make_moons

    require_count(n, "two_moons")
    return _float32(make_moons(n, noise=noise, random_state=_seed(rng))[0])


def rings(n: int, *, rng: torch.Generator | None, noise: float = 0.05) -> Float[Tensor, "n 2"]:
    """Circles of radius 1/2 and 1 about the origin, with Gaussian noise. Scikit-learn's `make_circles`."""
    from sklearn.datasets import make_circles

    require_count(n, "rings")
    return _float32(make_circles(n, factor=0.5, noise=noise, random_state=_seed(rng))[0])


def ring_of_gaussians(
    n: int, *, rng: torch.Generator | None, modes: int = 8, radius: float = 2.0, sigma: float = 0.2
) -> Float[Tensor, "n 2"]:
    r"""Gaussians with equal weights, their means evenly spaced on a circle.

    .. math:: p(x) = \frac1K \sum_{k=0}^{K-1} \mathcal N(x; r (\cos a_k, \sin a_k), \sigma^2 I),
        \quad a_k = 2 \pi k / K

    Raises:
        ValueError: if n or modes is below 1.
    """
    require_count(n, "ring_of_gaussians")
    if modes < 1:
        raise ValueError(f"ring_of_gaussians needs modes >= 1, got {modes}.")
    angle = 2 * math.pi * _pick(n, modes, rng) / modes
    return _polar(angle, radius) + sigma * normal((n, 2), rng, _LIKE)


def checkerboard(n: int, *, rng: torch.Generator | None) -> Float[Tensor, "n 2"]:
    """Uniform on the dark squares of a 4 x 4 checkerboard that covers [-2, 2] x [-2, 2]."""
    require_count(n, "checkerboard")
    column, pair = _pick(n, 4, rng), _pick(n, 2, rng)
    corner = torch.stack([column, 2 * pair + column % 2], -1)  # (n, 2)
    return corner - 2 + uniform((n, 2), rng, _LIKE)


def spirals(n: int, *, rng: torch.Generator | None, noise: float = 0.05) -> Float[Tensor, "n 2"]:
    """Two spiral arms of one and a half turns, evenly filled along their length, with Gaussian noise."""
    require_count(n, "spirals")
    turn = 3 * math.pi * uniform((n,), rng, _LIKE).sqrt()
    arm = math.pi * _pick(n, 2, rng)
    return _polar(turn + arm, 2 * turn / (3 * math.pi)) + noise * normal((n, 2), rng, _LIKE)


def pinwheel(n: int, *, rng: torch.Generator | None, blades: int = 5) -> Float[Tensor, "n 2"]:
    """Gaussian blobs, long along a radius, that are bent the more the farther out they lie.

    Source: Johnson et al. (2016), Composing graphical models with neural networks for structured
    representations and fast inference, https://arxiv.org/abs/1603.06277.
    Departs from it: wound by 1 radian for each unit of radius.

    Raises:
        ValueError: if n or blades is below 1.
    """
    require_count(n, "pinwheel")
    if blades < 1:
        raise ValueError(f"pinwheel needs blades >= 1, got {blades}.")
    along, across = (torch.tensor([0.3, 0.1]) * normal((n, 2), rng, _LIKE)).T
    angle = 2 * math.pi * _pick(n, blades, rng) / blades + torch.atan2(across, 1 + along)
    radius = torch.hypot(1 + along, across)
    return _polar(angle + radius, radius)


def _of_grey(part: str) -> list[files.Content]:
    """The files of MNIST's images and labels, of the part that their names begin with."""
    contents = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        packings = (files.File(f"mnist/{name}.gz", files.gunzip), files.File(f"mnist/{name}"))
        contents.append(files.Content(_PINS[name], packings, _MNIST))
    return contents


def _of_static(part: str) -> list[files.Content]:
    name = f"binarized_mnist_{part}"
    text = files.File(f"binarized_mnist/{name}.amat", _digits_of_text)
    packed = files.File(
        "binarized_mnist/static_binarized_mnist_packed.npz", functools.partial(_unpacked, part=part)
    )
    return [files.Content(_PINS[name], (text, packed), _STATIC)]


def _of_table(name: str) -> list[files.Content]:
    """The files of a binary table, in the order train, validate, test."""
    addresses = tuple(f"{address}{name}/" for address in _TABLES)
    names = [f"{name}.{part}.data" for part in ("train", "valid", "test")]
    return [files.Content(_PINS[n], (files.File(f"debd/{name}/{n}"),), addresses) for n in names]


def _grey(part: str) -> Split:
    """MNIST's images and labels, of the part that its file names begin with."""
    contents = zip(_of_grey(part), (16, 8), strict=True)  # the lengths of the headers
    pixels, labels = (
        torch.from_numpy(np.frombuffer(files.read(content), np.uint8, offset=header).copy())
        for content, header in contents
    )
    return Split(pixels.reshape(len(labels), -1).float() / 255, labels.long())


def _static(part: str) -> Shaped[Tensor, " n"]:
    """The pixels of one part of the static binary MNIST, one image after the other."""
    (content,) = _of_static(part)
    data = files.read(content)
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _digits_of_text(data: bytes) -> bytes:
    """One byte, 0 or 1, for each digit of a text that has spaces between them."""
    characters = np.frombuffer(data, np.uint8)
    return (characters[characters > ord(" ")] - ord("0")).tobytes()


def _unpacked(data: bytes, part: str) -> bytes:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return np.unpackbits(archive[part], axis=1).tobytes()


def _table(data: bytes, name: str) -> Shaped[Tensor, "N D"]:
    """The 0s and 1s of a text, one byte each."""
    rows = data.decode("ascii", "replace").split("\n")
    rows = [row.rstrip("\r") for row in (rows[:-1] if rows[-1] == "" else rows)]
    for number, row in enumerate(rows or [""], 1):
        if not re.fullmatch("[01](,[01])*", row) or len(row) != len(rows[0]):
            raise ValueError(
                f"{name} needs lines of 0 and 1 with commas between them, all of one length, "
                f"got {row[:40]!r} as line {number}."
            )
    characters = np.frombuffer("".join(f"{row}\n" for row in rows).encode(), np.uint8)
    return torch.from_numpy(characters.reshape(len(rows), -1)[:, ::2] - ord("0"))


def _unlabelled(x: Shaped[Tensor, "N D"]) -> Split:
    return Split(x.float(), torch.zeros(len(x), dtype=torch.int64))


def _pick(n: int, choices: int, rng: torch.Generator | None) -> Float[Tensor, " n"]:
    """Uniform choices among 0, 1, ..., as floats to calculate with."""
    return categorical(torch.zeros(n, choices), rng).float()


def _polar(angle: Float[Tensor, " n"], radius: float | Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def _seed(rng: torch.Generator | None) -> int:
    """A seed for numpy's generators, drawn from torch's."""
    return int(2**31 * uniform((), rng, torch.empty((), dtype=torch.float64)))


def _float32(x) -> Float[Tensor, "n 2"]:
    return torch.tensor(x, dtype=torch.float32)


def _source_of_table(name: str, rows: tuple[int, int, int], dim: int) -> Source:
    """A binary table by its name, of the collection for density estimation."""
    return Source(lambda: binary_table(name), rows, dim, "debd, binary tables", lambda: _of_table(name))


SOURCES = {
    "digits": Source(
        lambda: digits(binary=True),
        (1_000, 350, 447),
        64,
        "UCI, by scikit-learn: 8 x 8, made binary",
        images=True,
    ),
    "digits-grey": Source(
        digits, (1_000, 350, 447), 64, "UCI, by scikit-learn: 8 x 8", levels=17, images=True
    ),
    "mnist": Source(
        lambda: mnist(binary="static"),
        (50_000, 10_000, 10_000),
        784,
        "MNIST, made binary once (Larochelle and Murray, 2011)",
        lambda: [content for part in ("train", "valid", "test") for content in _of_static(part)],
        images=True,
    ),
    "mnist-dynamic": Source(
        lambda: mnist(binary="dynamic"),
        (50_000, 10_000, 10_000),
        784,
        "MNIST, made binary anew at each step",
        lambda: [content for part in ("train", "t10k") for content in _of_grey(part)],
        transform=binarize,
        images=True,
    ),
    "mushrooms": _source_of_table("mushrooms", (2_000, 500, 5_624), 112),
    "plants": _source_of_table("plants", (17_412, 2_321, 3_482), 69),
    "jester": _source_of_table("jester", (9_000, 1_000, 4_116), 100),
}
