#!/usr/bin/env python3
"""Makes the block fixtures beside this script: random bytes of each GGUF type and what the Python package `gguf` reads
from them. usage: make.py (needs gguf and numpy)

NAME.blocks: 3 rows of 512 values; NAME.f32: the same values as little-endian f32."""

import pathlib

import gguf
import numpy as np

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(4)
# Where the f16 scales lie in a block: random bits would make some of them infinite.
scales = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip
for name, places in scales.items():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (3 * 512 // block, size), dtype=np.uint8)
    for place in places:
        values = (rng.standard_normal(len(blocks)) * 0.02).astype(np.float16)
        values[:3] = [0.0, 6e-8, -1.5]
        blocks[:, place : place + 2] = values.view(np.uint8).reshape(-1, 2)
    values = gguf.quants.dequantize(blocks, kind).astype("<f4")
    (here / f"{name}.blocks").write_bytes(blocks.tobytes())
    (here / f"{name}.f32").write_bytes(values.tobytes())
