"""Data sets as people have them: layouts, and conversion to COCO form."""

import json
import random
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from retinanet.coco import DatasetError, load_coco
from retinanet.datasets import (
    check_dataset,
    find_splits,
    open_dataset,
)
from retinanet.datasets.layouts import find_layout, split_names
from retinanet.datasets.listing import Listing
from retinanet.datasets.opening import _file_names
from tests.shapes import write_shapes

SIZE = (96, 72)


def photo(path: Path, size=SIZE, color=(90, 90, 90), **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **save)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def voc_xml(objects, name="a.jpg", size=SIZE):
    """VOC's pixels count from 1 and the last is inside: (x1, y1, x2, y2) of ours."""
    parts = [
        f"<object><name>{category}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for category, (x1, y1, x2, y2) in objects
    ]
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{sides}{''.join(parts)}</annotation>"


def yolo_line(number, box, size=SIZE):
    x1, y1, x2, y2 = box
    columns = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1])
    columns += ((x2 - x1) / size[0], (y2 - y1) / size[1])
    return f"{number} {' '.join(f'{column:.8f}' for column in columns)}\n"


def random_truth(photos=6, seed=5):
    """{photo's stem: [(class number, box in whole pixels)]}, one without an object."""
    draw = random.Random(seed)

    def box():
        x, y = draw.randint(0, 60), draw.randint(0, 40)
        return (x, y, x + draw.randint(4, 96 - x), y + draw.randint(4, 72 - y))

    truth = {f"p{i}": [(draw.randrange(3), box()) for _ in range(i)] for i in range(photos)}
    truth["p1"] = [(0, (0, 0, 96, 72))]
    return truth


NAMES = ("wheel", "bolt", "nut")


def write_yolo(folder: Path, truth, *, roboflow=False) -> Path:
    for i, (name, objects) in enumerate(truth.items()):
        split = ("train", "valid")[i % 2]
        place = (split, "{}") if roboflow else ("{}", split)
        photo(folder.joinpath(*(p.format("images") for p in place), f"{name}.png"))
        lines = "".join(yolo_line(*one) for one in objects)
        text(folder.joinpath(*(p.format("labels") for p in place), f"{name}.txt"), lines)
    text(folder / "data.yaml", f"train: ../x\nnames: {list(NAMES)}\n")
    return folder


def write_voc(folder: Path, truth) -> Path:
    for name, objects in truth.items():
        photo(folder / "JPEGImages" / f"{name}.jpg")
        named = [(NAMES[number], box) for number, box in objects]
        text(folder / "Annotations" / f"{name}.xml", voc_xml(named, f"{name}.jpg"))
    stems = list(truth)
    text(folder / "ImageSets" / "Main" / "train.txt", "\n".join(stems[::2]))
    text(folder / "ImageSets" / "Main" / "val.txt", "\n".join(stems[1::2]) + "\n")
    text(folder / "ImageSets" / "Main" / "wheel_train.txt", "p0 -1\np2 1\n")
    return folder


def objects_of(opened):
    """{photo's stem: sorted (name, box in whole pixels)} by pycocotools."""
    api = COCO()
    api.dataset = json.loads(opened.coco.annotation_file.read_text())
    api.createIndex()
    found = {}
    for image in api.loadImgs(api.getImgIds()):
        own = api.loadAnns(api.getAnnIds(image["id"]))
        found[Path(image["file_name"]).stem] = sorted(
            (api.cats[a["category_id"]]["name"], tuple(round(v, 3) for v in a["bbox"])) for a in own
        )
    return found


def expected(truth, stems):
    return {
        stem: sorted((NAMES[n], (x1, y1, x2 - x1, y2 - y1)) for n, (x1, y1, x2, y2) in truth[stem])
        for stem in stems
    }


@pytest.mark.parametrize("roboflow", [False, True])
def test_yolo_gives_the_boxes_that_were_written(tmp_path, roboflow):
    truth = random_truth()
    source = write_yolo(tmp_path / "yolo", truth, roboflow=roboflow)
    assert find_splits(source) == ("train", "val")
    train = open_dataset(source, tmp_path / "work")
    val = open_dataset(source, tmp_path / "work", split="valid")
    assert (train.layout, train.split, val.split) == ("yolo", "train", "val")
    assert objects_of(train) == expected(truth, ["p0", "p2", "p4"])
    assert objects_of(val) == expected(truth, ["p1", "p3", "p5"])
    assert train.coco.categories == val.coco.categories == NAMES
    ids = [{p.image_id for p in one.coco.photos} for one in (train, val)]
    assert not ids[0] & ids[1]
    again = load_coco(train.coco.annotation_file, train.folder)
    assert again.report == train.coco.report
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == [
        "instances_train.json",
        "instances_val.json",
    ]


