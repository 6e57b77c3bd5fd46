"""A tiny COCO data set of coloured rectangles, written to a folder."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {1: (200, 40, 40), 7: (40, 60, 200)}  # category id -> colour; ids with a gap, as COCO's


def write_shapes(folder: Path, photos: int = 4, size: tuple[int, int] = (96, 72)) -> Path:
    """Write `photos` images and return the annotation file; images lie in `folder / images`."""
    draw_from = random.Random(7)
    (folder / "images").mkdir(parents=True)
    data = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "blue"}, {"id": 1, "name": "red"}],
    }
    for image_id in range(photos):
        picture = Image.new("RGB", size, (110, 120, 110))
        for category_id in (1, 7):
            w, h = draw_from.randint(28, 40), draw_from.randint(24, 34)
            x, y = draw_from.randint(0, size[0] - w), draw_from.randint(0, size[1] - h)
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), COLOURS[category_id])
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        name = f"{image_id:03}.png"
        picture.save(folder / "images" / name)
        data["images"].append(
            {"id": image_id, "file_name": name, "width": size[0], "height": size[1]}
        )
    annotation_file = folder / "instances.json"
    annotation_file.write_text(json.dumps(data))
    return annotation_file
