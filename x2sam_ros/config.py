"""Every default of the project, exactly once: the network's sizes, the engine's and the node's parameters."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from x2sam_ros.errors import ConfigError

BASE_MODEL = "Qwen/Qwen3-VL-4B-Instruct"
"""Hub id of the vision-language model that the published weights build on."""

CLIP_LENGTH = 8
"""Frames of a clip in the published evaluation."""

HEARTBEAT_PERIOD_S = 1.0
"""Time from one heartbeat, and one report of diagnostics, to the next."""

DIAGNOSTICS_WINDOW_S = 5.0
"""How far rates and latencies of the diagnostics look back."""

MAX_CAMERAS = 32
"""Most cameras of a node: with the most targets each, every target has an id of its own in 16 bits."""

_MOST = 1_000_000_000
_SHARE, _DECAY, _WEIGHT = (0.0, 1.0), (0.0, 0.999999), (0.0, 1e6)
_ABOVE_ZERO = 1e-9


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}, expected {low} to {high}")


def _parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Make a field that is also a parameter: its description and what it accepts lie beside its default.

    Args:
        default: bool, int, float, str or a tuple of str; the type of the parameter.
        description: one line for help texts, the YAML file and the ROS descriptor.
        low, high: inclusive range of a number.
        choices: the values a text may have; () accepts any.
        live: whether it may change at run time; a model, a subscription or a buffer is made from the others once.
    """
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata=metadata)


def _number(low: float, high: float, default: Any = MISSING) -> Any:
    """Make a field that is no parameter: a number within an inclusive range, or a tuple of them."""
    return field(default=default, metadata={"low": low, "high": high})


def _check_fields(config: Any) -> None:
    """Compare every field made by `_parameter` with its type, range and choices, and by `_number` with its range.

    Raises:
        ConfigError: names the field, what it is and what was expected.
    """
    for item in fields(config):
        value: Any = getattr(config, item.name)
        expected: type = type(item.default)
        if "description" in item.metadata:
            fits = type(value) in ((float, int) if expected is float else (expected,))
            if not fits or (expected is tuple and not all(isinstance(part, str) for part in value)):
                name = "list of texts" if expected is tuple else expected.__name__
                raise ConfigError(f"{item.name} is {value!r}, expected a value of type {name}")
        if item.metadata.get("low") is not None:
            for number in value if isinstance(value, tuple) else (value,):
                _check_range(item.name, number, item.metadata["low"], item.metadata["high"])
        choices = item.metadata.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{item.name} is {value!r}, expected one of: {', '.join(choices)}")


def check_live(old: Any, new: Any) -> None:
    """Raise ConfigError where a field differs that may not change at run time."""
    for item in fields(old):
        was, given = getattr(old, item.name), getattr(new, item.name)
        if was != given and not item.metadata["live"]:
            raise ConfigError(f"{item.name} is {was!r} and cannot become {given!r} in what runs; open a new session")


