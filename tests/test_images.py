"""Decoding of hostile and odd files, and parity of the tensor steps with torchvision."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.models.detection import transform as reference
from torchvision.transforms import functional as torchvision_functional

from retinanet import images
from retinanet.images import ImageError, find_images, load_image
from tests import zoo


def pixels(image) -> np.ndarray:
    return np.asarray(image.pil)


def assert_one_sentence(error: ImageError) -> None:
    text = str(error)
    assert "\n" not in text and text.endswith(".") and 20 < len(text) < 260, text


# Bad files


@pytest.mark.parametrize("name", zoo.BAD_IMAGES)
def test_a_bad_image_gives_one_sentence_that_names_it(name):
    with pytest.raises(ImageError) as caught:
        load_image(zoo.BAD_IMAGES[name](), name)
    assert_one_sentence(caught.value)
    assert name in str(caught.value)


def test_the_bomb_is_refused_by_its_header_with_its_size_and_without_a_warning():
    bomb = zoo.bomb_png()
    assert len(bomb) < 50_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="12000x12000 = 144 megapixels") as caught:
            load_image(bomb)
    assert_one_sentence(caught.value)


def test_limits_leave_pillows_global_settings_alone():
    before = (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    load_image(zoo.encode(zoo.scene(), "PNG"))
    with pytest.raises(ImageError):
        load_image(zoo.bomb_png())
    assert (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_a_frame_larger_than_its_header_is_refused():
    with pytest.raises(ImageError, match="above the limit"):
        load_image(zoo.frame_bomb_gif())


def test_pixel_and_byte_limits(monkeypatch):
    data = zoo.encode(zoo.scene(48, 32), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32)
    load_image(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageError, match="megapixels"):
        load_image(data)
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="larger than"):
        load_image(data)


def test_paths_that_are_no_picture(tmp_path):
    with pytest.raises(ImageError, match=r"missing.jpg does not exist"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(str(tmp_path))
    with pytest.raises(ImageError) as caught:
        load_image("bad\0name.jpg")
    assert_one_sentence(caught.value)
    with pytest.raises(ImageError) as caught:
        load_image(Path("x" * 5000))
    assert_one_sentence(caught.value)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not an ordinary file"):
        load_image(tmp_path / "pipe.jpg")


def test_a_name_cannot_break_the_message_into_lines():
    with pytest.raises(ImageError) as caught:
        load_image(b"", name="a\nb\x1b[31m" + "c" * 500)
    assert_one_sentence(caught.value)


def test_only_paths_bytes_and_pil_images_are_taken():
    with pytest.raises(TypeError, match="path, bytes or a PIL image"):
        load_image(np.zeros((4, 4, 3), np.uint8))


def test_damaged_copies_of_good_files_load_or_raise_image_error():
    rng = random.Random(0)
    formats = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
    seeds = [zoo.encode(zoo.noise(24, 16), f) for f in formats if f in PIL.Image.SAVE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        for seed, _ in itertools.product(seeds, range(60)):
            data = bytearray(seed)
            for _ in range(rng.choice((1, 4, 16))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert load_image(bytes(data)).pil.mode == "RGB"
            except ImageError as error:
                assert_one_sentence(error)


# Odd files


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", zoo.ODD_IMAGES)
def test_an_odd_image_loads_as_rgb(name):
    data = zoo.ODD_IMAGES[name]()
    image = load_image(data, name)
    assert image.pil.mode == "RGB"
    assert image.pil.info == {}
    sizes = {"1x1": (1, 1), "10000x10": (10_000, 10), "10x10000": (10, 10_000)}
    assert image.size == sizes.get(name.split(".")[0], (48, 32))
    assert image.id == hashlib.sha256(data).hexdigest()
    assert image.name == name
    assert all(note.endswith(".") for note in image.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation):
    image = load_image(zoo.exif_jpeg(orientation))
    upright = np.asarray(zoo.scene()).astype(int)
    assert image.size == (48, 32)
    assert np.abs(pixels(image).astype(int) - upright).mean() < 3  # JPEG's own loss
    assert any("EXIF" in note for note in image.notes) == (orientation != 1)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_in_other_formats(format_name):
    exif = PIL.Image.Exif()
    exif[zoo.EXIF_ORIENTATION] = 6
    stored = zoo.scene().transpose(PIL.Image.Transpose.ROTATE_90)
    options = {"lossless": True} if format_name == "WEBP" else {}
    image = load_image(zoo.encode(stored, format_name, exif=exif, **options))
    assert np.array_equal(pixels(image), np.asarray(zoo.scene()))


def test_damaged_exif_leaves_the_picture():
    image = load_image(zoo.ODD_IMAGES["exif-not-tiff.jpg"]())
    assert image.size == (48, 32)


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tiff"])
def test_16_bit_grey_is_scaled_not_clipped(name):
    image = load_image(zoo.ODD_IMAGES[name]())
    expected = np.rint(np.asarray(zoo.grey16()) / 257.0)
    assert np.array_equal(pixels(image)[..., 0], expected)
    assert any("65535" in note for note in image.notes)


@pytest.mark.parametrize(
    "name", ["int32.tiff", "int32-small.tiff", "float-unit.tiff", "float-signed.tiff"]
)
def test_deep_grey_spans_black_to_white(name):
    row = pixels(load_image(zoo.ODD_IMAGES[name]()))[0, :, 0].astype(int)
    assert (row[0], row[-1]) == (0, 255)
    assert (np.diff(row) >= 0).all() and len(set(row)) == 48


def test_values_that_are_not_numbers_do_not_spoil_a_float_picture():
    grey = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    grey[0, 0], grey[0, 1] = np.nan, np.inf
    image = load_image(PIL.Image.fromarray(grey))
    assert pixels(image)[0, :2].max() <= 8
    assert pixels(image)[-1, -1, 0] == 255


def test_a_float_picture_of_one_value_loads():
    assert load_image(PIL.Image.new("F", (4, 4), -5.0)).size == (4, 4)


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp"])
def test_transparent_parts_become_white(name):
    image = load_image(zoo.ODD_IMAGES[name]())
    assert (pixels(image)[:16, :16] == 255).all()
    assert np.array_equal(pixels(image)[16:], np.asarray(zoo.scene())[16:])
    assert any("white" in note for note in image.notes)


def test_grey_with_alpha_becomes_white():
    assert (pixels(load_image(zoo.ODD_IMAGES["la.png"]()))[:16, :16] == 255).all()


def test_an_opaque_alpha_channel_changes_nothing():
    image = load_image(zoo.encode(zoo.scene().convert("RGBA"), "PNG"))
    assert np.array_equal(pixels(image), np.asarray(zoo.scene()))
    assert image.notes == ()


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tiff"])
def test_cmyk_is_not_inverted(name):
    image = load_image(zoo.ODD_IMAGES[name]())
    difference = np.abs(pixels(image).astype(int) - np.asarray(zoo.scene()).astype(int))
    assert difference.mean() < 8


@pytest.mark.parametrize("name", ["animated.png", "animated.webp", "pages.tiff"])
def test_the_first_frame_is_used_and_said(name):
    image = load_image(zoo.ODD_IMAGES[name]())
    assert np.array_equal(pixels(image), np.asarray(zoo.scene()))
    assert any("first" in note for note in image.notes)


def test_a_large_jpeg_keeps_its_resolution():
    assert load_image(zoo.encode(zoo.scene(2000, 1500), "JPEG")).size == (2000, 1500)


@pytest.mark.parametrize("format_name", ["HEIF", "AVIF"])
def test_heic_and_avif_load_where_the_libraries_are(format_name):
    if format_name not in PIL.Image.SAVE:
        pytest.skip(f"this installation does not write {format_name}")
    image = load_image(zoo.encode(zoo.scene(64, 48), format_name, quality=95))
    difference = np.abs(pixels(image).astype(int) - np.asarray(zoo.scene(64, 48)).astype(int))
    assert difference.mean() < 8


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    if "HEIF" not in PIL.Image.SAVE:
        pytest.skip("this installation does not write HEIC")
    data = zoo.encode(zoo.scene(64, 48), "HEIF")
    monkeypatch.setattr(images, "HEIC_SUPPORTED", False)
    monkeypatch.setattr(images, "FORMATS", tuple(f for f in images.FORMATS if f != "HEIF"))
    with pytest.raises(ImageError, match="pillow-heif"):
        load_image(data)


# Sources and identity


def test_path_string_and_bytes_are_the_same_image(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(zoo.encode(zoo.scene(), "PNG"))
    loaded = [load_image(path), load_image(str(path)), load_image(path.read_bytes())]
    assert len({image.id for image in loaded}) == 1
    assert [image.name for image in loaded] == ["photo.png", "photo.png", "image"]


def test_a_pil_image_is_copied_and_known_by_its_pixels():
    source = zoo.scene()
    first, again = load_image(source), load_image(source.copy())
    assert first.id == again.id and len(first.id) == 64
    source.putpixel((3, 4), (1, 2, 3))
    assert load_image(source).id != first.id  # one pixel
    assert np.array_equal(pixels(first), np.asarray(zoo.scene()))  # ours did not change
    turned = PIL.Image.frombytes("RGB", (32, 48), zoo.scene().tobytes())
    assert load_image(turned).id != first.id  # the same bytes in another shape


def test_a_truncated_lazy_pil_image_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(zoo.BAD_IMAGES["truncated.png"]())
    with PIL.Image.open(path) as lazy, pytest.raises(ImageError, match="damaged"):
        load_image(lazy)


# Files, folders and patterns


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.webp", "odd[1].jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_find_images(folder, monkeypatch):
    direct = ["a.png", "b.JPG", "odd[1].jpg"]
    assert names(find_images([str(folder)]), folder) == direct
    assert names(find_images([f"{folder}/*"]), folder) == direct
    assert names(find_images([f"{folder}/**/*"]), folder) == [
        "a.png",
        "b.JPG",
        "deep/c.webp",
        direct[2],
    ]
    assert names(find_images([f"{folder}/odd[1].jpg"]), folder) == ["odd[1].jpg"]
    assert names(find_images([f"{folder}/notes.txt"]), folder) == ["notes.txt"]  # named: taken
    assert names(find_images([folder, folder / "a.png", f"{folder}/*.png"]), folder) == direct
    monkeypatch.chdir(folder)
    assert find_images(["deep/../a.png", "*.png"]) == [Path("a.png")]


@pytest.mark.parametrize("argument", ["missing.jpg", "*.bmp", "empty", "[", "x\0y", "**a/*.jpg"])
def test_an_argument_that_means_nothing(folder, monkeypatch, argument):
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ImageError) as caught:
        find_images(["a.png", argument])
    assert_one_sentence(caught.value)


# Tensors, against torchvision

SIZES = [(800, 1333), (640, 640), (320, 512), (128, 128)]


def test_to_tensor_is_torchvisions():
    image = load_image(zoo.scene(37, 21))
    tensor = images.to_tensor(image)
    assert tensor.shape == (3, 21, 37) and tensor.dtype == torch.float32
    assert torch.equal(tensor, torchvision_functional.to_tensor(image.pil))
    assert images.to_tensor(zoo.scene(5, 4).convert("L")).shape == (3, 4, 5)  # made RGB first


@pytest.mark.parametrize(("min_size", "max_size"), [(96, 160), (64, 64), (61, 200)])
def test_the_whole_transform_is_bit_equal_to_torchvisions(min_size, max_size):
    rng = torch.Generator().manual_seed(0)
    transform = reference.GeneralizedRCNNTransform(
        min_size, max_size, list(images.IMAGE_MEAN), list(images.IMAGE_STD)
    ).eval()
    shapes = [(40, 60), (60, 40), (33, 33), (7, 90), (200, 31), (160, 96), (1, 3)]
    tensors = [torch.rand(3, *shape, generator=rng) for shape in shapes]
    kept = [tensor.clone() for tensor in tensors]
    expected, _ = transform(tensors)
    ours = [images.resize(images.normalize(tensor), min_size, max_size) for tensor in tensors]
    batch = images.batch_images(ours)
    assert torch.equal(batch, expected.tensors)
    assert [tuple(tensor.shape[-2:]) for tensor in ours] == expected.image_sizes
    assert images.padded_size(expected.image_sizes) == tuple(expected.tensors.shape[-2:])
    assert all(map(torch.equal, tensors, kept))  # nothing was changed in place


def test_480x640_floors_to_1066():
    assert images.resized_size((480, 640), 800, 1333) == (800, 1066)


def test_resized_size_is_what_torchvision_makes_of_many_sizes():
    rng = random.Random(0)
    for _ in range(200):
        size = (rng.randint(1, 400), rng.randint(1, 400))
        min_size = rng.randint(32, 96)
        max_size = rng.randint(min_size, 160)
        if min(size) * max_size < max(size):
            continue  # a side would vanish: the next test
        image = torch.zeros(1, *size)
        resized, _ = reference._resize_image_and_masks(image, min_size, max_size)
        assert images.resized_size(size, min_size, max_size) == tuple(resized.shape[-2:])


def test_resized_size_is_the_reference_formula_at_real_sizes():
    rng = random.Random(1)
    for _ in range(20_000):
        size = (rng.randint(1, 8000), rng.randint(1, 8000))
        min_size, max_size = rng.choice(SIZES)
        scale = min(min_size / min(size), max_size / max(size))
        expected = (int(size[0] * scale), int(size[1] * scale))
        if min(expected) > 0:
            assert images.resized_size(size, min_size, max_size) == expected


def test_a_side_that_would_vanish_is_refused_and_one_pixel_is_not():
    assert images.resized_size((10, 10_000), 800, 1333) == (1, 1333)
    assert images.resize(torch.rand(3, 10, 10_000), 800, 1333).shape == (3, 1, 1333)
    for call in (
        lambda: images.resized_size((10, 10_000), 320, 320),
        lambda: images.resize(torch.rand(3, 10, 10_000), 320, 320),
        lambda: images.resized_size((0, 5), 320, 320),
    ):
        with pytest.raises(ImageError) as caught:
            call()
        assert_one_sentence(caught.value)


def test_resize_boxes_is_torchvisions():
    boxes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 500
    for pair in (((480, 640), (800, 1066)), ((800, 1066), (480, 640)), ((7, 9), (7, 9))):
        assert torch.equal(images.resize_boxes(boxes, *pair), reference.resize_boxes(boxes, *pair))
    assert images.resize_boxes(torch.zeros(0, 4), (4, 4), (8, 8)).shape == (0, 4)