def test_voc_gives_the_boxes_that_were_written_and_its_lists_are_the_splits(tmp_path):
    truth = random_truth()
    source = write_voc(tmp_path / "VOC2007", truth)
    assert find_splits(source) == ("train", "val")
    train = open_dataset(source, tmp_path / "work")
    val = open_dataset(source, tmp_path / "work", split="val")
    assert objects_of(train) == expected(truth, ["p0", "p2", "p4"])
    assert objects_of(val) == expected(truth, ["p1", "p3", "p5"])
    used = {NAMES[n] for objects in truth.values() for n, _ in objects}
    assert train.coco.categories == val.coco.categories == tuple(sorted(used))
    wanted = open_dataset(source, tmp_path / "work", class_names=["nut"])
    only = {stem: [o for o in own if o[0] == "nut"] for stem, own in objects_of(train).items()}
    assert objects_of(wanted) == only
    assert any("not asked for" in note for note in wanted.notes)


def test_side_by_side_yolo_without_a_class_list_numbers_its_classes(tmp_path):
    photo(tmp_path / "set" / "a.png")
    photo(tmp_path / "set" / "b.png")
    text(tmp_path / "set" / "a.txt", yolo_line(2, (10, 20, 30, 50)))
    opened = open_dataset(tmp_path / "set", tmp_path / "work")
    assert opened.splits == ("all",)
    assert opened.coco.categories == ("class 0", "class 1", "class 2")
    assert objects_of(opened) == {"a": [("class 2", (10, 20, 20, 30))], "b": []}
    assert any("no class list" in note for note in opened.notes)
    assert any("1 photo without a label file" in note for note in opened.notes)
    named = open_dataset(tmp_path / "set", tmp_path / "work", class_names=["x", "Dog", "z"])
    assert named.coco.categories == ("x", "dog", "z")


def test_a_turned_yolo_photo_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "set" / "a.jpg", (40, 80), exif=exif)
    text(tmp_path / "set" / "a.txt", "0 0.5 0.5 1 0.5\n")
    opened = open_dataset(tmp_path / "set", tmp_path / "work")
    (only,) = opened.coco.photos
    assert (only.width, only.height) == (80, 40)
    assert only.target.boxes.tolist() == [[0, 10, 80, 30]]
    assert check_dataset(opened.coco).counts["size_differs"] == 0


COCO_LAYOUTS = {
    "beside": ("instances.json", "images"),
    "coco": ("annotations/instances_train2017.json", "train2017"),
    "images/split": ("annotations/instances_train.json", "images/train"),
    "roboflow": ("train/_annotations.coco.json", "train"),
    "anywhere": ("meta/labels.json", "some/where/else"),
}


@pytest.mark.parametrize("layout", COCO_LAYOUTS)
def test_coco_is_read_where_it_lies_and_its_images_are_found(tmp_path, layout):
    name, images = COCO_LAYOUTS[layout]
    written = write_shapes(tmp_path / "made")
    source = tmp_path / "set"
    shutil.copytree(tmp_path / "made" / "images", source / images)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(written, source / name)
    photo(source / "other" / "000.png", (8, 8))  # a decoy of the same name
    text(source / "annotations" / "captions_train2017.json", written.read_text())
    text(source / "package.json", "{}")
    assert find_splits(source) == ("all",)
    opened = open_dataset(source, tmp_path / "work")
    assert opened.coco.report == load_coco(written, written.parent / "images").report
    assert opened.folder == source / images
    assert not (tmp_path / "work").exists()


def test_several_coco_files_are_splits_train_first(tmp_path):
    for split in ("test2017", "val2017", "train2017"):
        written = write_shapes(tmp_path / "made" / split, photos=2)
        shutil.copytree(written.parent / "images", tmp_path / "set" / split)
        target = tmp_path / "set" / "annotations" / f"instances_{split}.json"
        text(target, written.read_text())
    assert find_splits(tmp_path / "set") == ("train", "val", "test")
    assert open_dataset(tmp_path / "set", tmp_path / "w").folder.name == "train2017"
    assert open_dataset(tmp_path / "set", tmp_path / "w", split="test").folder.name == "test2017"
    with pytest.raises(DatasetError, match=r"no split 'best'; there is train, val, test"):
        open_dataset(tmp_path / "set", tmp_path / "w", split="best")


