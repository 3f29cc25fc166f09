"""Every recipe that can be asked for, on chunks of the data, in one thread and its processor's time: others may use that too."""

from __future__ import annotations

import time

from kacas.codec_choice import EXPLICIT
from kacas.model import pco_frame
from kacas.model.codec import MIB, Codec, Decoder
from kacas.model.encoder import RAW, ZSTD, Encoded, Encoder, Recipe
from kacas.upkeep.profile.figures import CodecFigures
from kacas.upkeep.profile.sample import Sample

_MOST = 8 * MIB  # of chunks, spread over the sample
_BUDGET_S = 0.4  # for each recipe and direction


def codec_figures(sample: Sample, chunks: list[memoryview]) -> list[CodecFigures]:
    """For an array, or HDF5, all that suit its items, for other data what it can get. [] if there is nothing."""
    step = max(1, sum(map(len, chunks)) // _MOST)
    chosen = chunks[:: min(step, max(1, len(chunks) // 4))]
    if not chosen:
        return []
    recipes: dict[Recipe, str] = {RAW: "raw", ZSTD: "zstd"}
    if sample.has_recipes:
        for name in EXPLICIT:
            if name != "pcodec" or pco_frame.is_installed():
                recipes.setdefault(sample.layout(name).recipe, name)  # what is not made for the items becomes zstd
    return [_measured(name, recipe, chosen) for recipe, name in recipes.items()]


def _measured(name: str, recipe: Recipe, chunks: list[memoryview]) -> CodecFigures:
    encoder, decoder = Encoder(recipe), Decoder()
    room = memoryview(bytearray(max(map(len, chunks))))
    encoder.encode(chunks[0])  # buffers and tables are made the first time
    encoded: list[tuple[memoryview, Encoded]] = []
    begun = time.thread_time()
    for chunk in chunks:
        encoded.append((chunk, encoder.encode(chunk)))
        if time.thread_time() - begun > _BUDGET_S:
            break
    encode_s = time.thread_time() - begun
    raw_size = sum(len(chunk) for chunk, _ in encoded)
    stored_size = sum(len(one.payload) for _, one in encoded)
    decoded, begun = 0, time.thread_time()
    for chunk, (codec, parameters, payload) in encoded:
        decoder.decode_into(Codec(codec), parameters, memoryview(payload), room[: len(chunk)])
        decoded += len(chunk)
        if time.thread_time() - begun > _BUDGET_S:
            break
    decode_s = time.thread_time() - begun
    return CodecFigures(
        name, str(recipe), raw_size / max(stored_size, 1), raw_size / max(encode_s, 1e-9), decoded / max(decode_s, 1e-9)
    )
