# SPDX-License-Identifier: Apache-2.0
"""Every kind of finding: a stable id, how bad it is, what it means and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From bad to good: with an error training refuses the data or its figures are wrong, with a
warning it goes on and the result is likely worse, an info is good to know."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of finding.

    Attributes:
        id: group and name; it never changes its meaning.
        severity: of :data:`SEVERITIES`.
        meaning: what was found.
        advice: what to do about it.
    """

    id: str
    severity: Severity
    meaning: str
    advice: str


_ROWS: list[tuple[str, Severity, str, str]] = [
    # The annotation file
    ("file.unreadable", "error", "The annotations of a split cannot be read at all.",
     "Mend or replace the file at the place that the example names."),
    ("file.damaged", "error", "A label file of an image is missing or cannot be read.",
     "Mend or replace it; of an image without objects leave an empty one."),
    ("file.section", "error", "A list that the file must have is missing or is none.",
     "Write the lists images, annotations and categories."),
    ("file.row", "error", "An entry is not of the form that it must have.",
     "Write every entry with the fields of docs/data.md."),
    ("file.missing_field", "error", "An entry lacks a field that it must have.",
     "Add the field; without its value nothing can be told of the entry."),
    ("file.repeated_key", "error", "A key is given twice in one object: readers take either.",
     "Keep one of the two."),
    ("file.filled_in", "info", "Annotations lack id, area or iscrowd, which is filled in.",
     "Nothing: they get a number, the area of their box, and count as no crowd."),
    ("file.other_type", "info", "Values are of another form, such as 7.0 for 7 or a polygon.",
     "Nothing: they have one plain meaning and are read as that."),
    # Ids
    ("ids.wrong", "error", "An id is no integer of 64 bits.", "Give it an integer."),
    ("ids.duplicate_image", "error", "Two images have the same id.",
     "Number the images anew, and their annotations with them."),
    ("ids.duplicate_annotation", "error", "Two annotations have the same id.",
     "Number the annotations anew, or remove the copy."),
    ("ids.duplicate_category", "error", "Two categories have the same id.",
     "Give each category an id of its own, and correct its annotations."),
    ("ids.unknown_image", "error", "Annotations belong to an image that has no record.",
     "Add the record of the image, or remove these annotations."),
    ("ids.unknown_category", "error", "Annotations are of a category that is not declared.",
     "Declare the category, or correct the annotations."),
    ("ids.gaps", "info", "Category ids have gaps, as those of COCO have.",
     "Nothing: the model numbers its classes without gaps and keeps these ids for its results."),
    ("ids.from_zero", "info", "Category ids of COCO JSON begin at 0, where most begin at 1.",
     "Nothing: no id is taken for the background here; other toolkits may do so."),
    # Splits
    ("splits.missing", "warning", "There is no split to train on, or none to validate on.",
     "Let effdet convert-data --val-share set images apart, or make both splits yourself."),
    ("splits.classes_differ", "error", "A split has categories that the training split has not.",
     "Declare the same categories with the same ids in all splits."),
    ("splits.classes_renamed", "warning", "A category is named otherwise than in training.",
     "Name it the same in all splits, or make sure that it means the same."),
    ("splits.leakage_exact", "error", "The same image is in two splits: figures will be too good.",
     "Remove it from one of the splits."),
    ("splits.leakage_near", "warning", "Nearly the same image is in two splits.",
     "Look at the pairs; keep pictures of one scene in one split."),
    # Image files
    ("files.wrong_name", "error", "A file name leads out of the image folder or is none.",
     "Write paths relative to the image folder, with / between folders."),
    ("files.missing", "error", "The file of an image is not there.",
     "Bring the file, correct its name (capitals count), or remove the record."),
    ("files.link", "error", "A file or folder is a link that leads out of the data folder.",
     "Give --follow-links if you trust the links."),
    ("files.orphan", "warning", "Image files lie in the folder that no split has a record of.",
     "Label them, or move them elsewhere; they are not used."),
    ("files.listed_twice", "warning", "Two records of a split have the same file.",
     "Join the records: each of them lacks the boxes of the other."),
    ("files.case_collision", "warning", "File names differ in capitals alone.",
     "Rename one: on Windows and macOS they are the same file."),
    # Images
    ("images.size_unknown", "error", "Width or height of an image is missing or no number.",
     "Write the real width and height of the file."),
    ("images.size_differs", "error", "The recorded width and height are not those of the file.",
     "Correct the record; if the image was resized, its boxes must be too."),
    ("images.unreadable", "error", "An image cannot be decoded.",
     "Replace the file; JPEG, PNG, WebP, GIF, TIFF and BMP are read."),
    ("images.truncated", "error", "An image file ends in the middle.",
     "Copy or download it again."),
    ("images.too_large", "error", "An image has more pixels than --max-pixels.",
     "Make it smaller, with its boxes, or raise --max-pixels here and in training."),
    ("images.exif_turned", "info", "An image is stored turned, as its EXIF data says.",
     "Nothing: it is turned upright, as its recorded size is."),
    ("images.exif_unclear", "warning", "EXIF says turned, but the boxes may be of unturned pixels.",
     "Look at the boxes; best store the pixels upright and remove the EXIF orientation."),
    ("images.duplicate_exact", "warning", "Files of a split are the same, byte by byte.",
     "Keep one of them, with the boxes of both."),
    ("images.duplicate_near", "info", "Images of a split look nearly the same.",
     "Look at the pairs; many pictures of one scene count that scene many times."),
    ("images.uniform", "warning", "An image is of one colour.",
     "Look whether the file is damaged; remove it if so."),
    ("images.tiny", "warning", "A side of an image is below 32 pixels.",
     "Remove it if it is a thumbnail or a mistake."),
    ("images.extreme_shape", "warning", "An image is more than 5 times as long as wide.",
     "Cut it into tiles: scaled to the network's input its objects become very small."),
    ("images.odd_mode", "info", "An image is not plain 8-bit RGB or gray.",
     "Nothing: it is converted as docs/images.md says; look whether that is what you want."),
    ("images.more_frames", "info", "A file holds several frames or pages.",
     "Nothing, if the first one is meant; it is taken."),
    ("images.without_boxes", "info", "Images have no box; they are trained on as background.",
     "Nothing, if there is nothing in them."),
    ("images.mostly_empty", "warning", "More than half of the images of a split have no box.",
     "Look whether annotations were lost; leave some of the empty images out if not."),
    ("images.crowded", "info", "An image has more boxes than a detector finds by default (100).",
     "Raise --max-detections where more than 100 objects are to be found."),
    # Classes
    ("classes.wrong_name", "error", "Categories have no names, or such that are no text.",
     "Give each a name; in a data.yaml under names, as many as there are classes."),
    ("classes.same_name", "warning", "Categories have the same name but for capitals and blanks.",
     "Join them, or name them apart."),
    ("classes.name_twice", "error", "Two categories have exactly the same name.",
     "Join them, or name them apart: found as one of them, an object of the other is a mistake."),
    ("classes.near_name", "warning", "A rare category has nearly the name of a frequent one.",
     "Correct its name if it is misspelt: a model learns it as a class of its own."),
    ("classes.background", "warning", "A category is called background.",
     "Remove it: what has no box is background, and the model needs no class for it."),
    ("classes.no_instances", "warning", "A category has no box in any split.",
     "Remove it, or label some; the model cannot learn it."),
    ("classes.few_instances", "warning", "A category has fewer than 10 boxes to train on.",
     "Label more of it."),
    ("classes.only_in_train", "warning", "A category has boxes in training but none in validation.",
     "Move some of its images to validation, or correct its name; its AP cannot be measured."),
    ("classes.only_in_val", "warning", "A category has boxes in validation but none in training.",
     "Move some of its images to training, or correct its name; its AP will be 0."),
    ("classes.imbalance", "info", "A category has more than 100 times the boxes of another.",
     "Expect a lower AP of rare classes; label more of them."),
    # Boxes
    ("boxes.wrong", "error", "A box is not four finite numbers.", "Correct or remove it."),
    ("boxes.wrong_area", "error", "An area is no number of 0 or more.",
     "Correct it, or leave it out: it is width x height then."),
    ("boxes.wrong_iscrowd", "error", "iscrowd is neither 0 nor 1.", "Correct it."),
    ("boxes.xyxy", "error", "Boxes seem to be two corners, not corner, width and height.",
     "Write x, y, width, height; the other findings here are of boxes corrected so."),
    ("boxes.fractions", "error", "Boxes seem to be parts of the image, not pixels.",
     "Multiply by width and height; the other findings here are of boxes corrected so."),
    ("boxes.empty", "warning", "A box has no width or height; training leaves it out.",
     "Correct or remove it."),
    ("boxes.outside", "error", "A box lies wholly outside of its image.",
     "Correct or remove it; many of them mean another image size or form of box."),
    ("boxes.clipped", "warning", "A box sticks out of its image by more than a pixel; it is cut.",
     "Correct it if it sticks out by much."),
    ("boxes.tiny", "warning", "A side of a box is below 4 pixels at the network's input size.",
     "Train with a larger --image-size, or tiles, if these objects matter."),
    ("boxes.extreme_shape", "info", "A box is more than 10 times as long as wide.",
     "See the share of boxes that anchors reach; --anchors can be made for such boxes."),
    ("boxes.whole_image", "info", "A box covers 98 % of its image or more.",
     "Look whether it is a label of the image instead of an object."),
    ("boxes.duplicate", "warning", "An image has the same box of the same category twice.",
     "Remove the copy: found once, the other counts as missed."),
    ("boxes.two_classes", "warning", "An image has the same box with two categories.",
     "Decide for one, if the object is not of both."),
    ("boxes.area_too_large", "warning", "An area is larger than its box.",
     "Correct it: COCO's figures by size go by the area."),
    # Anchors
    ("anchors.unreached", "warning",
     "More than a tenth of the boxes fit no anchor and are hard to learn.",
     "Small boxes: train with a larger --image-size. Others: give train.py the --anchors that "
     "stand beside better under ANCHORS, if any do."),
    ("anchors.better", "info", "Other anchors reach more boxes.",
     "Give train.py the --anchors that are suggested."),
]  # fmt: skip

