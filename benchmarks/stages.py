"""Time each stage of the network by itself, with random weights: one frame, one target, a full memory.

`--preset release` needs a GPU with about 24 GB; what a stage computes does not depend on the weights, so it needs no
checkpoint. Times are medians with the device waited for; the picture is 640x480.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tables import hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import read_dtype
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.frame_buffer import MIB
from x2sam_ros.engine.grounding import Picture, pixel_values
from x2sam_ros.engine.preprocess import mask_encoder_pixels, picture_patches
from x2sam_ros.evaluation.bench_model import random_model
from x2sam_ros.evaluation.hardware import wait_for
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import preset
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.template import Template
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

HEIGHT, WIDTH = 480, 640
PHRASE = Template("Segment {phrases}.", "<SEG>.")
QUESTION = Template("{text}", None)
NEW_TOKENS = 32

Row = tuple[str, float, str]


def median_ms(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median milliseconds of ``work`` after two runs that are not counted."""
    times = []
    for _ in range(repeats + 2):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times[2:]))


def frame_stages(model: X2SAM, image: np.ndarray, repeats: int) -> Iterator[Row]:
    """Yield the stages that run on each frame."""
    segmentor, device, side = model.segmentor, model.device, model.config.segmentor.image_size
    dtype = model.bg_embeds.weight.dtype

    def timed(name: str, work: Callable[[], object], note: str = "") -> Row:
        return name, median_ms(work, repeats, device), note

    resample = model.config.segmentor.resample
    pixels = mask_encoder_pixels(image, side, device, resample=resample).to(dtype)
    yield timed(
        "preprocess",
        lambda: mask_encoder_pixels(image, side, device, resample=resample),
        f"{WIDTH}x{HEIGHT} to {side}x{side}",
    )
    yield timed("mask encoder", lambda: segmentor.encode_image(pixels))
    features = segmentor.encode_image(pixels)
    yield timed("pixel decoder", lambda: segmentor.decode_pixels(features, first=False))
    decoded = segmentor.decode_pixels(features, first=False)
    condition = _condition(model, image)
    first = segmentor.step(decoded, condition)
    entry = segmentor.write_memory(decoded, first)
    slots = model.config.segmentor.memory.num_maskmem
    memory = MemoryBatch.stack([entry] * slots, range(slots, 0, -1))
    for feature, embeds in zip(decoded.multi_scale, memory.embeds):
        height, width = feature.shape[-2:]
        yield timed(
            f"memory attention {width}x{height}",
            lambda feature=feature, embeds=embeds: segmentor.memory_attention(
                feature, embeds, memory.gaps, memory.valid
            ),
            f"{slots} memories",
        )
    yield timed("mask decoder", lambda: segmentor.decoder(decoded, condition), f"{first.queries.shape[1]} queries")
    yield timed("memory encoder", lambda: segmentor.write_memory(decoded, first))


def _condition(model: X2SAM, image: np.ndarray) -> PromptCondition:
    picture = Picture(model, image)
    conversation = model.conversations.build(PHRASE, picture.media, phrases=["the red cup"])
    return model.understand(conversation, picture.vision)


def language_stages(model: X2SAM, image: np.ndarray, repeats: int) -> Iterator[Row]:
    """Yield the stages that run on each prompt."""
    device = model.device
    patches, grid = picture_patches(image, model.config.language, device)
    stages = model.segmentor.encode_image(pixel_values(model, image).to(model.bg_embeds.weight.dtype)).stages
    yield "picture encoder", median_ms(lambda: model.encode_picture(patches, grid, stages), repeats, device), ""
    vision = model.encode_picture(patches, grid, stages)
    media = Media(vision.counts[0])
    conversation = model.conversations.build(PHRASE, media, phrases=["the red cup"])
    length = f"{len(conversation.input_ids)} tokens"
    yield "language prefill", median_ms(lambda: model.understand(conversation, vision), repeats, device), length
    prefix = model.prefix(media, vision)
    rest = f"{len(conversation.input_ids) - prefix.hidden.shape[1]} tokens"
    cached = median_ms(lambda: model.understand(conversation, prefix=prefix), repeats, device)
    yield "language prefill, picture cached", cached, rest
    question = model.conversations.build(QUESTION, media, text="what do you see?")

    def write(count: int) -> object:
        letter = model.tokenizer.encode_plain("a")[0]
        return model.generate(question, prefix=prefix, max_new_tokens=count, choose=lambda _: letter)

    short, long = (median_ms(lambda count=count: write(count), repeats, device) for count in (1, 1 + NEW_TOKENS))
    token = (long - short) / NEW_TOKENS
    yield "one written token", token, f"{1e3 / token:.0f} tokens/s"


def peak_mib(device: torch.device) -> float:
    """Return the most memory used so far: the GPU's where there is one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=NodeConfig.preset)
    parser.add_argument("--device", default=NodeConfig.device)
    parser.add_argument("--dtype", default=NodeConfig.dtype, help="float32, bfloat16 or float16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--into", type=Path, nargs="+", default=[], help="Markdown pages to write the table into")
    options = parser.parse_args()
    with printed_into(options.into, "stages"):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Time everything, then print."""
    device, dtype = torch.device(options.device), read_dtype(options.dtype)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        tokenizer = train_tokenizer(["segment the red cup", "what do you see?"], 300)
        model = random_model(preset(options.preset), tokenizer, device, dtype)
        frame = list(frame_stages(model, image, options.repeats))
        prompt = list(language_stages(model, image, options.repeats))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{options.preset}, {size:,.1f} million parameters, {options.dtype}: {hardware_line(options.device)}")
    rows = [(name, number(ms, 2), note) for name, ms, note in frame]
    rows.append(("frame, one target", number(sum(ms for _, ms, _ in frame), 2), "sum of the above"))
    rows += [(name, number(ms, 2), note) for name, ms, note in prompt]
    rows.append(("peak memory, MiB", number(peak_mib(device), 0), device.type))
    print_table("Stages, random weights", ("stage", "median ms", "of"), rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()
