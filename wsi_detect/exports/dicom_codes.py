"""Bethesda classes as coded terms for DICOM: SNOMED CT where a code is published for the very term, else our own.

The meaning of a code is the title of the class in `taxonomy.py`, since SNOMED CT's full names are longer than DICOM
allows.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from wsi_detect.taxonomy import cell_class

#: Names our codes, in every file that uses one.
SCHEME = "99WSIDETECT"
SCHEME_NAME = "wsi-detect: class names of the Bethesda System"


class Term(NamedTuple):
    """A coded term: the code, whose it is, what it means."""

    value: str
    scheme: str
    meaning: str


SCORE = Term("SCORE", SCHEME, "Score of the detection")
NO_UNIT = Term("1", "UCUM", "no units")
ARTIFICIAL_INTELLIGENCE = Term("123110", "DCM", "Artificial Intelligence")

#: Class → SNOMED CT concept; its full name behind it, and who published it for cervical cytology:
#: [1] value set CervicalCytologyResult of the CCSM decision support (ccsm-cds-tools), SNOMED CT of 2022-03-01;
#: [2] value set cytology-conclusion-cervix-lt of HL7 Lithuania; [3] DICOM PS3.16, as listed in pydicom's code tables.
#: Classes whose published names differ in meaning, even a little, are not here.
_SNOMED: Mapping[str, str] = MappingProxyType(
    {
        "NILM": "373887005",  # Negative for intraepithelial lesion or malignancy (finding) [1, 2]
        "ASC-US": "441087007",  # Atypical squamous cells of undetermined significance on cervical Pap smear [1, 2]
        "ASC-H": "441088002",  # Atypical squamous cells on cervical Pap smear cannot exclude HSIL (finding) [1, 2]
        "LSIL": "62051000119105",  # Low-grade squamous intraepithelial lesion on cervical Pap smear (finding) [1, 2]
        "HSIL": "62061000119107",  # High-grade squamous intraepithelial lesion on cervical Pap smear (finding) [2]
        "SCC": "1162767002",  # Squamous cell carcinoma (morphologic abnormality) [1, 2, 3]
        "AGC": "441219009",  # Atypical glandular cells on cervical Pap smear (finding) [1, 2]
        "AGC-FN": "373883009",  # Atypical glandular cells, favor neoplastic (morphologic abnormality) [1, 2]
        "AGC-EC": "441094005",  # Atypical endocervical cells on cervical Pap smear (finding) [1]
        "AGC-EC-FN": "373882004",  # Atypical endocervical cells, favor neoplastic (morphologic abnormality) [1]
        "AIS": "447760009",  # Endocervical adenocarcinoma in situ (disorder) [1]
        "ADC": "1187332001",  # Adenocarcinoma (morphologic abnormality) [2, 3]
    }
)

# Of CID 7150, Segmentation Property Categories, which has none for organisms.
_ABNORMAL = Term("49755003", "SCT", "Morphologically Abnormal Structure")
_ANATOMY = Term("91723000", "SCT", "Anatomical Structure")
_ORGANISM = Term("ORGANISM", SCHEME, "Organism")
_CATEGORIES: Mapping[str, Term] = MappingProxyType(
    {
        **dict.fromkeys(("NILM", "ENDO", "EMC-45", "GLANDULAR-PH"), _ANATOMY),
        **dict.fromkeys(("TRICHOMONAS", "CANDIDA", "FLORA", "ACTINOMYCES"), _ORGANISM),
    }
)


def category(name: str) -> Term:
    """What kind of thing a class of the taxonomy is."""
    return _CATEGORIES.get(name, _ABNORMAL)


def kind(name: str) -> Term:
    """Return the term of a class of the taxonomy."""
    title = cell_class(name).title
    return Term(_SNOMED[name], "SCT", title) if name in _SNOMED else Term(name, SCHEME, title)
