"""Make clips of simple moving shapes with complete ground truth, from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from x2sam_ros.config import SceneConfig
from x2sam_ros.errors import ConfigError
from x2sam_ros.training.scenes import render
from x2sam_ros.training.scenes.clip import Clip, SceneObject
from x2sam_ros.training.scenes.layout import (
    Layer,
    Layout,
    choose_backdrop,
    choose_windows,
    object_rgb,
    texture_tile,
)
from x2sam_ros.training.scenes.outlines import outer_radius, polygon_area, wobbling_outline
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES, pick

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

KINDS: tuple[str, ...] = ("plain", "occlusion", "reentry", "twins", "distractors")
TEXTURES: tuple[str, ...] = ("plain", "stripes", "dots", "noise")
_SIZE_ODDS: tuple[str, ...] = ("small", "small", "medium", "medium", "large")
_DEFAULTS = SceneConfig()
_SLACK = 1.12  # an outline's reach over that of its rigid shape: wobble and scale


@dataclass(eq=False)
class Draft:
    """An object while the scene is being laid out, in metric units; its ``path`` is float (T, 2)."""

    shape: str
    colour: str
    size: str
    texture: str
    radius: float
    path: Doubles = field(default_factory=lambda: np.zeros((1, 2)))

    @property
    def reach(self) -> float:
        """How far from its centre it may extend."""
        return self.radius * outer_radius(self.shape) * _SLACK


@dataclass(frozen=True)
class Bar:
    """A straight occluder that is no object; at an angle of 0 its width lies along x."""

    path: Doubles
    width: float
    angle: float
    length: float = 4.0


class Scene:
    """The layout of one clip; every choice is drawn from one generator and none depends on the resolution.

    Attributes:
        drafts: The objects in the order in which they were added.
        bar: What lies in front of them, if anything does.
    """

    def __init__(self, rng: np.random.Generator, num_frames: int, extent: tuple[float, float], config: SceneConfig):
        self.rng, self.num_frames, self.extent, self.config = rng, num_frames, np.array(extent), config
        self.time = np.arange(num_frames, dtype=np.float64)
        self.drafts: list[Draft] = []
        self.bar: Bar | None = None

    def _radius(self, size: str) -> float:
        return float(self.rng.uniform(*getattr(self.config, f"{size}_radius")))

    def add_attributes(self, sizes: tuple[str, ...] = _SIZE_ODDS) -> Draft:
        """Draw an object's attributes; it often shares one with an earlier object, so that both words are needed."""
        shape, colour = pick(self.rng, SHAPES), pick(self.rng, COLOURS)
        if self.drafts and self.rng.random() < 0.4:
            other = self.drafts[int(self.rng.integers(len(self.drafts)))]
            shape, colour = (other.shape, colour) if self.rng.random() < 0.5 else (shape, other.colour)
        return self.add(shape, colour, pick(self.rng, sizes))

    def add(self, shape: str, colour: str, size: str) -> Draft:
        """Add an object of the given attributes, not placed yet."""
        draft = Draft(shape, colour, size, pick(self.rng, TEXTURES), self._radius(size))
        self.drafts.append(draft)
        return draft

    def place(self, taken: list[Draft], free: list[Draft]) -> list[Draft]:
        """Find frame-0 places inside the image for ``free``, apart from ``taken``; return those that fit."""
        placed = list(taken)
        for draft in sorted(free, key=lambda d: -d.reach):
            for attempt in range(120):
                if attempt == 80 and draft.size != "small":
                    draft.size, draft.radius = "small", self._radius("small")
                point = self.rng.uniform(draft.reach, np.maximum(self.extent - draft.reach, draft.reach + 1e-6))
                gaps = [np.linalg.norm(point - d.path[0]) - 0.5 * (d.radius + d.reach) for d in placed]
                if all(gap > 0.5 * (draft.radius + draft.reach) for gap in gaps):
                    draft.path = self._travel(point, draft)
                    placed.append(draft)
                    break
        return placed

    def wobble(self, amplitude: float) -> Doubles:
        """Return how far something strays that stands about still: (T, 2), 0 on the first frame."""
        phase, speed = self.rng.uniform(0, 2 * np.pi, 2), self.rng.uniform(0.1, 0.4, 2)
        waves = np.sin(phase + self.time[:, None] * speed)
        return np.asarray(amplitude * (waves - waves[0]), np.float64)

    def _travel(self, start: Doubles, draft: Draft) -> Doubles:
        """Return a path from ``start``: still, along an axis, or in any direction; it bounces or leaves and returns."""
        draw, top = self.rng.random(), self.config.max_speed
        speed = float(self.rng.uniform(0.35, 1.0)) * top
        angle = self.rng.uniform(0, 2 * np.pi) if draw > 0.85 else self.rng.integers(4) * np.pi / 2
        leaves = self.rng.random() < 0.2
        wobble = self.wobble(0.003 if draw < self.config.still_share else 0.008)
        if draw < self.config.still_share:
            return start + wobble
        margin = -1.1 * draft.reach if leaves else draft.reach
        span = np.maximum(self.extent - 2 * margin, 1e-3)
        raw = start + self.time[:, None] * speed * np.array([np.cos(angle), np.sin(angle)]) - margin
        folded = span - np.abs(np.mod(raw, 2 * span) - span)
        return np.asarray(folded + margin + wobble, np.float64)


