"""Starting from a detector of another shape: what fits is taken bit by bit, the rest is fresh."""

import pytest
import torch

from retinanet.checkpoints import CheckpointError, open_checkpoint, save_checkpoint
from retinanet.coco import load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.partial_loading import CLS_LAYER, load_what_fits
from retinanet.training_start import start_model
from tests.shapes import write_shapes

SHAPE = {"depth": 18, "num_classes": 2, "num_convs": 2, "min_size": 64, "max_size": 96}
BODY = ("stem", "layer1", "layer2", "layer3", "layer4")


def convolutions(numbers):
    """Of both subnets."""
    return [f"{head}_head.conv.{i}" for head in ("classification", "regression") for i in numbers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def dataset(folder):
    return load_coco(write_shapes(folder / "shapes", photos=1), folder / "shapes" / "images")


@pytest.fixture(scope="module")
def detector(folder):
    """A file whose every value is a trace of itself: nothing fresh is equal to it."""
    torch.manual_seed(1)
    model = RetinaNet(ModelConfig(**SHAPE, norm_eps=1e-3), ("red", "blue"), (1, 7))
    for value in model.state_dict().values():
        value.uniform_(1, 2)
    path = folder / "detector.safetensors"
    save_checkpoint(model, path, dtype=torch.float32, card={})
    return path


def started(dataset, detector, prior=0.2, **settings):
    shape = ModelConfig(**SHAPE | settings)
    return start_model(shape, dataset, prior=prior, init_from=str(detector))


def equal_layers(model, detector):
    """{parameter or buffer: whether it is the detector's}."""
    theirs = open_checkpoint(detector).state_dict
    return {
        name: name in theirs and torch.equal(value, theirs[name])
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def test_a_detector_of_the_same_shape_is_taken_whole(dataset, detector):
    model, load = started(dataset, detector)
    assert all(equal_layers(model, detector).values())
    assert load.fresh == ()
    assert not load.fresh_logits
    assert model.config.norm_eps == 1e-3  # a fact about its weights
    assert load.sentence == (
        "detector.safetensors: took stem, layer1, layer2, layer3, layer4, fpn, "
        "classification_head, regression_head; fresh: nothing."
    )


@pytest.mark.parametrize(
    ("settings", "fresh", "identity"),
    [
        ({"num_convs": 4}, [], convolutions("23")),
        ({"num_convs": 1}, [], []),
        # Basic blocks of depth 34: more in every stage; the stem and the pyramid are the same.
        ({"depth": 34}, list(BODY[1:]), []),
        ({"depth": 34, "num_convs": 3}, list(BODY[1:]), convolutions("2")),
        # v2 takes P6 from C5 (512 channels) and has GroupNorm in the subnets.
        ({"variant": "v2"}, ["fpn.extra_blocks.p6", *convolutions("01")], []),
        # Behind fresh convolutions the identity would keep nothing.
        ({"variant": "v2", "num_convs": 3}, ["fpn.extra_blocks.p6", *convolutions("012")], []),
    ],
)
def test_a_layer_is_taken_whole_or_not_at_all(dataset, detector, settings, fresh, identity):
    model, load = started(dataset, detector, **settings)
    assert list(load.fresh) == fresh
    assert list(load.identity) == identity
    assert not {*load.taken} & {*fresh, *identity}
    own = [*fresh, *identity]
    for name, same in equal_layers(model, detector).items():
        stays = any(f".{layer}." in f".{name.removeprefix('backbone.body.')}" for layer in own)
        stays |= any(f"{layer}." in name for layer in own)
        assert same != stays, name


def test_the_sentence_names_the_identities(dataset, detector):
    _, load = started(dataset, detector, num_convs=3)
    assert load.sentence == (
        "detector.safetensors: took stem, layer1, layer2, layer3, layer4, fpn, "
        "classification_head, regression_head; as the identity: classification_head.conv.2, "
        "regression_head.conv.2; fresh: nothing."
    )


def test_other_classes_leave_the_logits_fresh_at_the_prior(dataset, folder, detector):
    other = RetinaNet(ModelConfig(**SHAPE), ("red", "blue"), (1, 8))
    other_ids = folder / "other.safetensors"
    save_checkpoint(other, other_ids, card={})
    wide = folder / "wide.safetensors"
    save_checkpoint(RetinaNet(ModelConfig(**SHAPE | {"num_classes": 5})), wide, card={})
    for source in (other_ids, wide):
        model, load = started(dataset, source)
        assert load.fresh == (CLS_LAYER,)
        bias = model.head.classification_head.cls_logits.bias
        assert torch.allclose(bias.sigmoid(), torch.tensor(0.2))
        assert model.category_ids == (1, 7)
    taken, _ = started(dataset, detector)  # trained logits keep what they have learned
    assert taken.head.classification_head.cls_logits.bias.min() >= 1


def test_weights_are_taken_whole_and_keep_their_bias(dataset, detector):
    model, load = start_model(ModelConfig(**SHAPE), dataset, prior=0.2, weights=str(detector))
    assert load is None
    assert all(equal_layers(model, detector).values())
    with pytest.raises(CheckpointError, match="num_convs is 2 in the file and 1"):
        start_model(ModelConfig(**SHAPE | {"num_convs": 1}), dataset, weights=str(detector))


def test_nothing_can_be_taken_from_random_numbers():
    with pytest.raises(CheckpointError, match="name a detector"):
        load_what_fits(RetinaNet(ModelConfig(**SHAPE)), open_checkpoint("random"))


def test_the_seed_decides_what_stays_fresh(dataset, detector):
    def logits(seed):
        model, _ = start_model(ModelConfig(**SHAPE), dataset, seed=seed)
        return model.head.classification_head.cls_logits.weight

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
