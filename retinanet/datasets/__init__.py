"""Data sets as people have them: opened, unpacked, converted to COCO form, and checked."""

from retinanet.datasets.archives import ArchiveLimits, extract_zip
from retinanet.datasets.checking import check_dataset
from retinanet.datasets.opening import OpenedDataset, find_splits, open_dataset, save_dataset
from retinanet.datasets.report import DatasetReport, Finding

__all__ = [
    "ArchiveLimits",
    "DatasetReport",
    "Finding",
    "OpenedDataset",
    "check_dataset",
    "extract_zip",
    "find_splits",
    "open_dataset",
    "save_dataset",
]