def _hidden_frames(scene: Scene, reach: float, half: float) -> tuple[float, float]:
    """Return the speed and the middle of a passage that covers for ``hidden_frames``, fewer in a short clip.

    Args:
        scene: Gives the clip's length.
        reach: Distance over which the target counts as covered.
        half: Distance from the middle at which it is free again.
    """
    last = scene.num_frames - 1
    frames = min(float(scene.rng.uniform(*scene.config.hidden_frames)), last * reach / (2 * half) * 0.95)
    speed = reach / max(frames, 0.5)
    middle = float(scene.rng.uniform(half / speed, max(last - half / speed, half / speed + 1e-6)))
    return speed, middle


def _occlusion(scene: Scene, count: int) -> list[Draft]:
    """Lay out a target that something passes in front of: a static bar, a moving bar or a large object."""
    rng = scene.rng
    target = scene.add_attributes(("small", "medium"))
    style = int(rng.integers(3))
    others = [scene.add_attributes(("small", "small", "medium")) for _ in range(count - (2 if style == 2 else 1))]
    if style == 0:
        width, axis, sign = 2.2 * target.radius, int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
        half = width / 2 + 0.6 * target.reach
        speed, middle = _hidden_frames(scene, width, half)
        room = np.maximum(scene.extent / 2 - target.reach, 0.0)
        room[axis] = max(room[axis] - half, 0.0)
        crossing = scene.extent / 2 + rng.uniform(-1, 1, 2) * room
        target.path = np.tile(crossing, (scene.num_frames, 1))
        target.path[:, axis] += sign * np.clip(speed * (scene.time - middle), -half, half)
        scene.bar = Bar(np.tile(crossing, (scene.num_frames, 1)), width, 0.0 if axis == 0 else np.pi / 2)
        return [*scene.place([target], others)[1:], target]
    scene.place([], [target])
    target.path = target.path[0] + scene.wobble(0.01)
    angle = float(rng.uniform(0, 2 * np.pi))
    front = scene.add(pick(rng, SHAPES[:2]), pick(rng, COLOURS), "large") if style == 2 else None
    cover = 2.0 * front.radius if front else 2.2 * target.radius
    half = cover / 2 + (0.9 if front else 0.7) * target.reach
    speed, middle = _hidden_frames(scene, cover, half)
    offset = speed * (scene.time - middle)[:, None] * np.array([np.cos(angle), np.sin(angle)])
    path = target.path + offset
    scene.place([target], others)
    placed = [o for o in others if len(o.path) == scene.num_frames]
    if front is None:
        scene.bar = Bar(path, cover, angle)
        return [*placed, target]
    front.path = path
    return [*placed, target, front]


