"""Data sets as users may ask for them, shapes not enforced: each call says what it needs and what it got."""

import pytest

from gmlib import data


@pytest.mark.parametrize("binary", [True, False, "grey", "Static", ""])
def test_versions_of_mnist(binary):
    with pytest.raises(ValueError, match=f"mnist needs binary None, 'static' or 'dynamic', got {binary!r}"):
        data.mnist(binary=binary)


@pytest.mark.parametrize("name", ["weeds", "Plants", "", "plants.train", "train-images-idx3-ubyte"])
def test_names_of_tables(name):
    with pytest.raises(ValueError, match=f"among jester, mushrooms, plants, got '{name}'"):
        data.binary_table(name)


@pytest.mark.parametrize("row", ["0,2", "0;1", "0.0,1.0", ",0,1", "yes,no", "0,1,1"])
def test_rows_of_tables(tmp_path, row):
    for part in ("train", "valid", "test"):
        (tmp_path / f"weeds.{part}.data").write_text(f"0,1\n{row}\n")
    with pytest.raises(ValueError, match=r"weeds\.train\.data needs lines of 0 and 1.*as line 2"):
        data.read_binary_table(tmp_path, "weeds")
