"""The ggml tensor types that a GGUF file can name.

Source: `enum ggml_type` and `type_traits` of ggml (https://github.com/ggml-org/ggml, include/ggml.h
and src/ggml.c); the tests compare the table with the `gguf` library.
"""

from __future__ import annotations

# id: (name, elements of a block, bytes of a block). A row holds whole blocks.
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

# Types that ggml has dropped: a file with one is old, not broken.
REMOVED_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def describe_unknown(kind: int) -> str:
    """Say what is wrong with a type id that is not in `GGML_TYPES`.

    Parameters
    ----------
    kind : int
        The id in the file.

    Returns
    -------
    str
        Part of a sentence: "ggml type 4 (Q4_2), which ggml has removed; ...".
    """
    if kind in REMOVED_TYPES:
        name = REMOVED_TYPES[kind]
        return f"ggml type {kind} ({name}), which ggml has removed; convert the model anew"
    return f"the unknown ggml type {kind}; known are 0 (F32) to {max(GGML_TYPES)}"