@dataclass(frozen=True)
class EngineConfig:
    """How a session turns frames and prompts into targets."""

    num_maskmem: int = _parameter(5, "remembered frames that the network looks at", low=1, high=64)
    memory_stride: int = _parameter(
        1,
        "frames from one remembered frame to the next; 5 suits published weights on a camera of 30 Hz",
        low=1,
        high=1_000,
        live=True,
    )
    memory_interval_s: float = _parameter(
        0.0,
        "seconds from one remembered frame to the next; 0 counts memory_stride frames instead",
        low=0.0,
        high=60.0,
        live=True,
    )
    memory_max_gap: int = _parameter(
        8,
        "strides by which a remembered frame may seem to lie back; older ones seem to lie there",
        low=1,
        high=100_000,
        live=True,
    )
    score_threshold: float = _parameter(
        0.5, "confidence below which a target counts as not seen", low=0.0, high=1.0, live=True
    )
    keep_threshold: float = _parameter(
        0.3,
        "confidence down to which a tracked target still counts as seen; score_threshold where that is less",
        low=0.0,
        high=1.0,
        live=True,
    )
    mask_threshold: float = _parameter(
        0.5, "probability above which a pixel belongs to the mask", low=0.0, high=1.0, live=True
    )
    mask_score_threshold: float = _parameter(
        0.65, "mean probability inside its mask below which a target counts as not seen", low=0.0, high=1.0, live=True
    )
    mask_keep_threshold: float = _parameter(
        0.5, "mean mask probability below which a tracked target counts as not seen", low=0.0, high=1.0, live=True
    )
    confirm_frames: int = _parameter(
        2, "frames a target must be seen on before it counts as tracked", low=1, high=100, live=True
    )
    lost_frames: int = _parameter(
        30,
        "frames without the target after which it counts as lost; a class list looks as long for its first",
        low=1,
        high=100_000,
        live=True,
    )
    search_frames: int = _parameter(
        0,
        "frames from one search of the image for lost targets to the next; 0 never searches",
        low=0,
        high=100_000,
        live=True,
    )
    reground_frames: int = _parameter(
        0, "frames after which a target's words are asked again; 0 never asks", low=0, high=1_000_000, live=True
    )
    reground_on_loss: bool = _parameter(False, "ask a target's words again when it is lost", live=True)
    reground_iou: float = _parameter(
        0.0,
        "overlap of a mask with where it should be below which a target's words are asked again; 0 never asks",
        low=0.0,
        high=1.0,
        live=True,
    )
    autocast: bool = _parameter(False, "multiply in bfloat16 where the hardware gains from it")
    max_targets: int = _parameter(16, "targets followed at the same time", low=1, high=1024, live=True)
    conversations: str = _parameter(
        "separate",
        "separate gives every prompt a memory and a decoder pass; merged lets texts share, and clicks and boxes",
        choices=("separate", "merged"),
        live=True,
    )
    max_merged: int = _parameter(8, "texts or regions of one merged conversation", low=1, high=64, live=True)
    max_memory_mb: int = _parameter(
        4096, "MiB that the targets may take once their memories are full", low=1, high=1_048_576, live=True
    )
    at_cap: str = _parameter(
        "reject",
        "reject refuses a new prompt at max_targets or max_memory_mb; evict gives up the target seen least recently",
        choices=("reject", "evict"),
        live=True,
    )
    max_pending_prompts: int = _parameter(32, "prompts that may wait for the next image", low=1, high=1024, live=True)
    max_answer_tokens: int = _parameter(
        256, "tokens after which an answer in words is cut off", low=1, high=4096, live=True
    )
    language_lane: str = _parameter(
        "inline",
        "inline carries a prompt out before the frame is answered; beside does it in a thread while frames go on",
        choices=("inline", "beside"),
    )
    language_threads: int = _parameter(1, "CPU threads of the language lane; frames get the others", low=1, high=256)
    buffer_frames: int = _parameter(64, "newest images kept, so that prompts find theirs", low=1, high=1024)
    buffer_mb: int = _parameter(256, "MiB of images kept at most; the newest always is", low=1, high=65_536)
    catch_up_frames: int = _parameter(
        4,
        "kept images that a new target is led through, evenly spread, before its first result",
        low=0,
        high=64,
        live=True,
    )
    prompt_tolerance_ms: float = _parameter(
        200.0,
        "most time between a prompt's stamp and the image that it is carried out on",
        low=0.0,
        high=60_000.0,
        live=True,
    )
    prompt_lead_ms: float = _parameter(
        1000.0,
        "how far a prompt may be ahead of the newest image; it waits for its own",
        low=0.0,
        high=600_000.0,
        live=True,
    )
    clock_jump_ms: float = _parameter(
        1000.0, "step back of the images' stamps from which a new stream has begun", low=0.0, high=600_000.0, live=True
    )
    late_frames: int = _parameter(
        3, "images in a row that are dropped for being late, or of another camera", low=0, high=1000, live=True
    )
    exact_timings: bool = _parameter(
        False, "wait for the GPU around each stage, so that the timings are of its work; slower"
    )
    compiled: str = _parameter(
        "off",
        "on compiles the network for 1, 2, 4, 8, ... targets, with CUDA graphs on a GPU; the stream stands still "
        "meanwhile, once for each number; on a CPU for a minute or two, and to no gain",
        choices=("off", "on"),
    )
    input_side: int = _parameter(
        0,
        "approximate: side of the square that frames are scaled to, pixels, a multiple of 32; 0 is the model's own",
        low=0,
        high=8192,
    )
    memory_window: int = _parameter(
        0,
        "approximate: cells of the windows that the finest map's attention to itself is cut into; 0 is exact",
        low=0,
        high=1024,
    )
    memory_pool: int = _parameter(
        4,
        "side of the squares outside of a window that are looked at by their mean; divides memory_window",
        low=1,
        high=64,
    )
    memory_key_pool: int = _parameter(
        1,
        "approximate: side of the squares of remembered frames that the finest map looks at by their mean; 1 is exact",
        low=1,
        high=64,
    )
    finest_refresh: int = _parameter(
        1,
        "approximate: frames from one look of a target's finest map at its memory to the next; 1 is exact",
        low=1,
        high=100,
    )
    official_quirks: bool = _parameter(
        False, "read masks exactly as the published evaluation does, mistakes included; slow, for comparisons"
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.memory_window % self.memory_pool:
            raise ConfigError(
                f"memory_pool is {self.memory_pool}, expected a divisor of memory_window, {self.memory_window}"
            )
        for kept, found in (("keep_threshold", "score_threshold"), ("mask_keep_threshold", "mask_score_threshold")):
            least, most = getattr(self, kept), getattr(self, found)
            if least > most and least != getattr(type(self), kept):
                raise ConfigError(f"{kept} is {least}, expected at most {found}, {most}")

    @property
    def confidence_kept(self) -> float:
        """Confidence down to which a tracked target still counts as seen."""
        return min(self.keep_threshold, self.score_threshold)

    @property
    def mask_score_kept(self) -> float:
        """Mask score down to which a tracked target still counts as seen."""
        return min(self.mask_keep_threshold, self.mask_score_threshold)


@dataclass(frozen=True)
class NodeEngineConfig(EngineConfig):
    """The engine as the node runs it: a camera does not wait."""

    language_lane: str = _parameter("beside", **EngineConfig.__dataclass_fields__["language_lane"].metadata)


@dataclass(frozen=True)
class DiagnosticsConfig:
    """From when on the node's diagnostics are not OK."""

    stale_s: float = _parameter(
        3.0, "seconds without an image after which a camera is stale", low=0.1, high=3600.0, live=True
    )
    max_latency_ms: float = _parameter(
        1000.0,
        "latency that 95 of 100 answers must keep, from the image's arrival to its masks",
        low=1.0,
        high=600_000.0,
        live=True,
    )
    max_dropped_share: float = _parameter(
        0.5, "share of the images that newer ones may replace before they are answered", low=0.0, high=1.0, live=True
    )

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True)
class NodeConfig:
    """Parameters of the ROS node; ros/params.py declares them and writes config/x2sam.yaml from them."""

    image_topics: tuple[str, ...] = _parameter(
        ("/camera/image_raw",), "one image topic for each camera; clicks are read from <image_topic>_mouse_left"
    )
    image_transport: str = _parameter(
        "raw", "raw reads <image_topic>, compressed reads <image_topic>/compressed", choices=("raw", "compressed")
    )
    depth_topics: tuple[str, ...] = _parameter(
        ("",), "depth registered to each image topic, 16UC1 in mm or 32FC1 in m; '' for a camera without"
    )
    depth_slop_ms: float = _parameter(
        20.0, "how far the stamps of an image and its depth may lie apart", low=0.0, high=10_000.0
    )
    camera_info_topics: tuple[str, ...] = _parameter(
        ("",), "calibration of each image topic; '' is camera_info beside the image topic"
    )
    clicked_point_topic: str = _parameter(
        "/clicked_point", "points in space, as RViz publishes them, that add a target; empty: none"
    )
    max_cloud_points: int = _parameter(
        20_000, "points of one cloud; more are thinned out evenly", low=1, high=10_000_000
    )
    overlay_jpeg_quality: int = _parameter(80, "quality of ~/overlay/compressed", low=1, high=100)
    preset: str = _parameter("nano", "built-in model to load when checkpoint is empty")
    checkpoint: str = _parameter("", "folder of a checkpoint; empty loads the preset")
    device: str = _parameter("cpu", "where the model runs: cpu, cuda or cuda:N")
    dtype: str = _parameter("float32", "arithmetic of the model", choices=("float32", "bfloat16"))
    weights: str = _parameter(
        "exact",
        "int8 rounds the weights of large layers to eight bits, for a CPU and float32: quicker at release size",
        choices=("exact", "int8"),
    )
    memory_policy: str = _parameter(
        "fifo", "which frames a target remembers; x2sam plugins lists the policies", live=True
    )
    max_pending_commands: int = _parameter(
        64, "prompts that may wait for the model; more are rejected", low=1, high=4096
    )
    log_period_s: float = _parameter(
        5.0, "seconds between two reports of one kind of problem", low=0.1, high=3600.0, live=True
    )
    session_file: str = _parameter(
        "", "file that targets are saved to, and read from at the start; several cameras have one each; empty: none"
    )
    session_period_s: float = _parameter(
        30.0, "seconds between two saves while anything is followed", low=1.0, high=86400.0, live=True
    )
    autostart: bool = _parameter(True, "configure and activate at the start; false leaves that to a lifecycle manager")
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    engine: EngineConfig = field(default_factory=NodeEngineConfig)

    def __post_init__(self) -> None:
        _check_fields(self)
        if not self.image_topics or not all(self.image_topics):
            raise ConfigError("image_topics is empty, or has an empty name; expected names such as /camera/image_raw")
        if len(self.image_topics) > MAX_CAMERAS:
            raise ConfigError(f"image_topics has {len(self.image_topics)} topics, expected at most {MAX_CAMERAS}")
        for name in ("depth_topics", "camera_info_topics"):
            topics = getattr(self, name)
            if any(topics) and len(topics) != len(self.image_topics):
                raise ConfigError(
                    f"{name} has {len(topics)} topics and image_topics {len(self.image_topics)}; "
                    "give one for each image topic, '' for none"
                )


