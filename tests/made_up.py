"""A data set of boxes on grey photos, and the candidates of a made-up network that sees them."""

import json
import random
from dataclasses import replace

import PIL.Image
import torch
from torchvision.ops import box_iou

from retinanet.coco import CocoDataset, load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.sweeps import CandidateStore


def write_boxes(folder, photos=6, size=(160, 120)) -> CocoDataset:
    """Grey photos with boxes of three classes and all COCO sizes, some of them crowds."""
    draw = random.Random(3)
    (folder / "images").mkdir(parents=True)
    data = {"images": [], "annotations": []}
    data["categories"] = [{"id": own, "name": name} for own, name in ((2, "a"), (5, "b"), (9, "c"))]
    for image_id in range(photos):
        name = f"{image_id}.png"
        PIL.Image.new("RGB", size, (image_id, 90, 90)).save(folder / "images" / name)
        entry = {"id": image_id * 3 + 1, "file_name": name, "width": size[0], "height": size[1]}
        data["images"].append(entry)
        for _ in range(draw.randint(2, 6)):
            width, height = draw.choice([(20, 20), (50, 40), (110, 100), (30, 60)])
            annotation = {"image_id": entry["id"], "category_id": draw.choice([2, 5, 9])}
            x, y = draw.randint(0, size[0] - width), draw.randint(0, size[1] - height)
            annotation |= {"bbox": [x, y, width, height], "iscrowd": int(draw.random() < 0.15)}
            data["annotations"].append(annotation)
    (folder / "instances.json").write_text(json.dumps(data))
    return load_coco(folder / "instances.json", folder / "images")


def fill_store(folder, dataset, *, ties=True) -> CandidateStore:
    """What a network that sees the objects, not too well, and much else would have stored."""
    torch.manual_seed(0)
    config = ModelConfig(depth=18, num_classes=4, num_convs=1, min_size=64, max_size=96)
    model = RetinaNet(config, (None, "a", "c", "b"), (0, 2, 9, 5)).eval()
    truths = {photo.path.name: photo.target for photo in dataset.photos}
    label_of = {2: 1, 9: 2, 5: 3}

    @torch.no_grad()
    def forward(image):
        outputs = model(image)
        target = truths[image.name]
        noise = torch.Generator().manual_seed(int(image.id[:6], 16))
        scale = outputs.image_size[1] / image.size[0]
        logits = []
        for anchors in outputs.anchors:
            own = torch.randn(len(anchors), 4, generator=noise) * 1.2 - 4.5
            for box, label in zip(target.boxes, target.labels, strict=True):
                near = box_iou(anchors, box[None] * scale)[:, 0]
                model_label = label_of[dataset.category_ids[label]]
                own[:, model_label] += (near * 8).clamp(min=2) - 2
            logits.append((own * 50).round() / 50 if ties else own)
        deltas = [torch.randn(len(own), 4, generator=noise) / 5 for own in outputs.anchors]
        return replace(outputs, cls_logits=logits, bbox_regression=deltas)

    return CandidateStore.fill(folder, forward, dataset, key="k", score_floor=0.02, topk=400)