def _reentry(scene: Scene, count: int) -> list[Draft]:
    """Lay out a target that leaves the picture and returns, often elsewhere along the same side."""
    rng = scene.rng
    target = scene.add_attributes(("small", "medium"))
    others = [scene.add_attributes() for _ in range(count - 1)]
    placed = scene.place([], [target]) and scene.place([target], others)
    start, axis, sign = target.path[0].copy(), int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
    edge = scene.extent[axis] if sign > 0 else 0.0
    distance = abs(edge - start[axis]) + 1.25 * target.reach
    last = scene.num_frames - 1
    keys = last * np.array([0.0, 0.1, 0.38, 0.62, 0.9, 1.0])
    keys[3] = max(keys[3], min(keys[2] + 1.01, last))
    keys[4:] = np.maximum(keys[4:], keys[3] + 1e-3)
    away = np.interp(scene.time, keys, [0, 0, 1, 1, 0, 0])
    other_place = rng.uniform(target.reach, scene.extent[1 - axis] - target.reach)
    target.path = np.tile(start, (scene.num_frames, 1))
    target.path[:, axis] += sign * distance * away
    target.path[:, 1 - axis] = np.where(scene.time < 0.5 * last, start[1 - axis], other_place)
    return [*placed[1:], target]


def _lay_out(scene: Scene, kind: str, count: int) -> tuple[list[Draft], Draft]:
    """Return the objects from far to near and the one the kind is about."""
    rng = scene.rng
    if kind in ("occlusion", "reentry"):
        drafts = _occlusion(scene, count) if kind == "occlusion" else _reentry(scene, count)
        return drafts, scene.drafts[0]
    sizes = _SIZE_ODDS if count < 4 else _SIZE_ODDS[:4]
    target = scene.add_attributes(sizes if kind == "plain" else ("small", "medium"))
    pinned = [target]
    if kind == "twins":
        twin = scene.add(target.shape, target.colour, target.size)
        twin.radius, twin.texture = target.radius, target.texture
        pinned.append(twin)
    while len(scene.drafts) < count:
        if kind == "distractors":
            same_colour = rng.random() < 0.5
            shape = pick(rng, tuple(s for s in SHAPES if s != target.shape)) if same_colour else target.shape
            colour = target.colour if same_colour else pick(rng, tuple(c for c in COLOURS if c != target.colour))
            scene.add(shape, colour, pick(rng, sizes))
        else:
            scene.add_attributes(sizes)
    placed = scene.place([], pinned)
    placed = scene.place(placed, [d for d in scene.drafts if d not in pinned])
    order = rng.permutation(len(placed))
    return [placed[int(i)] for i in order], target


def motion_name(path: Doubles) -> str:
    """Return the word that is true of a metric path (T, 2) over the whole clip, or "mixed"."""
    travel = path - path[0]
    if np.abs(travel).max() < 0.02:
        return "still"
    net = travel[-1]
    axis = int(np.abs(net).argmax())
    steps = np.diff(path[:, axis]) * np.sign(net[axis])
    straight = np.abs(travel[:, 1 - axis]).max() < 0.35 * abs(net[axis])
    if abs(net[axis]) < 0.05 or not straight or -steps[steps < 0].sum() > 0.1 * abs(net[axis]):
        return "mixed"
    return (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]


def _object_layer(draft: Draft, label: int, scene: Scene) -> Layer:
    rng, config = scene.rng, scene.config
    phase, speed = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.03, 0.2, 2)
    radius = draft.radius * (1 + config.scale_change * np.sin(phase[0] + speed[0] * scene.time))
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.04, 0.04) * scene.time
    centre = draft.path.astype(np.float32)
    outline = wobbling_outline(draft.shape, radius, centre, angle, config.deformation, rng)
    area_radius = np.sqrt(polygon_area(outline) / np.pi).astype(np.float32)
    rgb, tile = object_rgb(draft.colour, rng), texture_tile(draft.texture, rng)
    return Layer(outline, centre, area_radius, angle.astype(np.float32), rgb, tile, label)


def _bar_layer(bar: Bar, scene: Scene) -> Layer:
    c, s = np.cos(bar.angle), np.sin(bar.angle)
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * [bar.width, bar.length]
    outline = (corners @ np.array([[c, s], [-s, c]]))[None] + bar.path[:, None]
    grey = scene.rng.uniform(50, 150) * np.array([1.0, scene.rng.uniform(0.85, 1.0), scene.rng.uniform(0.75, 0.95)])
    steady = np.ones(scene.num_frames, np.float32)
    tile = texture_tile(pick(scene.rng, TEXTURES[1:]), scene.rng, 0.2)
    rgb = (float(grey[0]), float(grey[1]), float(grey[2]))
    return Layer(
        outline.astype(np.float32), bar.path.astype(np.float32), 0.15 * steady, bar.angle * steady, rgb, tile, 0
    )


