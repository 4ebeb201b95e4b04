"""Writes csrc/kernels/dequant_grids.c: the codebooks of the IQ types, from the library `gguf`.

python tools/make_dequant_grids.py > csrc/kernels/dequant_grids.c
"""

from __future__ import annotations

import numpy as np
from gguf import quants

GRIDS = {
    "iq2_xxs": quants.IQ2_XXS,
    "iq2_xs": quants.IQ2_XS,
    "iq2_s": quants.IQ2_S,
    "iq3_xxs": quants.IQ3_XXS,
    "iq3_s": quants.IQ3_S,
    "iq1": quants.IQ1_S,
}


def packed(kind: type) -> list[int]:
    """Entries of a grid as 16-bit words: 8 numbers of 2 bits or 4 of 4 bits, the first lowest."""
    kind.init_grid()
    levels = {value: place for place, value in enumerate(map(float, kind.grid_map))}
    rows = kind.grid.reshape(kind.grid_shape)
    bits = 16 // kind.grid_shape[1]
    words = np.zeros(len(rows), dtype=int)
    for column in range(kind.grid_shape[1]):
        places = [levels[float(value)] for value in rows[:, column]]
        words |= np.array(places) << bits * column
    return words.tolist()


def main() -> None:
    """Write the file to stdout."""
    print(
        "/* Codebooks of the IQ types, as in ggml's ggml-common.h (MIT licence, the ggml authors)."
    )
    print(" * Made by tools/make_dequant_grids.py. */")
    print('#include "dequant.h"')
    for name, kind in GRIDS.items():
        words = [f"0x{word:04x}," for word in packed(kind)]
        print(f"\nconst uint16_t sp_grid_{name}[{len(words)}] = {{")
        for start in range(0, len(words), 12):
            print("    " + " ".join(words[start : start + 12]))
        print("};")


if __name__ == "__main__":
    main()
