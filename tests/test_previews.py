"""Pictures of predictions: fixed photos, small, with the truth dashed."""

from dataclasses import replace

import PIL.Image
import pytest
import torch

from retinanet.coco import Target, load_coco
from retinanet.config import ModelConfig
from retinanet.figures.palette import GROUND_TRUTH
from retinanet.model import RetinaNet
from retinanet.previews import MAX_SIDE, draw_preview, preview_photos, write_previews
from tests.shapes import write_shapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    annotations = write_shapes(folder / "shapes", photos=6, size=(720, 360))
    return load_coco(annotations, folder / "shapes" / "images")


@pytest.fixture(scope="module")
def model(dataset):
    torch.manual_seed(0)
    shape = ModelConfig(depth=18, num_classes=2, num_convs=1, min_size=64, max_size=128)
    return RetinaNet(shape, dataset.categories, dataset.category_ids).eval()


def test_the_photos_are_always_the_same_and_have_objects(dataset):
    chosen = preview_photos(dataset)
    assert [photo.image_id for photo in chosen] == [0, 1, 3, 4]
    assert preview_photos(dataset) == chosen
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    first, *others = dataset.photos
    sparse = replace(dataset, photos=(replace(first, target=nothing), *others))
    assert 0 not in [photo.image_id for photo in preview_photos(sparse)]
    empty = replace(dataset, photos=(replace(first, target=nothing),))
    assert len(preview_photos(empty)) == 1


def test_the_files_are_small_jpegs_named_by_the_step(dataset, model, tmp_path):
    paths = write_previews(model, preview_photos(dataset), tmp_path, 200)
    assert [path.name for path in paths] == [f"000200-{index}.jpg" for index in range(4)]
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)  # no unfinished file stays
    for path in paths:
        with PIL.Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (MAX_SIDE, 240))


def test_the_truth_is_dashed_where_it_is(dataset, model):
    photo = dataset.photos[0]
    picture = draw_preview(model, photo)  # a fresh model says 0.01 everywhere: no box above 0.2
    colour = PIL.ImageColor.getrgb(GROUND_TRUTH)
    for x1, y1, x2, y2 in (photo.target.boxes * MAX_SIDE / 720).round().int().tolist():
        edge = [picture.getpixel((x, y1)) == colour for x in range(x1, x2)]
        assert 0.4 < sum(edge) / len(edge) < 0.9  # dashes of 6 pixels with gaps of 4
        middle = ((x1 + x2) // 2, (y1 + y2) // 2)
        assert picture.getpixel(middle) != colour


def test_what_the_model_says_is_drawn_and_nothing_weak(dataset, model):
    photo = dataset.photos[0]
    quiet = draw_preview(model, photo)
    loud = RetinaNet(model.config, model.categories, model.category_ids).eval()
    torch.nn.init.constant_(loud.head.classification_head.cls_logits.bias, 1.0)
    assert draw_preview(loud, photo).tobytes() != quiet.tobytes()
