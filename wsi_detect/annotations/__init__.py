"""Labels in: a vendor's file and a data card's class map → `annotations.parquet`."""

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.facts import SlideFacts, SourceFacts
from wsi_detect.annotations.importer import IMPORTERS, import_annotations
from wsi_detect.annotations.rules import ImportRules, VoteRule

__all__ = [
    "IMPORTERS",
    "Annotation",
    "ClassMap",
    "ImportRules",
    "SlideFacts",
    "SourceFacts",
    "VoteRule",
    "import_annotations",
]
