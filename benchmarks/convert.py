"""Measure what a conversion takes: time and peak memory, at the release's size or a smaller one.

Writes an export with LoRA factors (a .bin file in float16) and its base model (safetensors in bfloat16) with random
values into a scratch folder, converts them in a process of its own, loads the result in another, and removes all of it.
The release needs 25 GB of disk for bfloat16, 34 GB for float32. Linux only (reads the peak resident size).
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from tables import hardware_line, number, print_table

from x2sam_ros.checkpoint.convert import convert_checkpoint
from x2sam_ros.checkpoint.load import build_skeleton, load_model, weight_infos, write_settings
from x2sam_ros.checkpoint.names import comes_from_base, is_language, official_name, takes_lora
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.checkpoint.writer import write_safetensors
from x2sam_ros.model.config import X2SAMConfig, preset
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

ALLOWED_RATIO = 1.3
"""Peak memory of a conversion in sizes of the converted model."""

RANK = 128
BLOCK = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
Infos = dict[str, TensorInfo]


def shrunk(layers: int, vocabulary: int) -> X2SAMConfig:
    """Return the release's configuration with other numbers of language layers and of tokens."""
    config = preset("release")
    text = replace(config.language.text, num_hidden_layers=layers, vocab_size=vocabulary)
    return replace(config, language=replace(config.language, text=text))


def published_infos(model: X2SAM) -> tuple[Infos, Infos]:
    """Return the tensors of the default export in float16, and those of the base model in bfloat16."""
    export, base = {}, {}
    for name, info in weight_infos(model, torch.float16).items():
        bare = official_name(name).removeprefix("vlm.")
        wrapped = f"vlm.base_model.model.{bare}" if is_language(name) else bare
        if takes_lora(name):
            stem = wrapped.removesuffix(".weight")
            export[f"{stem}.lora_A.default.weight"] = TensorInfo((RANK, info.shape[1]), torch.float16)
            export[f"{stem}.lora_B.default.weight"] = TensorInfo((info.shape[0], RANK), torch.float16)
        elif not comes_from_base(name):
            export[wrapped] = info
        if is_language(name):
            base[bare] = replace(info, dtype=torch.bfloat16)
    return export, base


def random_values(infos: Infos, name: str) -> Iterator[torch.Tensor]:
    """Yield values of a tensor, the same ones again and again."""
    left = torch.Size(infos[name].shape).numel()
    while left:
        yield BLOCK[:left].to(infos[name].dtype)
        left -= min(left, len(BLOCK))


def write_published(folder: Path, config: X2SAMConfig) -> None:
    """Write ``folder/export`` and ``folder/base``."""
    model = build_skeleton(config, train_tokenizer(["any"], 300), "the release")
    for name, infos in zip(("export", "base"), published_infos(model)):
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors", infos, partial(random_values, infos))
    plain = folder / "export" / "model.safetensors"
    torch.save(load_file(plain), folder / "export" / "pytorch_model.bin")
    plain.unlink()
    write_settings(config, model.tokenizer, folder / "export")


def in_own_process(work: Callable[[], None]) -> tuple[float, float]:
    """Run something in a fresh process; return its seconds and its peak resident size in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(work, sender))
    process.start()
    sender.close()
    try:
        seconds, peak = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"the process ended with exit code {process.exitcode}") from None
    process.join()
    return seconds, peak


def _measured(work: Callable[[], None], sender: multiprocessing.connection.Connection) -> None:
    start = time.monotonic()
    work()
    seconds = time.monotonic() - start
    # not getrusage: its peak includes that of the process this one was forked from
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    sender.send((seconds, float(peak) * 1024))


def main() -> int:
    """Convert, load and print a table; the exit code is 1 where memory is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = preset("release").language.text
    parser.add_argument("--layers", type=int, default=release.num_hidden_layers, help="language layers")
    parser.add_argument("--vocabulary", type=int, default=release.vocab_size, help="tokens")
    parser.add_argument("--dtype", default="bfloat16", help="type of the converted weights")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the files go")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        write_published(folder, shrunk(options.layers, options.vocabulary))
        source, target, base = folder / "export", folder / "ours", folder / "base"
        read = sum(path.stat().st_size for place in (source, base) for path in place.iterdir())
        steps: dict[str, Callable[[], object]] = {
            "import only": partial(len, ""),
            "convert": partial(convert_checkpoint, source, target, base, options.dtype),
            "load": partial(load_model, target, "cpu", options.dtype),
        }
        measured = {step: in_own_process(work) for step, work in steps.items()}
        size = (target / "model.safetensors").stat().st_size
    print(f"{size / 1e9:.2f} GB of {options.dtype} from {read / 1e9:.2f} GB: {hardware_line('cpu')}")
    rows = [
        (step, number(seconds, 1), number(peak / 1e9, 2), number(peak / size, 2))
        for step, (seconds, peak) in measured.items()
    ]
    print_table("Conversion", ("step", "s", "peak GB", "of the model"), rows, options.markdown)
    return int(measured["convert"][1] > ALLOWED_RATIO * size)


if __name__ == "__main__":
    sys.exit(main())
