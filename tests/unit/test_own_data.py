"""Pictures of one's own, in folders and in arrays: what is taken, how it is seen, and what is refused by name."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from ssd_bench.core.dataset import Part
from ssd_bench.core.errors import ConfigError
from ssd_bench.data import pictures, source
from ssd_bench.data.arrays import Arrays
from ssd_bench.data.folder import Folder
from ssd_bench.data.pictures import Pictures
from ssd_bench.store.artefacts import forget_recent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, and nothing remembered in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source.forget_loaded(), forget_recent()
    yield tmp_path / "cache"
    source.forget_loaded(), forget_recent()


def anew(settings):
    """Loaded as a new process would."""
    source.forget_loaded(), forget_recent()
    return settings.load()


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def put(path: Path, seed=0, size=(8, 8), mode="RGB", **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(seed, size[1], size[0], 3)
    Image.fromarray(pixels).convert(mode).save(path, **how)
    return pixels


def classes(root, names=("cat", "dog"), n=5, parts=("train/", "test/"), **how):
    """`n` images of each class in each part."""
    for i, part in enumerate(parts):
        for j, name in enumerate(names):
            for k in range(n):
                put(root / f"{part}{name}/{k}.png", seed=100 * i + 10 * j + k, **how)
    return root


def folder(root, **settings):
    return Folder(root=str(root), **{"side": 8, **settings})


def test_pixels_classes_and_order_are_those_of_the_files(tmp_path):
    root = classes(tmp_path / "set")
    data = folder(root).load()
    assert data.fine_names == ("cat", "dog")
    assert data.train.fine.tolist() == [0] * 5 + [1] * 5
    expected = np.stack(
        [np.asarray(Image.open(root / f"train/{c}/{k}.png")) for c in data.fine_names for k in range(5)]
    )
    assert np.array_equal(data.train.pixels.permute(0, 2, 3, 1).numpy(), expected)
    scaled = data.train.pixels.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_sub_folders_are_finer_classes_and_keep_their_names_apart(tmp_path):
    names = ("cat/white", "cat/tabby", "dog/white", "dog/poodle")
    data = folder(classes(tmp_path / "set", names, n=2)).load()
    assert data.fine_names == ("tabby", "cat/white", "poodle", "dog/white")
    assert data.coarse_names == ("cat", "dog")
    assert data.coarse_of == (0, 0, 1, 1)
    assert data.labels == "coarse"
    assert data.labelled(data.train, "coarse").tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("parts", [("",), ("train/",)])
def test_without_test_images_a_seeded_share_of_each_class_is_taken(tmp_path, parts):
    root = classes(tmp_path / "set", n=10, parts=parts)
    put(root / f"{parts[0]}rare/one.png", seed=77), put(root / f"{parts[0]}rare/two.png", seed=78)
    data, other = folder(root).load(), folder(root, split_seed=1).load()
    assert torch.bincount(data.test.fine).tolist() == [2, 2, 1]
    assert torch.bincount(data.train.fine).tolist() == [8, 8, 1]
    seen = [{p.numpy().tobytes() for p in part.pixels} for part in (data.train, data.test)]
    assert len(seen[0] | seen[1]) == 22
    assert other.fingerprint != data.fingerprint == anew(folder(root)).fingerprint
    assert torch.bincount(folder(root, test_share=0.5).load().test.fine).tolist() == [5, 5, 1]


def test_images_under_val_are_test_images_where_there_is_no_test(tmp_path):
    root = classes(tmp_path / "set")
    told = folder(root).load()
    (root / "test").rename(root / "val")
    renamed = anew(folder(root))
    assert torch.equal(renamed.test.pixels, told.test.pixels)
    put(root / "test/cat/1.png"), put(root / "test/dog/1.png")
    assert len(anew(folder(root)).test.fine) == 2


def test_a_val_that_holds_no_classes_is_left_alone(tmp_path):
    root = classes(tmp_path / "set", n=10, parts=("train/",))
    put(root / "val/1.png")
    assert torch.bincount(folder(root).load().test.fine).tolist() == [2, 2]


def test_a_class_that_is_called_train_is_a_class(tmp_path):
    data = folder(classes(tmp_path / "set", ("bus", "train"), parts=("",))).load()
    assert data.fine_names == ("bus", "train")


def test_images_are_decoded_once_and_found_by_their_content(tmp_path, monkeypatch):
    root = classes(tmp_path / "set")
    read, really = [], Pictures.read
    monkeypatch.setattr(Pictures, "read", lambda self, path: read.append(path) or really(self, path))
    first = folder(root).load()
    assert len(read) == 20
    copy = tmp_path / "copy"
    (root).rename(copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    assert anew(folder(copy)).fingerprint == first.fingerprint
    assert len(read) == 20
    before = (copy / "train/cat/0.png").stat()
    put(copy / "train/cat/0.png", seed=999)
    os.utime(copy / "train/cat/0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert anew(folder(copy)).fingerprint != first.fingerprint
    assert anew(folder(copy, side=4)).train.pixels.shape[-1] == 4
    (copy / "test/dog/4.png").rename(copy / "test/cat/9.png")
    assert torch.bincount(anew(folder(copy)).test.fine).tolist() == [6, 4]


def mapped(tensor):
    """Whether a tensor lies in a file that is mapped."""
    at = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        low, high = (int(x, 16) for x in span.split("-"))
        if low <= at < high:
            return path
    return None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list what is mapped")
def test_pixels_are_mapped_from_the_cache(tmp_path, cache):
    root = classes(tmp_path / "set", size=(64, 64))
    [file] = [] if folder(root, side=64).load() is None else cache.rglob("*.safetensors")
    for data in (folder(root, side=64).load(), anew(folder(root, side=64))):
        assert mapped(data.train.pixels) == mapped(data.test.pixels) == str(file)
        assert data.train.pixels.numpy().flags.writeable


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache, monkeypatch):
    root = classes(tmp_path / "set")
    cache.write_text("a file where the folder should be")
    assert len(folder(root).load().train.fine) == 10


# ---- how one image is seen

PLAIN = Pictures(8, 3, "crop", 10_000)


@pytest.mark.parametrize("size", [(30, 8), (8, 30), (200, 3), (1, 1), (8, 8), (17, 23)])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_any_size_becomes_a_square(tmp_path, size, fit):
    put(tmp_path / "x.png", size=size)
    assert Pictures(8, 3, fit, 10_000).read(tmp_path / "x.png").shape == (3, 8, 8)


def test_crop_takes_the_middle_and_stretch_all_of_it(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert PLAIN.read(tmp_path / "x.png").min() == 200
    assert Pictures(8, 3, "stretch", 10_000).read(tmp_path / "x.png").min() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGBA", "CMYK", "I;16", "YCbCr", "RGB"])
def test_any_mode_becomes_colour_or_grey(tmp_path, mode):
    grey = np.full((8, 8), 128, np.uint8)
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert("RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "PA") else "x.png")
    image.convert("P").save(tmp_path / "x.gif") if mode == "PA" else image.save(path)
    path = tmp_path / "x.gif" if mode == "PA" else path
    for channels in (1, 3):
        pixels = Pictures(8, channels, "crop", 10_000).read(path)
        assert pixels.shape == (channels, 8, 8)
        assert mode == "1" or abs(int(pixels.mean()) - 128) <= 2


def test_sixteen_bits_keep_their_order(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("x.png", "x.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        pixels = PLAIN.read(tmp_path / name)[0].astype(int)
        assert np.array_equal(pixels, (ramp / 257).round())


def test_transparent_parts_are_white_and_exif_turns(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "x.png")
    pixels = PLAIN.read(tmp_path / "x.png")
    assert (pixels[:, :4].max(), pixels[:, 4:].min()) == (0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn clockwise
    top = np.zeros((8, 8, 3), np.uint8)
    top[:4] = 255
    Image.fromarray(top).save(tmp_path / "x.tif", exif=exif)
    pixels = PLAIN.read(tmp_path / "x.tif")
    assert (pixels[:, :, 4:].min(), pixels[:, :, :4].max()) == (255, 0)


def test_pixels_of_no_known_range_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="no known range"):
        PLAIN.read(tmp_path / "x.tif")


# ---- what is wrong with a folder


def spoil(root):
    for name in ("train/cat/0.png", "train/dog/3.png", "test/dog/1.png"):
        (root / name).write_bytes(b"no image")
    (root / "train/cat/1.png").write_bytes((root / "train/cat/1.png").read_bytes()[:-60])
    return root


def test_unreadable_files_are_named_and_stop_the_run_unless_they_may_be_skipped(tmp_path, caplog):
    root = spoil(classes(tmp_path / "set"))
    for load in (folder(root).load, lambda: anew(folder(root))):
        with pytest.raises(
            ConfigError, match=r"4 images cannot be read: train/cat/0.png \(.*data.skip_unreadable=true"
        ):
            load()
    data = anew(folder(root, skip_unreadable=True))
    assert data.train.fine.tolist() == [0] * 3 + [1] * 4
    assert len(data.test.fine) == 9
    assert "4 images cannot be read" in caplog.text
    assert "test/dog/1.png" in caplog.text
    expected = np.asarray(Image.open(root / "train/cat/2.png"))
    assert np.array_equal(data.train.pixels[0].permute(1, 2, 0).numpy(), expected)  # rows have moved up


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path, caplog):
    root = classes(tmp_path / "set", ("cat", "dog", "hen"))
    for path in (root / "test/dog").iterdir():
        path.write_bytes(b"no image")
    assert len(folder(root, skip_unreadable=True).load().test.fine) == 10
    assert "no test images of dog, which cannot be a target" in caplog.text
    for path in (root / "train/dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"10 images cannot be read: train/dog/0\.png"):
        anew(folder(root))
    with pytest.raises(ConfigError, match="no training image that can be read of dog"):
        anew(folder(root, skip_unreadable=True))


def test_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
    root = spoil(classes(tmp_path / "set"))
    whole = folder(root, skip_unreadable=True).load()
    monkeypatch.setattr(pictures, "BLOCK", 3)
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
    assert anew(folder(root, skip_unreadable=True)).fingerprint == whole.fingerprint


@pytest.mark.parametrize(("side", "said"), [(9_000, "to 9000 x 9000 pixels"), (14_000, "to more than 178956970")])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, side, said):
    root = classes(tmp_path / "set")
    Image.new("1", (side, side)).save(root / "train/cat/bomb.png")
    really = ImageFile.ImageFile.load
    small = lambda self: really(self) if self.width < 100 else pytest.fail("unpacked")  # noqa: E731
    monkeypatch.setattr(ImageFile.ImageFile, "load", small)
    for skip in (False, True):
        with pytest.raises(ConfigError, match=rf"cat/bomb.png would unpack {said}.*data\.max_pixels"):
            folder(root, skip_unreadable=skip).load()


@pytest.mark.parametrize("kind", ["folder", "arrays"])
def test_images_are_never_in_memory_all_at_once(tmp_path, monkeypatch, kind):
    n, side = 400, 96  # 11 MB: more than what the interpreter may happen to grow by in between
    size = 3 * side * side
    for module in ("pictures", "arrays"):
        monkeypatch.setattr(f"ssd_bench.data.{module}.BLOCK_BYTES", 10 * size)
    if kind == "folder":
        settings = folder(classes(tmp_path / "set", n=n // 2, parts=("train/", "test/"), size=(side, side)), side=side)
    else:
        x, y = noise(0, n, side, side, 3), np.arange(n) % 3
        archive(tmp_path / "a.npz", np.savez_compressed, x_train=x, y_train=y, x_test=x, y_test=y)
        settings = Arrays(file=str(tmp_path / "a.npz"))
    Image.init()  # the code of the decoders is no image
    tracemalloc.start()
    try:
        data = settings.load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.train.pixels.numel() == n * size
    assert peak < n * size / 2


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list what is mapped")
def test_many_rows_are_mapped_and_the_same_as_few(tmp_path, monkeypatch):
    root = classes(tmp_path / "set")
    few = [folder(root, **settings).load() for settings in ({"holdout": 0.4}, {"train_per_class": 2})]
    assert not any("tmp" in str(mapped(data.train.pixels)) for data in few)
    monkeypatch.setattr("ssd_bench.data.mapped.MANY_BYTES", 1)
    monkeypatch.setattr("ssd_bench.data.mapped.CHUNK", 3)
    many = [folder(root, **settings).load() for settings in ({"holdout": 0.4}, {"train_per_class": 2})]
    assert [data.fingerprint for data in many] == [data.fingerprint for data in few]
    assert all("tmp" in str(mapped(data.train.pixels)) for data in many)


def test_test_images_that_were_trained_on_are_told(tmp_path, caplog):
    root = classes(tmp_path / "set")
    (root / "test/dog/copy.png").write_bytes((root / "train/cat/0.png").read_bytes())
    folder(root).load()
    assert "1 test images are training images, too" in caplog.text


def test_an_unknown_home_is_one_line():
    for settings in (Folder(root="~nobody-of-that-name/x"), Arrays(file="~nobody-of-that-name/x.npz")):
        with pytest.raises(ConfigError, match="~nobody-of-that-name"):
            settings.load()


def link_out(root):
    put(root.parent / "elsewhere/secret.png")
    (root / "train/cat/link.png").symlink_to(root.parent / "elsewhere/secret.png")


def link_folder_out(root):
    put(root.parent / "elsewhere/secret.png")
    (root / "train/linked").symlink_to(root.parent / "elsewhere")


def link_part_out(root):
    (root / "test").rename(root.parent / "elsewhere")
    (root / "test").symlink_to(root.parent / "elsewhere")


def no_text(root):
    put(root / "train/cat/0.png")
    os.rename(root / "train/cat/0.png", os.fsencode(root) + b"/train/cat/\xff.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_out, r"train/cat/link.png \(a link that leads out of the folder\)"),
        (link_folder_out, r"train/linked \(a link that leads out"),
        (link_part_out, r"refused: test \(a link that leads out"),
        (lambda root: (root / "train/cat/x.png").symlink_to("gone.png"), r"x.png \(a link that leads nowhere"),
        (no_text, r"cat/\\udcff.png \(its name is no printable text"),
        (lambda root: put(root / "train/cat/a\nb.png"), r"cat/a\\nb.png \(its name is no printable text"),
        (lambda root: put(root / "train/cat\tdog/b.png"), r"train/cat\\tdog \(its name is no printable text"),
        (lambda root: os.mkfifo(root / "train/cat/pipe.png"), r"pipe.png \(no regular file"),
        (
            lambda root: put(root / "train/cat/white/1.png"),
            "class cat holds images and class cat a folder",
        ),
        (lambda root: put(root / "train/bird/white/1.png"), "class cat holds images and class bird a folder of them"),
        (lambda root: put(root / "test/bird/1.png"), "no training images of bird"),
        (lambda root: (root / "train").rename(root / "training"), "has test/ and no train/"),
    ],
)
def test_what_is_refused_by_name(tmp_path, change, message):
    root = classes(tmp_path / "set")
    change(root)
    with pytest.raises(ConfigError, match=message):
        folder(root).load()


def test_folders_that_are_too_deep_or_hold_one_class_or_none(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        folder(tmp_path / "nowhere").load()
    with pytest.raises(ConfigError, match="holds no folder with images"):
        folder(tmp_path).load()
    put(tmp_path / "set/pictures/cat/1.png"), put(tmp_path / "set/pictures/dog/1.png")
    with pytest.raises(ConfigError, match=r"holds one class, pictures.*give data.root=.*set/pictures"):
        folder(tmp_path / "set").load()
    put(tmp_path / "set/pictures/dog/white/1.png")
    with pytest.raises(ConfigError, match=r"dog/white \(deeper than CLASS/SUB_CLASS"):
        folder(tmp_path / "set").load()


def test_what_is_no_image_is_counted_and_an_empty_class_is_named(tmp_path, caplog):
    root = classes(tmp_path / "set")
    caplog.set_level("INFO")
    for name in ("train/cat/Thumbs.db", "train/.DS_Store", "train/dog/notes.txt", "test/cat/._0.png"):
        (root / name).write_bytes(b"x")
    (root / "train/empty").mkdir()
    put(root / "train/.ipynb_checkpoints/0-checkpoint.png")
    put(root / "test/beside.png")
    data = folder(root).load()
    assert data.fine_names == ("cat", "dog")
    assert len(data.train.fine) == 10
    assert "1 .txt" in caplog.text
    assert "1 .ds_store" in caplog.text.lower()
    assert "hold no images: train/empty" in caplog.text
    assert "1 images beside the folders" in caplog.text


ODD = ("a b", "it's", '"quoted"', "one,two", "Müller", ".dot", "-dash", "[red]x", "{a}", "a=b", "100%", "$HOME")


def test_odd_names_are_names(tmp_path):
    data = folder(classes(tmp_path / "set", ODD, n=2)).load()
    assert data.fine_names == tuple(sorted(ODD))
    assert data.aliases == {"Mu\u0308ller": "Müller"}


def test_pins_and_caltech_work_by_naming_their_folder(tmp_path):
    pins = classes(tmp_path / "105_classes_pins_dataset", ("pins_Ana de Armas", "pins_Tom"), parts=("",))
    assert folder(pins).load().fine_names == ("pins_Ana de Armas", "pins_Tom")
    caltech = classes(tmp_path / "101_ObjectCategories", ("BACKGROUND_Google", "Faces", "anchor"), parts=("",))
    assert folder(caltech, exclude=["BACKGROUND_Google"]).load().fine_names == ("Faces", "anchor")


@pytest.mark.parametrize(
    "wrong",
    [{"root": None}, {"side": 0}, {"channels": 2}, {"test_share": 1.0}, {"max_pixels": 0}, {"max_pixels": 10**9}],
)
def test_settings_that_cannot_be(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Folder(**{"root": str(tmp_path), **wrong})


# ---- arrays


def archive(path, save=np.savez, **change):
    values = {
        "x_train": noise(0, 6, 8, 8, 3),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": noise(1, 3, 8, 8, 3),
        "y_test": np.array([0, 1, 2]),
    } | change
    save(path, **{name: value for name, value in values.items() if value is not None})
    return values


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 13])
def test_arrays_are_taken_as_they_are(tmp_path, monkeypatch, save, channels):
    monkeypatch.setattr("ssd_bench.data.arrays.BLOCK_BYTES", 500)  # several blocks
    shape = () if channels is None else (channels,)
    x = {"x_train": noise(0, 6, 8, 8, *shape), "x_test": noise(1, 3, 8, 8, *shape)}
    archive(tmp_path / "a.npz", save, **x)
    data = Arrays(file=str(tmp_path / "a.npz")).load()
    expected = x["x_train"][:, None] if channels is None else x["x_train"].transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.pixels.numpy(), expected)
    assert data.train.fine.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.fine_names == ("0", "1", "2")
    again = anew(Arrays(file=str(tmp_path / "a.npz")))
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("shape", [(5, 8, 3), (8, 5), (8, 6, 1), (8, 7, 4)])
def test_arrays_that_are_not_square_are_padded_alike_on_both_sides(tmp_path, monkeypatch, caplog, shape):
    monkeypatch.setattr("ssd_bench.data.arrays.BLOCK_BYTES", 300)
    x = {"x_train": noise(0, 6, *shape), "x_test": noise(1, 3, *shape)}
    archive(tmp_path / "a.npz", **x)
    data = Arrays(file=str(tmp_path / "a.npz")).load()
    for part, of_part in (("x_train", data.train), ("x_test", data.test)):
        pixels = x[part].reshape(*x[part].shape[:3], -1).transpose(0, 3, 1, 2)
        top, left = ((8 - length) // 2 for length in shape[:2])
        assert of_part.pixels.shape == (len(pixels), pixels.shape[1], 8, 8)
        inside = of_part.pixels[:, :, top : top + shape[0], left : left + shape[1]]
        assert np.array_equal(inside.numpy(), pixels)
        assert of_part.pixels.sum() == pixels.sum()
    n = len(pixels[0])
    of = f"{shape[0]} x {shape[1]} pixels and {n} channel{'s' * (n > 1)}"
    assert f"images of {of} are padded with black to squares" in caplog.text


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 8, 6), (2, 3, 8)])
def test_arrays_with_their_channels_first(tmp_path, shape):
    x = {"x_train": noise(0, 6, *shape), "x_test": noise(1, 3, *shape)}
    archive(tmp_path / "first.npz", **x)
    archive(tmp_path / "last.npz", **{name: values.transpose(0, 2, 3, 1) for name, values in x.items()})
    first = Arrays(file=str(tmp_path / "first.npz"), channels="first").load()
    last = Arrays(file=str(tmp_path / "last.npz"), channels="last").load()
    assert torch.equal(first.train.pixels, last.train.pixels)
    assert torch.equal(first.test.pixels, last.test.pixels)
    assert first.fingerprint == last.fingerprint
    with pytest.raises(ValueError, match="channels=frist does not exist; did you mean 'first'"):
        Arrays(file="x.npz", channels="frist")


def test_what_padding_would_take_is_refused_by_the_headers(tmp_path):
    archive(tmp_path / "a.npz", x_train=noise(0, 6, 1, 30_000), x_test=noise(1, 3, 1, 30_000))
    with pytest.raises(ConfigError, match=r"would unpack to 8100000\d+ bytes; allowed: data.max_bytes=1000000000"):
        Arrays(file=str(tmp_path / "a.npz"), max_bytes=10**9).load()


def test_names_and_coarser_classes(tmp_path):
    coarse = {"coarse_of": np.array([1, 0, 1]), "coarse_names": np.array(["left", "right"])}
    archive(tmp_path / "a.npz", class_names=np.array(["a", "ü", "c"]), **coarse)
    data = Arrays(file=str(tmp_path / "a.npz")).load()
    assert data.fine_names == ("a", "ü", "c")
    assert (data.coarse_names, data.coarse_of, data.labels) == (("left", "right"), (1, 0, 1), "coarse")


OBJECTS = np.array([print, print], dtype=object)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None, "y_test": None}, "x_test is missing; needed: x_train"),
        ({"y_train": OBJECTS}, "Python objects, which are never read"),
        ({"x_train": OBJECTS}, "Python objects, which are never read"),
        ({"class_names": OBJECTS}, "Python objects, which are never read"),
        ({"x_train": noise(0, 6, 8, 8, 3) / 255}, "x_train is float64; allowed: uint8"),
        ({"x_train": noise(0, 6, 3, 8, 8)}, "N x H x W x C or N x H x W; which are the channels.*data.channels=first"),
        ({"x_train": noise(0, 6, 4, 8, 8)}, "data.channels=first, or last, says so"),
        ({"x_train": noise(0, 6, 64)}, "allowed: N x H x W x C or N x H x W$"),
        ({"x_train": noise(0, 6, 8, 8, 4)}, "x_train and x_test differ"),
        ({"x_train": noise(0, 0, 8, 8, 3)}, "holds no image"),
        ({"x_train": noise(0, 6, 8, 9, 3)}, "x_train and x_test differ"),
        ({"x_train": noise(0, 6, 8, 6, 3), "x_test": noise(0, 3, 6, 8, 3)}, "x_train and x_test differ"),
        ({"x_test": noise(0, 3, 4, 4, 3)}, "x_train and x_test differ"),
        ({"x_train": np.asfortranarray(noise(0, 6, 8, 8, 3))}, "Fortran order"),
        ({"y_train": np.arange(5)}, r"y_train has the shape \(5,\); allowed: \(6,\)"),
        ({"y_train": np.arange(6) / 2}, "y_train is float64; allowed: whole numbers"),
        ({"y_test": np.array([0, 1, 3])}, "y_test goes from 0 to 3; allowed: 0 to 2"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "y_train goes from -1 to 2; allowed"),
        ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "class 2 has no training images"),
        ({"class_names": np.array("cat")}, "allowed: one name for each class"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, "one class; at least two"),
        ({"class_names": np.array(["a", "b"])}, "y_train goes from 0 to 2; allowed: 0 to 1"),
        ({"class_names": np.array(["a", "b", "b"])}, "3 different texts"),
        ({"class_names": np.array([1, 2, 3])}, "3 different texts"),
        ({"class_names": np.array(["a", "b", "c\nd"])}, r"class_names: 'c\\nd' is no printable text"),
        ({"coarse_of": np.array([0, 2, 0])}, "coarse_of must hold"),
        ({"coarse_names": np.array(["a", "b"])}, "coarse_names needs coarse_of"),
    ],
)
def test_what_is_wrong_with_arrays_is_one_line(tmp_path, change, message):
    archive(tmp_path / "a.npz", **change)
    with pytest.raises(ConfigError, match=message) as e:
        Arrays(file=str(tmp_path / "a.npz")).load()
    assert "\n" not in str(e.value)
    assert "a.npz" in str(e.value)


def test_labels_in_a_column_are_labels(tmp_path):
    archive(tmp_path / "a.npz", y_train=np.array([[0], [1], [2], [0], [1], [2]], np.uint8))
    assert Arrays(file=str(tmp_path / "a.npz")).load().train.fine.tolist() == [0, 1, 2, 0, 1, 2]


def test_what_is_no_archive_or_damaged(tmp_path):
    path = tmp_path / "a.npz"
    archive(path)
    whole = bytearray(path.read_bytes())
    spoilt = bytes(whole[:400] + b"\xff\xfe\xfd\xfc" + whole[404:])
    np.save(tmp_path / "b.npy", noise(0, 3))
    for content in (b"", b"no archive", bytes(whole[:-200]), spoilt, (tmp_path / "b.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.npz is no \.npz that can be read"):
            anew(Arrays(file=str(path)))
    with pytest.raises(ConfigError, match="No such file"):
        Arrays(file=str(tmp_path / "absent.npz")).load()


def test_an_archive_that_would_unpack_beyond_the_limit_is_refused_by_its_header(tmp_path):
    archive(tmp_path / "a.npz", x_train=None)
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**7, 64, 64, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("x_train.npy", header.getvalue())
    with pytest.raises(ConfigError, match="would unpack to 122880000"):
        Arrays(file=str(tmp_path / "a.npz")).load()
    archive(tmp_path / "b.npz")
    with pytest.raises(ConfigError, match=r"data\.max_bytes=100"):
        Arrays(file=str(tmp_path / "b.npz"), max_bytes=100).load()


class Mine:
    """A source of somebody's own."""


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (torch.rand(6, 1, 8, 8), torch.arange(6), "pixels must be uint8, .*, got torch.float32 of shape 6 x 1 x 8 x 8"),
        (torch.zeros(6, 1, 8, 9, dtype=torch.uint8), torch.arange(6), "got torch.uint8 of shape 6 x 1 x 8 x 9"),
        (
            torch.zeros(6, 1, 8, 8, dtype=torch.uint8),
            torch.arange(6).int(),
            "labels must be int64, .*, got torch.int32",
        ),
        (torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(5), "one for each image, got torch.int64 of shape 5"),
    ],
)
def test_an_own_source_of_wrong_kinds_is_one_line(pixels, labels, said):
    part = Part(pixels, labels)
    made = SimpleNamespace(parts=(part, part))
    with pytest.raises(ConfigError, match=f"Mine: .*{said}"):
        source.vouched(made, Mine())
