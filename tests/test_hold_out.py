"""A data set split in two by photos."""

import pytest

from retinanet.coco import DatasetError, load_coco
from retinanet.hold_out import hold_out
from tests.shapes import write_shapes


@pytest.mark.parametrize(("share", "aside"), [(0.2, 2), (0.01, 1), (0.5, 5)])
def test_each_photo_is_in_one_part_with_its_boxes(tmp_path, share, aside):
    whole = load_coco(write_shapes(tmp_path, photos=10), tmp_path / "images")
    parts = hold_out(whole, tmp_path / "images", tmp_path, share=share, seed=3)
    assert [len(part.photos) for part in parts] == [10 - aside, aside]
    found = {photo.image_id: photo for part in parts for photo in part.photos}
    assert len(found) == 10
    for photo in whole.photos:
        assert found[photo.image_id].target.boxes.tolist() == photo.target.boxes.tolist()
    again = hold_out(whole, tmp_path / "images", tmp_path, share=share, seed=3)
    other = hold_out(whole, tmp_path / "images", tmp_path, share=share, seed=4)
    chosen = [{p.image_id for p in pair[1].photos} for pair in (parts, again, other)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_one_photo_cannot_be_split(tmp_path):
    whole = load_coco(write_shapes(tmp_path, photos=1), tmp_path / "images")
    with pytest.raises(DatasetError, match="One photo"):
        hold_out(whole, tmp_path / "images", tmp_path)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    whole = load_coco(write_shapes(tmp_path, photos=4), tmp_path / "images")
    with pytest.raises(DatasetError, match="cannot be written"):
        hold_out(whole, tmp_path / "images", tmp_path / "missing")