KINDS: dict[str, Kind] = {
    id_: Kind(id=id_, severity=severity, meaning=meaning, advice=advice)
    for id_, severity, meaning, advice in _ROWS
}
"""All kinds by id, in the order in which they are told."""

OF_FAULT: dict[str, str] = {
    "syntax": "file.unreadable",
    "section": "file.section",
    "row": "file.row",
    "missing-field": "file.missing_field",
    "duplicate-key": "file.repeated_key",
    "id": "ids.wrong",
    "duplicate-id": "ids.duplicate_annotation",
    "unknown-image": "ids.unknown_image",
    "unknown-category": "ids.unknown_category",
    "image-size": "images.size_unknown",
    "file-name": "files.wrong_name",
    "missing-file": "files.missing",
    "link": "files.link",
    "category-name": "classes.wrong_name",
    "box": "boxes.wrong",
    "area": "boxes.wrong_area",
    "crowd": "boxes.wrong_iscrowd",
    "encoding": "file.damaged",
    "xml": "file.damaged",
    "doctype": "file.damaged",
    "label-file": "file.damaged",
    "fields": "file.row",
    "number": "boxes.wrong",
    "class-names": "classes.wrong_name",
    "same-name": "classes.name_twice",
    "class-index": "ids.unknown_category",
    "unknown-class": "ids.unknown_category",
    "image-file": "images.unreadable",
    "polygon": "file.other_type",
    "score": "file.row",
    "no-id": "file.filled_in",
    "no-area": "file.filled_in",
    "no-iscrowd": "file.filled_in",
    "whole-float": "file.other_type",
    "bool-iscrowd": "file.other_type",
    "box-without-area": "boxes.empty",
    "box-outside": "boxes.outside",
    "box-clipped": "boxes.clipped",
}
"""The finding that a fault of :data:`effdet.annotations.KINDS` is."""
