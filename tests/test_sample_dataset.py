"""The sample photos as a data set."""

from retinanet.checkpoints import official_categories
from retinanet.cli.evaluate import check_categories
from retinanet.coco import open_photo
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.sample_dataset import make_sample_dataset
from retinanet.samples import SAMPLES, load_sample


def test_every_sample_is_there_with_its_boxes_and_cocos_ids(tmp_path):
    dataset = make_sample_dataset(tmp_path)
    again = make_sample_dataset(tmp_path)  # on top of itself
    assert len(dataset.photos) == len(again.photos) == len(SAMPLES)
    assert len(dataset.categories) == 80
    names, _ = official_categories()
    for photo, sample in zip(dataset.photos, SAMPLES, strict=True):
        assert open_photo(photo).id == load_sample(sample.key).id
        assert photo.target.boxes.tolist() == [list(box.xyxy) for box in sample.boxes]
        told = [dataset.category_ids[label] for label in photo.target.labels]
        assert [names[index] for index in told] == [box.category for box in sample.boxes]
    official = RetinaNet(ModelConfig(depth=18, num_convs=1), names)
    check_categories(official.category_ids, dataset.category_ids)