@dataclass(frozen=True)
class SceneConfig:
    """What the procedural scene generator draws (training/scenes); lengths are in units of the picture's short side.

    ``hidden_frames`` is how long an occlusion covers its target's centre; the whole of it is hidden for less.
    """

    min_objects: int = _number(2, 16, 2)
    max_objects: int = _number(2, 16, 5)
    small_radius: tuple[float, float] = (0.07, 0.09)
    medium_radius: tuple[float, float] = (0.12, 0.145)
    large_radius: tuple[float, float] = (0.19, 0.225)
    max_speed: float = _number(0.0, 0.2, 0.03)
    still_share: float = _number(*_SHARE, 0.3)
    deformation: float = _number(0.0, 0.1, 0.04)
    scale_change: float = _number(0.0, 0.1, 0.08)
    light_change: float = _number(0.0, 0.25, 0.1)
    noise_std: float = _number(0.0, 16.0, 2.5)
    hidden_frames: tuple[float, float] = (5.0, 15.0)

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_range("max_objects", self.max_objects, self.min_objects, 16)


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of training: ``steps`` batches of ``clips`` clips, each ``frames`` frames with ``prompts`` prompts.

    ``texts`` more questions about each clip are answered in words alone.
    """

    steps: int = _number(0, _MOST)
    clips: int = _number(1, _MOST)
    prompts: int = _number(0, _MOST)
    learning_rate: float = _number(0.0, 1.0)
    frames: int = _number(1, _MOST, 1)
    max_stride: int = _number(1, _MOST, 1)
    texts: int = _number(0, _MOST, 0)

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """How the nano weights are trained: pixels, prompts on pictures, clips, words, and a memory that is needed at last.

    ``memory_true_shares`` is the share of memories that are written from true masks where the last phase starts, and
    where it ends; its first third has two frames a clip. ``text_dropout`` is the share of prompts whose words are
    taken away after a clip's first frame, in the third phase and the last.
    """

    seed: int = _number(0, 2**62, 0)
    pixels: PhaseConfig = PhaseConfig(steps=1000, clips=32, prompts=0, learning_rate=3e-3)
    image: PhaseConfig = PhaseConfig(steps=4000, clips=12, prompts=8, learning_rate=1.5e-3, texts=4)
    video: PhaseConfig = PhaseConfig(steps=600, clips=6, prompts=2, learning_rate=6e-4, frames=4, max_stride=2, texts=4)
    words: PhaseConfig = PhaseConfig(
        steps=2600, clips=12, prompts=2, learning_rate=4e-3, frames=4, max_stride=2, texts=6
    )
    memory: PhaseConfig = PhaseConfig(steps=600, clips=6, prompts=4, learning_rate=7e-4, frames=4, max_stride=4)
    kind_odds: tuple[float, ...] = _number(*_SHARE, (0.4, 0.2, 0.1, 0.1, 0.2))
    memory_kind_odds: tuple[float, ...] = _number(*_SHARE, (0.25, 0.1, 0.0, 0.5, 0.15))
    weight_decay: float = _number(*_WEIGHT, 0.02)
    betas: tuple[float, float] = _number(*_DECAY, (0.9, 0.98))
    clip_norm: float = _number(_ABOVE_ZERO, 1e6, 1.0)
    warmup_steps: int = _number(1, _MOST, 100)
    ema_decay: float = _number(*_DECAY, 0.998)
    auxiliary_weight: float = _number(*_WEIGHT, 1.0)
    true_memory_share: float = _number(*_SHARE, 0.5)
    memory_true_shares: tuple[float, float] = _number(*_SHARE, (1.0, 0.2))
    remembered_share: float = _number(*_SHARE, 0.5)
    nameless_share: float = _number(*_SHARE, 0.3)
    text_dropout: float = _number(*_SHARE, 0.0)
    start_in_place: bool = True
    recollection_weight: float = _number(*_WEIGHT, 1.0)
    text_weight: float = _number(*_WEIGHT, 2.0)
    keep_weight: float = _number(*_WEIGHT, 10.0)
    clip_share: float = _number(*_SHARE, 0.4)
    tokenizer_sentences: int = _number(1, _MOST, 20_000)
    checkpoint_every: int = _number(1, _MOST, 100)
    score_every: int = _number(1, _MOST, 250)

    phases: ClassVar[tuple[str, ...]] = ("pixels", "image", "video", "words", "memory")
    unrolled: ClassVar[tuple[str, ...]] = ("video", "memory")

    def __post_init__(self) -> None:
        _check_fields(self)
        for name, odds in (("kind_odds", self.kind_odds), ("memory_kind_odds", self.memory_kind_odds)):
            if len(odds) != len(TrainConfig.kind_odds) or abs(sum(odds) - 1) > 1e-8:
                raise ConfigError(f"{name} is {odds}, expected {len(TrainConfig.kind_odds)} shares that add up to 1")
        for name, phase in ((name, self.phase(name)) for name in self.phases if self.phase(name).steps):
            _check_range(f"learning_rate of {name}", phase.learning_rate, _ABOVE_ZERO, 1.0)
            _check_range(f"prompts of {name}", phase.prompts, int(name != self.phases[0]), _MOST)  # the first asks none
            _check_range(f"frames of {name}", phase.frames, 1 + (name in self.unrolled), _MOST)

    def phase(self, name: str) -> PhaseConfig:
        """Return the settings of a phase."""
        found: PhaseConfig = getattr(self, name)
        return found


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """How a smaller network learns from a larger one: first its features, then its answers to clicks and prompts.

    ``rounds`` is how often a click is asked; before each round but the first, a point is added where the two differ.
    """

    features: PhaseConfig = PhaseConfig(steps=3000, clips=16, prompts=0, learning_rate=3e-3)
    clicks: PhaseConfig = PhaseConfig(steps=1000, clips=8, prompts=3, learning_rate=1e-3)
    prompts: PhaseConfig = PhaseConfig(steps=1000, clips=6, prompts=4, learning_rate=1e-3, frames=2, max_stride=2)
    rounds: int = _number(1, 16, 3)
    checkpoint_every: int = _number(1, _MOST, 50)

    phases = ("features", "clicks", "prompts")
