"""What evaluating costs: `python -m tests.measure_evaluate [--images 200] [--synthetic 5000]`.

(a) The network's pass over some photos, and a sweep of 100 settings after it, as a ratio.
(b) The resident memory while a tiny model stores and sweeps thousands of photos.
(c) How many photos are lost when the pass is killed in the middle.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import PIL.Image
import torch

from retinanet.checkpoints import load_model
from retinanet.coco import CocoDataset, load_coco
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet
from retinanet.samples import SAMPLES, load_sample
from retinanet.sweeps import DEFAULT_GRID, CandidateStore, Grid, StoreProgress, model_key, sweep


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="photos of (a)")
    parser.add_argument("--synthetic", type=int, default=5000, help="photos of (b)")
    parser.add_argument("--only", choices=("a", "b", "c"))
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fill:
        fill_forever(args.fill)
        return
    for name, measure in (
        ("a", lambda folder: measure_ratio(folder, args.images)),
        ("b", lambda folder: measure_memory(folder, args.synthetic)),
        ("c", measure_kill),
    ):
        if args.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder))


def write_crops(folder: Path, count: int, model: RetinaNet) -> CocoDataset:
    """Seeded crops of the sample photos with what is visible of their boxes."""
    draw = random.Random(0)
    ids = dict(zip(model.categories, model.category_ids, strict=True))
    (folder / "images").mkdir(parents=True)
    data = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": own, "name": name} for name, own in ids.items()]
    for image_id in range(count):
        sample = SAMPLES[image_id % len(SAMPLES)]
        picture = load_sample(sample.key).pil
        scale = draw.uniform(0.6, 1)
        width, height = (max(32, round(side * scale)) for side in picture.size)
        left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
        name = f"{image_id:05}.jpg"
        corners = (left, top, left + width, top + height)
        picture.crop(corners).save(folder / "images" / name, quality=90)
        entry = {"id": image_id, "file_name": name, "width": width, "height": height}
        data["images"].append(entry)
        for box in sample.boxes:
            x1, y1 = max(box.x1 - left, 0), max(box.y1 - top, 0)
            x2, y2 = min(box.x2 - left, width), min(box.y2 - top, height)
            if x2 - x1 > 8 and y2 - y1 > 8:
                annotation = {"image_id": image_id, "category_id": ids[box.category]}
                data["annotations"].append(annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    (folder / "instances.json").write_text(json.dumps(data))
    return load_coco(folder / "instances.json", folder / "images")


def write_noise(folder: Path, count: int) -> CocoDataset:
    """Small photos of noise with a box each."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True)
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for image_id in range(count):
        name = f"{image_id:05}.png"
        PIL.Image.frombytes("RGB", (64, 48), draw.randbytes(64 * 48 * 3)).save(
            folder / "images" / name
        )
        data["images"].append({"id": image_id, "file_name": name, "width": 64, "height": 48})
        box = [draw.randint(0, 30), draw.randint(0, 20), 30, 25]
        data["annotations"].append({"image_id": image_id, "category_id": 1, "bbox": box})
    (folder / "instances.json").write_text(json.dumps(data))
    return load_coco(folder / "instances.json", folder / "images")


def tiny_model() -> RetinaNet:
    """A random network; its scores are all near .01."""
    torch.manual_seed(0)
    config = ModelConfig(depth=18, num_classes=1, num_convs=1, min_size=64, max_size=96)
    return RetinaNet(config, ("thing",), (1,)).eval()


def measure_ratio(folder: Path, count: int) -> None:
    """(a)."""
    model = load_model("embedded", device="cpu")
    dataset = write_crops(folder / "data", count, model)
    started, cpu = time.perf_counter(), time.process_time()
    store = CandidateStore.fill(folder / "store", model, dataset, key=model_key(model))
    network, network_cpu = time.perf_counter() - started, time.process_time() - cpu
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    started, cpu = time.perf_counter(), time.process_time()
    swept = sweep(store, dataset, DEFAULT_GRID)
    seconds, sweep_cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"(a) {count} photos: network {network:.1f} s ({network / count:.3f} s a photo)")
    print(f"    on disk {size / 1e6:.1f} MB, {size / count / 1e3:.0f} kB a photo")
    print(f"    sweep of {len(swept.rows)} settings {seconds:.1f} s; ratio {seconds / network:.2f}")
    print(f"    processor seconds: {network_cpu:.1f} and {sweep_cpu:.1f}")
    print(f"    matched detections {swept.matched.nbytes / 1e6:.1f} MB")
    best = swept.best("f1")
    print(f"    best F1 {best.counts.f1:.3f} at {best.config.to_dict()}")


def resident() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure_memory(folder: Path, count: int) -> None:
    """(b)."""
    dataset = write_noise(folder / "data", count)
    model = tiny_model()
    print(f"(b) {count} photos; at the start {resident():.0f} MB")

    def tell(what: str) -> object:
        def told(at: StoreProgress) -> None:
            if at.done and at.done % 500 == 0:
                print(f"    {what} {at.done}: {resident():.0f} MB", flush=True)

        return told

    store = CandidateStore.fill(folder / "store", model, dataset, key="t", progress=tell("stored"))
    grid = Grid((0.01, 0.011, 0.012), (0.3, 0.5, 0.7))
    swept = sweep(store, dataset, grid, progress=tell("swept"))
    print(f"    of which matched detections {swept.matched.nbytes / 1e6:.0f} MB")


def fill_forever(folder: Path) -> None:
    """The pass that (c) kills; it says which photos it has done."""
    dataset = load_coco(folder / "data" / "instances.json", folder / "data" / "images")
    CandidateStore.fill(
        folder / "store",
        tiny_model(),
        dataset,
        key="t",
        progress=lambda at: print(at.done, flush=True),
    )


def measure_kill(folder: Path) -> None:
    """(c)."""
    dataset = write_noise(folder / "data", 200)
    command = [sys.executable, "-m", "tests.measure_evaluate", "--fill", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            done = int(line)
            if done >= 60:
                process.send_signal(signal.SIGKILL)
                break
    seen: list[StoreProgress] = []
    CandidateStore.fill(folder / "store", tiny_model(), dataset, key="t", progress=seen.append)
    lost = max(0, done - seen[0].found)
    print(f"(c) killed after photo {done}: {seen[0].found} on disk, {lost} lost")
    print(f"    the next pass ran the other {len(seen) - 1}")


if __name__ == "__main__":
    main()