@pytest.mark.parametrize(
    ("called", "names"),
    [
        (["train2017", "val2017"], ["train", "val"]),
        (["valid", "my_train_set", "zoo"], ["train", "val", "zoo"]),
        (["train_a", "train_b"], ["train_a", "train_b"]),
        (["anything"], ["all"]),
    ],
)
def test_names_of_splits(called, names):
    assert list(split_names({name: name for name in called}).values()) == names


def test_two_folders_of_one_name_are_told_apart():
    found = split_names({"a/train": "train", "b/train": "train"})
    assert found == {"a/train": "a-train", "b/train": "b-train"}


def test_what_cannot_be_used_is_left_out_with_a_note(tmp_path):
    source = write_voc(tmp_path / "voc", random_truth())
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    text(source / "Annotations" / "p2.xml", bomb)
    text(source / "Annotations" / "p4.xml", voc_xml([], "p4.jpg", (50, 50)))
    text(source / "Annotations" / "gone.xml", voc_xml([], "gone.jpg"))
    (source / "ImageSets" / "Main" / "train.txt").write_text("p0\np2\np4\ngone\n")
    opened = open_dataset(source, tmp_path / "work")
    assert set(objects_of(opened)) == {"p0"}
    told = " ".join(opened.notes)
    assert "2 photos left out; the first: Annotations/p2.xml holds a DOCTYPE" in told
    assert "1 annotation file without an image left out, for example Annotations/gone.xml" in told


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "No annotations were found beside the 1 images"),
        ({"a.txt": "0 .1 .1 .2 .2 .3 .3 .4 .4"}, "columns in line 1, as polygons"),
        ({"a.txt": "0 5 5 2 2"}, "beyond 0 to 1"),
        ({"a.txt": "0 .5 .5 .1 .1", "data.yaml": "names: 7"}, "data.yaml: The class list"),
        ({"a.xml": voc_xml([], "../../secret.jpg"), "a.png": None}, "leads out of the data set"),
        ({"a.xml": voc_xml([], "C:\\x\\secret.jpg"), "a.png": None}, "leads out of the data set"),
        ({"a.xml": voc_xml([], "other.jpg"), "a.png": None}, "has its image beside it"),
        ({"a.xml": "<svg/>"}, "not Pascal VOC's 'annotation'"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_words(tmp_path, files, words):
    photo(tmp_path / "set" / "a.png")
    for name, content in files.items():
        if content is None:
            (tmp_path / "set" / name).rename(tmp_path / "set" / "z.png")
        else:
            text(tmp_path / "set" / name, content)
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path / "set", tmp_path / "work")
    assert not list((tmp_path).glob("work/*"))


def test_the_work_folder_of_another_data_set_is_not_overwritten(tmp_path):
    one = write_yolo(tmp_path / "one", random_truth())
    two = write_yolo(tmp_path / "two", random_truth(seed=6))
    first = open_dataset(one, tmp_path / "work")
    before = first.coco.annotation_file.read_bytes()
    with pytest.raises(DatasetError, match="another data set"):
        open_dataset(two, tmp_path / "work")
    with pytest.raises(DatasetError, match="lies in the data set"):
        open_dataset(one, one / "work")
    assert first.coco.annotation_file.read_bytes() == before


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    source = write_yolo(tmp_path / "set", random_truth())
    secret = photo(tmp_path / "secret.png")
    (source / "images" / "train" / "p0.png").unlink()
    (source / "images" / "train" / "p0.png").symlink_to(secret)
    with pytest.raises(DatasetError, match="leads out"):
        open_dataset(source, tmp_path / "work")
    label = source / "labels" / "train" / "p0.txt"
    label.unlink()
    label.symlink_to(text(tmp_path / "secret.txt", "0 .5 .5 .1 .1"))
    with pytest.raises(DatasetError, match="link out of its folder"):
        open_dataset(source, tmp_path / "work")


def test_many_folders_of_annotations_are_told_apart_at_once():
    names = tuple(f"{n}/Annotations/a.xml" for n in range(4000))
    began = time.perf_counter()
    layout = find_layout(Listing(names, lambda name, limit: b""))
    assert len(layout.splits) == 4000
    assert time.perf_counter() - began < 5  # 30 s and more where each looks at all names


def test_a_name_without_end_costs_the_search_no_memory(tmp_path):
    path = text(tmp_path / "a.json", '"file_name": "a\\"b", "file_name": "' + "ab" * 4_000_000)
    tracemalloc.start()
    assert list(_file_names(path)) == ['a"b']
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000  # 500 MB where the search remembers each sign
