"""The Bethesda System 2014 as cell classes: names, families, order of gravity, colours.

A model declares the subset it knows; a report says what it cannot see. Gravity orders classes for
screening (merging, sorting, the clinical rule of the stitcher): a higher number is graver. Within one
gravity classes are equals. Names follow the terms cytologists write (The Bethesda System for Reporting
Cervical Cytology, 3rd edition, 2015).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wsi_detect.errors import UnmappedLabelError

Family = Literal["squamous", "glandular", "organism", "non-neoplastic", "other"]


@dataclass(frozen=True, slots=True)
class CellClass:
    """One class of cell or finding.

    Attributes:
        name: the short term, used on disk.
        title: the full term.
        family: squamous, glandular, organism, non-neoplastic or other.
        gravity: order for screening, 0 (background) to 9 (carcinoma).
        abnormal: an epithelial cell abnormality in the sense of the Bethesda System.
        colour: sRGB, safe for the common colour-vision deficiencies within a family.
    """

    name: str
    title: str
    family: Family
    gravity: int
    abnormal: bool
    colour: tuple[int, int, int]


_ALL = (
    # Squamous epithelial cell abnormalities, gravest first.
    CellClass("SCC", "Squamous cell carcinoma", "squamous", 9, True, (136, 34, 85)),
    CellClass("HSIL", "High-grade squamous intraepithelial lesion", "squamous", 8, True, (213, 43, 30)),
    CellClass("ASC-H", "Atypical squamous cells, cannot exclude HSIL", "squamous", 7, True, (230, 97, 0)),
    CellClass("LSIL", "Low-grade squamous intraepithelial lesion", "squamous", 5, True, (230, 159, 0)),
    CellClass("ASC-US", "Atypical squamous cells of undetermined significance", "squamous", 4, True, (199, 177, 0)),
    # Glandular epithelial cell abnormalities.
    CellClass("ADC", "Adenocarcinoma, not otherwise specified", "glandular", 9, True, (93, 58, 155)),
    CellClass("ADC-EC", "Adenocarcinoma, endocervical", "glandular", 9, True, (93, 58, 155)),
    CellClass("ADC-EM", "Adenocarcinoma, endometrial", "glandular", 9, True, (110, 70, 170)),
    CellClass("ADC-EX", "Adenocarcinoma, extrauterine", "glandular", 9, True, (120, 80, 180)),
    CellClass("AIS", "Endocervical adenocarcinoma in situ", "glandular", 8, True, (140, 90, 200)),
    CellClass("AGC-FN", "Atypical glandular cells, favour neoplastic", "glandular", 7, True, (160, 110, 210)),
    CellClass("AGC-EC-FN", "Atypical endocervical cells, favour neoplastic", "glandular", 7, True, (160, 110, 210)),
    CellClass("AGC", "Atypical glandular cells, not otherwise specified", "glandular", 6, True, (180, 140, 225)),
    CellClass("AGC-EC", "Atypical endocervical cells, not otherwise specified", "glandular", 6, True, (180, 140, 225)),
    CellClass("AGC-EM", "Atypical endometrial cells, not otherwise specified", "glandular", 6, True, (190, 150, 230)),
    CellClass("OTHER-MN", "Other malignant neoplasm", "other", 9, True, (90, 20, 60)),
    # Endometrial cells in a woman of 45 years or more: reported, not an abnormality by itself.
    CellClass("EMC-45", "Endometrial cells (woman of 45 years or more)", "other", 3, False, (150, 120, 90)),
    # Organisms.
    CellClass("TRICHOMONAS", "Trichomonas vaginalis", "organism", 2, False, (0, 158, 115)),
    CellClass("CANDIDA", "Fungal organisms consistent with Candida", "organism", 2, False, (0, 138, 130)),
    CellClass("FLORA", "Shift in flora suggestive of bacterial vaginosis", "organism", 2, False, (60, 170, 140)),
    CellClass("ACTINOMYCES", "Bacteria consistent with Actinomyces", "organism", 2, False, (30, 120, 90)),
    CellClass("HSV", "Cellular changes consistent with herpes simplex virus", "organism", 2, False, (90, 180, 160)),
    CellClass("CMV", "Cellular changes consistent with cytomegalovirus", "organism", 2, False, (110, 190, 150)),
    # Non-neoplastic findings.
    CellClass("REACTIVE", "Reactive changes", "non-neoplastic", 1, False, (86, 180, 233)),
    CellClass("INFL", "Inflammatory cells or inflammatory change", "non-neoplastic", 1, False, (110, 190, 235)),
    CellClass("RADIATION", "Radiation-associated change", "non-neoplastic", 1, False, (100, 170, 220)),
    CellClass("IUD", "Change associated with an intrauterine device", "non-neoplastic", 1, False, (120, 180, 220)),
    CellClass("REPAIR", "Reparative change", "non-neoplastic", 1, False, (130, 190, 225)),
    CellClass("ATROPHY", "Atrophy", "non-neoplastic", 1, False, (140, 200, 230)),
    CellClass("METAPLASIA", "Squamous metaplasia", "non-neoplastic", 1, False, (0, 114, 178)),
    CellClass("KERATOTIC", "Keratotic change", "non-neoplastic", 1, False, (40, 130, 190)),
    CellClass("TUBAL", "Tubal metaplasia", "non-neoplastic", 1, False, (60, 140, 195)),
    CellClass("PREGNANCY", "Pregnancy-associated change", "non-neoplastic", 1, False, (80, 150, 200)),
    CellClass("LYMPHOCYTIC", "Lymphocytic (follicular) cervicitis", "non-neoplastic", 1, False, (90, 160, 205)),
    CellClass("GLANDULAR-PH", "Glandular cells status post hysterectomy", "non-neoplastic", 1, False, (70, 145, 200)),
    CellClass("ENDO", "Endocervical cells", "non-neoplastic", 1, False, (20, 90, 150)),
    CellClass("NILM", "Negative for intraepithelial lesion or malignancy", "squamous", 0, False, (0, 114, 178)),
)

CLASSES: dict[str, CellClass] = {entry.name: entry for entry in _ALL}


def cell_class(name: str) -> CellClass:
    """Return the class of that name.

    Raises:
        UnmappedLabelError: the taxonomy has no such name.
    """
    if name not in CLASSES:
        raise UnmappedLabelError(f"class {name!r} is not in the taxonomy; known: {', '.join(CLASSES)}")
    return CLASSES[name]


def gravity(name: str) -> int:
    """Order of gravity of a class, 0 to 9."""
    return cell_class(name).gravity


def is_abnormal(name: str) -> bool:
    """Whether the class is an epithelial cell abnormality."""
    return cell_class(name).abnormal


def gravest_first(names: Iterable[str]) -> list[str]:
    """Names from the gravest to the mildest; equals in alphabetical order."""
    return sorted(names, key=lambda name: (-gravity(name), name))


def colour_hex(name: str) -> str:
    """Colour of a class as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*cell_class(name).colour)
