"""MNIST and the binary tables: found, downloaded and checked. A server on loopback has made-up files."""

import gzip
import hashlib
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from disk import full_disk

from gmlib import data, files

PARTS = ("train", "valid", "test")
TRUE_PINS = dict(data._PINS)
real = pytest.mark.skipif("GMLIB_DATA" not in os.environ, reason="the real data files: GMLIB_DATA is not set")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was asked for; a file in `cut` breaks off in its middle."""

    asked, cut = (), ()

    def do_GET(self):
        type(self).asked = (*self.asked, self.path)
        name = Path(self.path).name
        if name not in self.cut:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args):
        pass


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class World:
    """Small files of the right form in place of the real ones: on a server, and as arrays to compare with."""

    def __init__(self, server: Path, local: Path, cache: Path):
        rng = np.random.default_rng(0)
        self.server, self.local, self.cache, self.pins = server, local, cache, {}
        for name, n in [("train", 10_003), ("t10k", 3)]:
            images = rng.integers(0, 256, (n, 4), dtype=np.uint8)
            labels = rng.integers(0, 10, n, dtype=np.uint8)
            self._idx(f"{name}-images-idx3-ubyte", images, (2051, n, 2, 2))
            self._idx(f"{name}-labels-idx1-ubyte", labels, (2049, n))
            setattr(self, name, (images, labels))
        self.static = {part: rng.integers(0, 2, (4, 784), dtype=np.uint8) for part in PARTS}
        for part, x in self.static.items():
            text = "".join(" ".join(map(str, row)) + "\n" for row in x)
            self._serve(f"binarized_mnist/binarized_mnist_{part}.amat", text.encode(), x.tobytes())
        self.table = {part: rng.integers(0, 2, (n, 5)) for part, n in zip(PARTS, (6, 2, 3), strict=True)}
        for part, x in self.table.items():
            text = "".join(",".join(map(str, row)) + "\n" for row in x).encode()
            self._serve(f"debd/plants/plants.{part}.data", text, text, pin=f"plants.{part}.data")

    def _idx(self, name, array, header):
        content = np.array(header, ">i4").tobytes() + array.tobytes()
        self._serve(f"mnist/{name}.gz", gzip.compress(content), content, pin=name)

    def _serve(self, path, packed, content, pin=None):
        (self.server / path).parent.mkdir(parents=True, exist_ok=True)
        (self.server / path).write_bytes(packed)
        self.pins[pin or Path(path).stem] = sha256(content)

    def copy(self, path, folder):
        """Puts a served file into another folder, and gives its new path."""
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((self.server / path).read_bytes())
        return target

    def cached(self):
        """Every file and folder in the cache that is not one of its three folders."""
        found = [p.relative_to(self.cache).as_posix() for p in self.cache.rglob("*")]
        return sorted(set(found) - {"mnist", "binarized_mnist", "debd", "debd/plants"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture
def world(folder, tmp_path, monkeypatch):
    """The made-up world, with pins and addresses to match, an empty cache, and no $GMLIB_DATA."""
    world = World(folder, tmp_path / "local", tmp_path / "cache")
    world.local.mkdir()
    handler = type("Recorder", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    world.handler, world.address = handler, f"http://127.0.0.1:{server.server_address[1]}/"
    monkeypatch.delenv("GMLIB_DATA", raising=False)
    monkeypatch.setattr(files, "cache", lambda: world.cache)
    monkeypatch.setattr(data, "_PINS", world.pins)
    for name, path in [("_MNIST", "mnist/"), ("_STATIC", "binarized_mnist/"), ("_TABLES", "debd/")]:
        monkeypatch.setattr(data, name, (world.address + path,))
    yield world
    server.shutdown()
    server.server_close()


def same(split, x, y=None):
    assert split.x.dtype == torch.float32
    assert split.y.dtype == torch.int64
    assert torch.equal(split.x, torch.as_tensor(np.asarray(x), dtype=torch.float32))
    assert torch.equal(
        split.y, torch.zeros(len(x), dtype=torch.int64) if y is None else torch.tensor(y).long()
    )


def same_table(dataset, world):
    for split, part in zip(dataset, PARTS, strict=True):
        same(split, world.table[part])


class TestMnist:
    def test_grey_levels_and_labels_with_the_last_10_000_to_validate(self, world):
        (x, y), train = world.train, data.mnist().train
        same(train, x[:3] / np.float32(255), y[:3])
        same(data.mnist().validation, x[3:] / np.float32(255), y[3:])
        same(data.mnist().test, world.t10k[0] / np.float32(255), world.t10k[1])

    def test_dynamic_draws_all_but_the_training_images_once(self, world):
        grey, drawn = data.mnist(), data.mnist(binary="dynamic")
        assert torch.equal(drawn.train.x, grey.train.x)
        for part in ("validation", "test"):
            x, p = getattr(drawn, part).x, getattr(grey, part).x
            assert set(x.unique().tolist()) == {0.0, 1.0}
            assert torch.equal(getattr(drawn, part).y, getattr(grey, part).y)
            spread = (p * (1 - p)).sum().sqrt()
            assert (x - p).sum().abs() < 4 * spread
            assert ((x - p) * (p - 0.5)).sum().abs() < 4 * 0.5 * spread
        assert torch.equal(drawn.test.x, data.mnist(binary="dynamic").test.x)

    def test_dynamic_binarisation_in_training_leaves_the_validation_images(self, world):
        drawn = data.mnist(binary="dynamic").validation.x
        assert torch.equal(data.binarize(drawn, torch.Generator().manual_seed(1)), drawn)

    def test_static_from_text(self, world):
        for split, part in zip(data.mnist(binary="static"), PARTS, strict=True):
            same(split, world.static[part])
        assert len(world.handler.asked) == 3

    def test_static_from_packed_bits(self, world, monkeypatch):
        target = world.local / "binarized_mnist" / "static_binarized_mnist_packed.npz"
        target.parent.mkdir()
        np.savez(target, **{part: np.packbits(x, axis=1) for part, x in world.static.items()})
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        for split, part in zip(data.mnist(binary="static"), PARTS, strict=True):
            same(split, world.static[part])
        assert world.handler.asked == ()

    def test_packed_bits_hold_no_pickle(self, world, monkeypatch):
        target = world.local / "binarized_mnist" / "static_binarized_mnist_packed.npz"
        target.parent.mkdir()
        np.savez(target, train=np.array([Path("a path")], dtype=object))
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        with pytest.raises(ValueError, match=r"packed.npz is damaged \(.*allow_pickle"):
            data.mnist(binary="static")

    def test_without_compression(self, world, monkeypatch):
        for path in sorted(world.server.glob("mnist/*.gz")):
            target = world.copy(f"mnist/{path.name}", world.local)
            target.with_suffix("").write_bytes(gzip.decompress(target.read_bytes()))
            target.unlink()
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        same(data.mnist().test, world.t10k[0] / np.float32(255), world.t10k[1])
        assert world.handler.asked == ()

    @pytest.mark.parametrize("binary", [True, "grey", ""])
    def test_other_versions_are_refused(self, binary):
        with pytest.raises(Exception, match="binary"):
            data.mnist(binary=binary)


class TestTables:
    def test_three_parts_without_labels(self, world):
        same_table(data.binary_table("plants"), world)

    def test_an_unknown_name(self):
        with pytest.raises(ValueError, match="among jester, mushrooms, plants, got 'weeds'"):
            data.binary_table("weeds")

    def test_of_any_name_in_any_folder(self, world, tmp_path):
        for part in PARTS:
            world.copy(f"debd/plants/plants.{part}.data", tmp_path).rename(tmp_path / f"weeds.{part}.data")
        same_table(data.read_binary_table(tmp_path, "weeds"), world)
        same_table(data.read_binary_table(str(tmp_path), "weeds"), world)
        assert world.handler.asked == ()

    @pytest.mark.parametrize("text", ["0,1\n1,1\n", "0,1\n1,1", "0,1\r\n1,1\r\n"])
    def test_ends_of_lines(self, tmp_path, text):
        for part in PARTS:
            (tmp_path / f"a.{part}.data").write_bytes(text.encode())
        same(data.read_binary_table(tmp_path, "a").test, [[0, 1], [1, 1]])

    @pytest.mark.parametrize(("text", "x"), [("0\n1\n", [[0], [1]]), ("1", [[1]])])
    def test_one_column(self, tmp_path, text, x):
        for part in PARTS:
            (tmp_path / f"a.{part}.data").write_text(text)
        same(data.read_binary_table(tmp_path, "a").validation, x)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("", 1),
            ("\n", 1),
            ("0,1\n\n", 2),
            ("0,1\n0\n", 2),
            ("0,1\n0,1,1\n", 2),
            ("0,1\n0,2\n", 2),
            ("0,1\n0 1\n", 2),
            ("0,1\n0,1,\n", 2),
            ("0,1\n-1,1\n", 2),
            ("0,1\n0,1.0\n", 2),
            ("a,b\n0,1\n", 1),
            ("0,1\n0,\u0661\n", 2),
        ],
    )
    def test_other_forms_are_refused(self, tmp_path, text, line):
        for part in PARTS:
            (tmp_path / f"a.{part}.data").write_text(text if part == "valid" else "0,1\n", encoding="utf-8")
        with pytest.raises(ValueError, match=rf"a\.valid\.data needs lines of 0 and 1.*as line {line}\."):
            data.read_binary_table(tmp_path, "a")

    def test_parts_have_the_same_columns(self, tmp_path):
        for part, text in zip(PARTS, ["0,1\n", "0,1\n", "0\n"], strict=True):
            (tmp_path / f"a.{part}.data").write_text(text)
        with pytest.raises(ValueError, match=r"as many columns .* got \[2, 2, 1\]"):
            data.read_binary_table(tmp_path, "a")

    def test_a_missing_part(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a\.train\.data"):
            data.read_binary_table(tmp_path, "a")


class TestWhereFilesComeFrom:
    def test_a_download_is_kept_and_nothing_else(self, world):
        data.binary_table("plants")
        assert world.handler.asked == tuple(f"/debd/plants/plants.{part}.data" for part in PARTS)
        assert world.cached() == sorted(f"debd/plants/plants.{part}.data" for part in PARTS)
        same_table(data.binary_table("plants"), world)
        assert len(world.handler.asked) == 3

    def test_the_download_shows_its_progress(self, world, capsys):
        data.binary_table("plants")
        assert "100%" in capsys.readouterr().err

    def test_gmlib_data_comes_before_the_cache(self, world, monkeypatch):
        for part in PARTS:
            world.copy(f"debd/plants/plants.{part}.data", world.local)
            world.copy(f"debd/plants/plants.{part}.data", world.cache).write_bytes(b"0,0,0,0,0\n")
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        same_table(data.binary_table("plants"), world)
        assert world.handler.asked == ()

    def test_gmlib_data_may_lack_what_the_cache_has(self, world, monkeypatch):
        for part in PARTS:
            world.copy(f"debd/plants/plants.{part}.data", world.cache)
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        same_table(data.binary_table("plants"), world)
        assert world.handler.asked == ()

    def test_gmlib_data_is_not_written_to(self, world, monkeypatch):
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        same_table(data.binary_table("plants"), world)
        assert list(world.local.iterdir()) == []

    def test_the_second_address_serves_what_the_first_does_not(self, world, monkeypatch):
        monkeypatch.setattr(data, "_MNIST", (world.address + "gone/", world.address + "mnist/"))
        same(data.mnist().test, world.t10k[0] / np.float32(255), world.t10k[1])

    def test_without_a_network(self, world, monkeypatch):
        closed = "http://127.0.0.1:1/"
        monkeypatch.setattr(data, "_TABLES", (closed,))
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        with pytest.raises(FileNotFoundError) as failure:
            data.binary_table("plants")
        message = str(failure.value)
        assert "\n" not in message
        for part in [
            "debd/plants/plants.train.data is missing",
            f"not in {world.local} and {world.cache}",
            f"{closed}plants/plants.train.data (ConnectionError)",
            f"save it as {world.cache}/debd/plants/plants.train.data",
            "GMLIB_DATA",
        ]:
            assert part in message
        assert world.cached() == []

    def test_a_server_without_the_file(self, world):
        (world.server / "debd/plants/plants.valid.data").unlink()
        with pytest.raises(FileNotFoundError, match=r"plants\.valid\.data is missing.*\(HTTPError\)"):
            data.binary_table("plants")
        assert world.cached() == ["debd/plants/plants.train.data"]

    def test_a_download_that_breaks_off(self, world):
        world.handler.cut = ("plants.valid.data",)
        with pytest.raises(FileNotFoundError, match=r"plants\.valid\.data is missing.*ChunkedEncodingError"):
            data.binary_table("plants")
        assert world.cached() == ["debd/plants/plants.train.data"]

    def test_a_server_with_another_file(self, world):
        (world.server / "debd/plants/plants.test.data").write_text("0,1,0,1,0\n")
        with pytest.raises(ValueError, match=r"http://.*plants\.test\.data is damaged, or another file"):
            data.binary_table("plants")
        assert world.cached() == [f"debd/plants/plants.{part}.data" for part in ("train", "valid")]

    def test_a_folder_that_cannot_be_written(self, world):
        world.cache.write_text("a file, where a folder should be")
        with pytest.raises(FileNotFoundError, match=r"plants\.train\.data is missing.*Error\)"):
            data.binary_table("plants")

    def test_the_cache_is_gmlibs_own(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert files.cache().name == "gmlib"


@pytest.mark.parametrize("place", ["local", "cache"])
class TestDamage:
    @pytest.fixture(autouse=True)
    def _place(self, world, place, monkeypatch):
        monkeypatch.setenv("GMLIB_DATA", str(world.local))
        self.folder = getattr(world, place)

    def refused(self, path, load, reason=""):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged{reason}") as failure:
            load()
        assert "\n" not in str(failure.value)

    def test_a_bit(self, world):
        path = world.copy("debd/plants/plants.train.data", self.folder)
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
        self.refused(path, lambda: data.binary_table("plants"), ", or another file: .*sha256")

    @pytest.mark.parametrize("keep", [0, 5, 900, -1])
    def test_a_compressed_file_that_ends_early(self, world, keep):
        path = world.copy("mnist/train-images-idx3-ubyte.gz", self.folder)
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(path, data.mnist)

    def test_a_compressed_file_that_is_spoilt(self, world):
        path = world.copy("mnist/train-images-idx3-ubyte.gz", self.folder)
        content = bytearray(path.read_bytes())
        content[1000:1100] = bytes(100)
        path.write_bytes(content)
        self.refused(path, data.mnist)

    def test_a_page_in_the_place_of_the_file(self, world):
        path = world.copy("mnist/train-images-idx3-ubyte.gz", self.folder)
        path.write_text("<html>Sign in to this network</html>")
        self.refused(path, data.mnist)

    @pytest.mark.parametrize("keep", [0, 100, -1])
    def test_packed_bits_that_end_early(self, world, keep):
        path = self.folder / "binarized_mnist" / "static_binarized_mnist_packed.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, **{part: np.packbits(x, axis=1) for part, x in world.static.items()})
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(path, lambda: data.mnist(binary="static"))

    def test_packed_bits_without_a_part(self, world):
        path = self.folder / "binarized_mnist" / "static_binarized_mnist_packed.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, train=np.packbits(world.static["train"], axis=1))
        self.refused(path, lambda: data.mnist(binary="static"), r" \(.*valid")

    def test_a_text_that_ends_early(self, world):
        path = world.copy("binarized_mnist/binarized_mnist_train.amat", self.folder)
        path.write_bytes(path.read_bytes()[:-2])
        self.refused(path, lambda: data.mnist(binary="static"))


def test_every_file_is_pinned_once():
    assert len(set(TRUE_PINS.values())) == len(TRUE_PINS) == 16
    assert all(re.fullmatch("[0-9a-f]{64}", pin) for pin in TRUE_PINS.values())


def test_files_come_over_https():
    assert all(address.startswith("https://") for address in (*data._MNIST, *data._STATIC, *data._TABLES))


@real
@pytest.mark.parametrize("name", ["mushrooms", "plants", "jester"])
def test_the_real_tables_are_those_of_the_docstring(name):
    dataset = data.binary_table(name)
    rows = ", ".join(f"{len(split.x):,}" for split in dataset)
    assert f"| {name} | {dataset.train.x.shape[1]} | {rows} |" in data.binary_table.__doc__
    assert set(dataset.train.x.unique().tolist()) == {0.0, 1.0}


@real
def test_the_real_mnist():
    dataset = data.mnist()
    assert [tuple(split.x.shape) for split in dataset] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert dataset.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert (dataset.train.x.min(), dataset.train.x.max()) == (0, 1)


@real
def test_the_real_static_mnist_has_the_published_entropy_of_its_pixels():
    """Independent pixels, their means those of the training set, give 205.79 nats on the test set."""
    train, _, test = (split.x.double() for split in data.mnist(binary="static"))
    p = (train.sum(0) + 1) / (len(train) + 2)
    nats = -(test * p.log() + (1 - test) * (1 - p).log()).sum(1).mean()
    assert [len(train), len(test)] == [50_000, 10_000]
    assert nats.item() == pytest.approx(205.79, abs=0.05)


class TestWriting:
    def test_puts_the_new_in_the_place_of_the_old(self, tmp_path):
        path = tmp_path / "file"
        for content in (b"one", b"two"):
            files.write(path, content)
            assert path.read_bytes() == content
        files.append(path, b" three")
        assert path.read_bytes() == b"two three"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("put", [files.write, files.append])
    def test_on_a_full_disk_leaves_the_old(self, put, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 900)
        with pytest.raises(OSError, match="File too large") as caught, full_disk(1_000):
            put(path, b"y" * 1_100)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"x" * 900
        assert list(tmp_path.iterdir()) == [path]

    def test_to_a_device_without_room(self):
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.append(Path("/dev/full"), b"x")
        assert caught.value.filename == "/dev/full"

    @pytest.mark.parametrize("put", [files.write, files.append])
    def test_where_nothing_can_be_written(self, put, tmp_path):
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(NotADirectoryError):
            put(tmp_path / "file" / "below", b"y")
        assert (tmp_path / "file").read_bytes() == b"x"


def test_finding_reads_nothing(world, monkeypatch):
    content = data._of_table("plants")[0]
    assert files.find(content) is None
    target = world.copy("debd/plants/plants.train.data", world.local)
    target.write_bytes(b"anything")
    monkeypatch.setenv("GMLIB_DATA", str(world.local))
    assert files.find(content).path == target
    assert world.handler.asked == ()
