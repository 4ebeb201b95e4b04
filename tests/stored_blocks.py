"""Random blocks of GGUF's types, with scales as a model has them."""

from __future__ import annotations

import gguf
import numpy as np

# byte offsets of the half-precision scales of a block; IQ1_M's is spread over four words, those of
# MXFP4 and NVFP4 are other floats
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
    "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
    "IQ3_S": [0], "IQ3_XXS": [0], "IQ2_S": [0], "IQ2_XS": [0], "IQ2_XXS": [0], "IQ1_S": [0],
    "IQ1_M": [], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [],
}  # fmt: skip
BLOCK_TYPES = list(SCALES)


def random_blocks(name: str, count: int, rng: np.random.Generator, scale: float = 0.02):
    """Return uint8 [count, bytes of a block]; the scales' deviation is `scale`."""
    block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    raw = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for offset in SCALES[name]:
        scales = rng.normal(0, scale, count).astype(np.float16)
        raw[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
    if name == "IQ1_M":
        bits = rng.normal(0, scale, count).astype(np.float16).view(np.uint16)
        for word in range(4):  # the high four bits of each
            high = 49 + 2 * word
            raw[:, high] = (raw[:, high] & 15) | ((bits >> 4 * word & 15) << 4)
    if name == "MXFP4":
        raw[:, 0] = round(127 + np.log2(scale)) - rng.integers(0, 3, count)
    if name == "NVFP4":
        raw[:, :4] &= 127
    return raw


def random_matrix(name: str, shape: tuple[int, int], rms: float, rng: np.random.Generator):
    """Return a matrix stored in a type, uint8 [rows, bytes of a row], of about this root mean
    square.
    """
    kind = gguf.GGMLQuantizationType[name]
    if name in ("F16", "BF16"):
        return gguf.quants.quantize(rng.normal(0, rms, shape).astype(np.float32), kind).view(
            np.uint8
        )
    block_size = gguf.GGML_QUANT_SIZES[kind][0]
    count = shape[0] * shape[1] // block_size
    sample = gguf.quants.dequantize(random_blocks(name, 256, np.random.default_rng(0), 1.0), kind)
    raw = random_blocks(name, count, rng, rms / float(np.sqrt(np.mean(sample**2))))
    return raw.reshape(shape[0], -1)