def lay_out(
    seed: int,
    num_frames: int,
    height: int,
    width: int,
    config: SceneConfig = _DEFAULTS,
    kind: str = "plain",
    aspect: float | None = None,
) -> Layout:
    """Choose the clip of a seed; another resolution shows the same scene. See `generate_clip`."""
    if kind not in KINDS:
        raise ConfigError(f"scene kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if num_frames < 1 or min(height, width) < 16:
        raise ConfigError(f"clip is {num_frames} x {height} x {width}, expected 1 frame and 16 x 16 pixels or more")
    rng = np.random.Generator(np.random.PCG64(seed))
    scene = Scene(rng, num_frames, metric_extent(width / height if aspect is None else aspect), config)
    drafts, target = _lay_out(scene, kind, int(rng.integers(config.min_objects, config.max_objects + 1)))
    return compose(scene, drafts, target, (height, width), kind)


def metric_extent(aspect: float) -> tuple[float, float]:
    """Return the width and height of a picture of this width over height, the short side 1."""
    return max(aspect, 1.0), max(1.0 / aspect, 1.0)


def compose(scene: Scene, drafts: list[Draft], target: Draft, size: tuple[int, int], kind: str) -> Layout:
    """Choose what is left of a scene whose objects are placed: outlines, colours, backdrop, light and noise.

    Args:
        scene: The scene.
        drafts: Its objects from far to near.
        target: The one the scene is about.
        size: Height and width of a picture, pixels.
        kind: What it is called.
    """
    rng, config = scene.rng, scene.config
    layers = [_object_layer(draft, k + 1, scene) for k, draft in enumerate(drafts)]
    objects = tuple(_object(draft, layer, scene) for draft, layer in zip(drafts, layers))
    if scene.bar is not None:
        layers.append(_bar_layer(scene.bar, scene))
    backdrop = choose_backdrop(rng, dark=any(d.colour == "white" for d in drafts))
    phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3)
    light = 1 + config.light_change * (np.sin(phase + speed * scene.time) - 0.2)[:, None] * rng.uniform(0.9, 1.1, 3)
    return Layout(
        size=size,
        extent=(float(scene.extent[0]), float(scene.extent[1])),
        layers=tuple(layers),
        backdrop=backdrop,
        gains=light.astype(np.float32),
        noise_std=config.noise_std,
        windows=choose_windows(rng, scene.num_frames),
        objects=objects,
        kind=kind,
        target=next(k for k, draft in enumerate(drafts) if draft is target),
    )


def _object(draft: Draft, layer: Layer, scene: Scene) -> SceneObject:
    return SceneObject(
        shape=draft.shape,
        colour=draft.colour,
        size_name=draft.size,
        texture=draft.texture,
        motion=motion_name(draft.path),
        centre=(draft.path / scene.extent).astype(np.float32),
        radius=layer.radius,
    )


def generate_clip(
    seed: int,
    num_frames: int,
    height: int,
    width: int,
    config: SceneConfig = _DEFAULTS,
    kind: str = "plain",
    aspect: float | None = None,
) -> Clip:
    """Draw the clip of a seed; another resolution shows the same scene.

    Args:
        seed: Chooses the scene.
        num_frames: Frames, 1 or more.
        height: Pixels, 16 or more.
        width: Pixels, 16 or more.
        config: What scenes contain.
        kind: One of ``KINDS``. "occlusion": something passes in front of the target; "reentry": the target leaves
            and returns; "twins": two alike objects; "distractors": the others share the target's colour or shape.
        aspect: Width over height of the scene when it is squashed into the picture; the picture's own when None.

    Raises:
        ConfigError: The kind is unknown or the clip has no frame or hardly a pixel.
    """
    return render.draw(lay_out(seed, num_frames, height, width, config, kind, aspect))
