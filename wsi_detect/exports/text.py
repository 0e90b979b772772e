"""Text built column by column: a chunk of cells becomes lines of JSON, XML or CSV without a loop over its rows."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def numbers(values: NDArray[np.generic], decimals: int) -> pa.Array:
    """Numbers as text, rounded, with no more digits than they need."""
    return pc.cast(pa.array(np.round(values.astype(np.float64), decimals)), pa.string())


def joined(*parts: pa.Array | str) -> pa.Array:
    """Put texts together row by row; a plain string is the same in every row."""
    return pc.binary_join_element_wise(*parts, "")


def named(labels: pa.Array, texts: dict[str, str]) -> pa.Array:
    """Give each label its text."""
    coded = labels.dictionary_encode()
    return pa.array([texts[name] for name in coded.dictionary.to_pylist()], type=pa.string()).take(coded.indices)


def grouped(texts: pa.Array, offsets: NDArray[np.int32], separator: str) -> pa.Array:
    """Put neighbours together: row k of the result is the texts from `offsets[k]` up to `offsets[k + 1]`."""
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), separator)


def raw(texts: pa.Array, separator: str) -> bytes:
    """All rows in one, as UTF-8."""
    whole = grouped(texts, np.array([0, len(texts)], dtype=np.int32), separator)
    return bytes(whole[0].as_buffer())
