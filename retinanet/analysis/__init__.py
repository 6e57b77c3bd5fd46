"""What a detector gets wrong on a data set, and what its anchors can reach there."""

from retinanet.analysis.confusion import Confusion, confusion
from retinanet.analysis.dataset_coverage import DatasetCoverage, dataset_coverage
from retinanet.analysis.error_types import ErrorTypes, error_types
from retinanet.analysis.matching import Matching, match_results
from retinanet.analysis.score_split import ScoreSplit, score_split
from retinanet.analysis.worst import image_fates, worst_images

__all__ = [
    "Confusion",
    "DatasetCoverage",
    "ErrorTypes",
    "Matching",
    "ScoreSplit",
    "confusion",
    "dataset_coverage",
    "error_types",
    "image_fates",
    "match_results",
    "score_split",
    "worst_images",
]
