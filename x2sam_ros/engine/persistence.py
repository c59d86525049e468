"""Saved sessions: what a session follows, in a file, so that tracking goes on after a restart.

A saved session is one safetensors file: tensors as such, all else as JSON in its metadata. One file, because one rename
replaces it as a whole: after a power cut the old one is there or the new one. A SHA-256 guards the JSON and a checksum
each tensor, so damage is noticed, and damage to one target costs that target only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from x2sam_ros import __version__
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.masks import MASK_STRIDE
from x2sam_ros.engine.memory_policy import PolicyGuard
from x2sam_ros.engine.packing import Damage, Packer, Unpacker, checksum, raw_bytes
from x2sam_ros.engine.preprocess import at_side
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PluginError, SavedSessionError
from x2sam_ros.model.config import SegmentorConfig
from x2sam_ros.model.int8 import EXACT, weights_of
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins

FORMAT, VERSION = "x2sam_ros saved session", "3"
"""The version is raised whenever a release of before would read a file wrongly."""

_READ = ("1", "2", VERSION)
"""Versions that can be read; "1" knows no merged conversations, and neither "1" nor "2" when a target was seen."""

LAST_FRAME = -1
"""Index of the newest frame once it is loaded: the first of a process is 0."""

_OWN_WAY = ("head", "memory", "targets")
"""Fields of a group that are not simply packed."""

_MAX_NAMED = 3
"""Settings of a network that an error names before it only counts."""

_writing = threading.Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionState:
    """What of a session outlives its process.

    Args:
        groups: prompts with their memories and targets, in the session's order; each has a memory.
        next_target_id: the id that the next new target gets if it is free.
        prompt_ids: ids that prompts have used, oldest first.
        frame_index: of the newest frame.
        left_out: what a damaged file lacks, a sentence each.
    """

    groups: tuple[Group, ...] = ()
    next_target_id: int = 1
    prompt_ids: tuple[str, ...] = ()
    frame_index: int = LAST_FRAME
    left_out: tuple[str, ...] = ()

    @property
    def target_ids(self) -> set[int]:
        """Ids of all targets."""
        return {target_id for group in self.groups for target_id in group.targets}


@dataclass(frozen=True)
class Snapshot:
    """A session's state at one moment, in memory of its own: any thread may write it while the session goes on.

    Args:
        content: JSON-ready.
        tensors: on the host, by the names that ``content`` has for them.
    """

    content: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: SessionState, model: X2SAM, policy: PolicyGuard) -> Snapshot:
        """Copy what is to be saved.

        Args:
            state: what the session holds.
            model: its network.
            policy: its memory policy.
        """
        packer = Packer()
        content = {
            **_origin(model, policy),
            "next_target_id": state.next_target_id,
            "prompt_ids": list(state.prompt_ids),
            "frame_index": state.frame_index,
            "groups": [_pack_group(packer, group, f"groups.{index}") for index, group in enumerate(state.groups)],
        }
        return cls(content, packer.tensors)

    def write(self, path: str | Path) -> None:
        """Write the file; one that is there is replaced at the moment this one is whole and on the disk.

        Raises:
            SavedSessionError: it cannot be written there; a file that is there stays as it is.
        """
        target = Path(path)
        checksums = {name: checksum(name, tensor) for name, tensor in self.tensors.items()}
        text = json.dumps({**self.content, "checksums": checksums}, separators=(",", ":"))
        metadata = {"format": FORMAT, "version": VERSION, "sha256": _sha256(text), "session": text}
        raw = save(dict(self.tensors), metadata)
        with _writing:  # two threads would share the part
            try:
                _replace(target, raw)
            except (OSError, ValueError) as error:  # a path may hold what no path can
                raise SavedSessionError(f"{target} cannot be written: {error}; give another place") from error


def load_state(path: str | Path, model: X2SAM, config: EngineConfig, policy: PolicyGuard) -> SessionState:
    """Read a saved session.

    Frames are counted anew: the newest one gets the index -1, so that frame 0, the first of this process, has the gaps
    to its memories that the next one would have had. Stamps stay what they were.

    Args:
        path: what ``Snapshot.write`` wrote.
        model: the network it was saved with, weights of the same type; it may be on another device.
        config: caps.
        policy: one of the name and capacity it was saved with.

    Raises:
        SavedSessionError: there is no such file, nothing in it can be trusted, or it belongs to another model, policy
            or configuration.
    """
    source = Path(path)
    try:
        with safe_open(source, framework="pt") as file:
            content = _read_content(source, file.metadata() or {})
            _check_origin(source, content, model, policy)
            _check_room(source, content, config)
            unpacker = Unpacker(file.get_tensor, content["checksums"], model.device)
            return _Loader(unpacker, content, at_side(model.config.segmentor, config.input_side), policy).state()
    except OSError as error:
        raise SavedSessionError(f"cannot read the saved session {source}: {error}; check the path") from error
    except (SafetensorError, LookupError, TypeError, ValueError) as error:  # the last where another program wrote it
        raise _damaged(source, f"{type(error).__name__} {error}") from error


def identity(model: X2SAM) -> str:
    """Return what tells a network from others: its checkpoint's SHA-256, or that of its weights, all of them read."""
    if model.identity:
        return model.identity
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(raw_bytes(tensor.cpu()))
    return f"weights {digest.hexdigest()}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _replace(path: Path, raw: bytes) -> None:
    """Put a file in the place of another, as one change that is on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(raw)
        _flush(part)
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    _flush(path.absolute().parent)


def _flush(path: Path) -> None:
    """Wait until a file's values, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _origin(model: X2SAM, policy: PolicyGuard) -> dict[str, Any]:
    """Return what a saved session is tied to."""
    return {
        "writer": __version__,
        "network": dict(_flat(asdict(at_side(model.config.segmentor, policy.config.input_side)))),
        "checkpoint": identity(model),
        "dtype": str(model.bg_embeds.weight.dtype).removeprefix("torch."),
        "weights": weights_of(model),
        "memory_policy": {"name": policy.name, "capacity": policy.capacity},
    }


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as JSON has them, each with its path."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", list(value) if isinstance(value, tuple) else value


def _pack_group(packer: Packer, group: Group, path: str) -> dict[str, Any]:
    """Pack a group; its head is found again by its task, its memory gets the policy of the session that loads it."""
    names = [item.name for item in fields(group) if item.name not in _OWN_WAY]
    return {
        "task": group.head.task,
        "records": packer.pack(group.memory.records, f"{path}.records"),
        "entries": packer.pack(group.memory.entries, f"{path}.entries"),
        "targets": [packer.pack(target, f"{path}.targets.{key}") for key, target in group.targets.items()],
        "fields": {name: packer.pack(getattr(group, name), f"{path}.{name}") for name in names},
    }


def _read_content(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise SavedSessionError(f"{path} is no saved session; give a file that Session.save wrote")
    if metadata.get("version") not in _READ:
        raise SavedSessionError(
            f"{path} has version {metadata.get('version')!r:.20} of the format, expected '{VERSION}'; "
            "use the release of x2sam_ros that wrote it, or do without it and give the prompts again"
        )
    text = metadata.get("session", "")
    if _sha256(text) != metadata.get("sha256"):
        raise _damaged(path, "what it says of its tensors does not match its SHA-256")
    content: dict[str, Any] = json.loads(text)
    return content


def _check_origin(path: Path, content: Mapping[str, Any], model: X2SAM, policy: PolicyGuard) -> None:
    """Raise SavedSessionError where a file is not for this network, memory policy or installation."""
    here = _origin(model, policy)
    theirs, ours = content["network"], here["network"]
    if names := [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]:
        shown = "; ".join(f"{name} {theirs.get(name)}, here {ours.get(name)}" for name in names[:_MAX_NAMED])
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        raise _foreign(path, f"a network of other settings ({shown}{more})", "load that network")
    if content["checkpoint"] != here["checkpoint"]:
        what = f"checkpoint {content['checkpoint']:.20}, here it is {here['checkpoint']:.20}"
        raise _foreign(path, what, "load that checkpoint")
    if content["dtype"] != here["dtype"]:
        what = f"weights in {content['dtype']}, here they are in {here['dtype']}"
        raise _foreign(path, what, "load the model in that type")
    if (saved := content.get("weights", EXACT)) != here["weights"]:
        raise _foreign(path, f"weights {saved}, here they are {here['weights']}", "load the model with those")
    if content["memory_policy"] != here["memory_policy"]:
        theirs, ours = (
            f"'{known['name']}' of {known['capacity']} frames"
            for known in (content["memory_policy"], here["memory_policy"])
        )
        raise _foreign(path, f"memory policy {theirs}, here it is {ours}", "set memory_policy and num_maskmem so")
    for task in sorted({group["task"] for group in content["groups"]}):
        try:
            installed_plugins().task_head(task)
        except PluginError as error:
            raise _foreign(
                path, f"a task that is missing here: {error}", "install the plugin that offers it"
            ) from error


def _check_room(path: Path, content: Mapping[str, Any], config: EngineConfig) -> None:
    """Raise SavedSessionError where more targets are saved than may be followed."""
    count = sum(max(1, len(group["targets"])) for group in content["groups"])
    if count > config.max_targets:
        raise _foreign(path, f"{count} targets, at most {config.max_targets} may be followed here", "raise max_targets")


def _foreign(path: Path, what: str, remedy: str) -> SavedSessionError:
    return SavedSessionError(f"{path} was saved with {what}; {remedy}, or do without it and give the prompts again")


def _damaged(path: Path, reason: str) -> SavedSessionError:
    return SavedSessionError(
        f"{path} is damaged: {' '.join(reason.split()):.200}; name another file, or give the prompts again"
    )


class _Loader:
    """Build the groups of a file that is known to be for this model, and leave out what is damaged."""

    def __init__(
        self, unpacker: Unpacker, content: Mapping[str, Any], config: SegmentorConfig, policy: PolicyGuard
    ) -> None:
        self._unpack, self._content, self._policy = unpacker.unpack, content, policy
        side, memory = config.image_size // (MASK_STRIDE * config.memory.mask_stride), config.memory
        self._entry = [(1, memory.encoder_channels, side, side)] * len(memory.feature_strides)
        self._width = config.decoder.hidden
        self._left_out: list[str] = []

    def state(self) -> SessionState:
        """Return all that can be used."""
        saved = self._content["groups"]
        groups = [self._group(data) for data in saved]
        # their prompts are to be given again
        lost = {name for data, group in zip(saved, groups) if group is None for name in _prompt_ids(data["fields"])}
        for sentence in self._left_out:
            _log.warning("%s", sentence)
        return SessionState(
            groups=tuple(group for group in groups if group is not None),
            next_target_id=self._content["next_target_id"],
            prompt_ids=tuple(prompt_id for prompt_id in self._content["prompt_ids"] if prompt_id not in lost),
            left_out=tuple(self._left_out),
        )

    def _group(self, data: Mapping[str, Any]) -> Group | None:
        """Return a group with those of its targets that are whole; None where it is damaged, or has lost them all."""
        targets = data["targets"]
        try:
            values = {name: self._unpack(value) for name, value in data["fields"].items()}
            head = installed_plugins().task_head(data["task"])()
            group = Group(head=head, memory=self._memory(data), **values)
            self._check_condition(group)
        except Damage as damage:
            for target in targets:
                self._leave_out(target, f"its prompt is damaged: {damage}")
            if not targets:
                prompt_id = data["fields"]["prompt"]["prompt_id"]
                self._left_out.append(f"prompt '{prompt_id}', which found nothing yet, is left out: {damage}")
            return None
        for target in targets:
            try:
                group.targets[target["target_id"]] = self._target(target, group)
            except Damage as damage:
                self._leave_out(target, str(damage))
        group.shift(LAST_FRAME - self._content["frame_index"])
        return None if targets and not group.targets else group

    def _leave_out(self, target: Mapping[str, Any], reason: str) -> None:
        name = f"target {target['target_id']} ('{target['label']}')"
        self._left_out.append(f"{name} is left out: {reason}; give its prompt again")

    def _memory(self, data: Mapping[str, Any]) -> MaskMemory:
        """Return the memory of a group."""
        records, entries = self._unpack(data["records"]), self._unpack(data["entries"])
        if not 1 <= len(records) == len(entries) <= self._policy.capacity:
            raise Damage(f"it has {len(records)} records of {len(entries)} memories, at most {self._policy.capacity}")
        for index, entry in enumerate(entries):
            if [tuple(x.shape) for x in entry.embeds] != self._entry:
                raise Damage(f"memory {index} is {[tuple(x.shape) for x in entry.embeds]}, expected {self._entry}")
        return MaskMemory.of(self._policy, records, entries)

    def _check_condition(self, group: Group) -> None:
        """Raise Damage where a condition does not fit the network, or the group's labels, or these its prompts."""
        if len(group.members) not in (0, len(group.labels)):
            raise Damage(f"it has {len(group.members)} prompts for {len(group.labels)} labels")
        rows, tokens, width = len(group.labels) + 1, group.condition.token_mask.shape[-1], self._width
        expected = [(1, rows, width), (1, rows), (1, tokens, width), (1, tokens), (1, 1, width)]
        found = [tuple(getattr(group.condition, item.name).shape) for item in fields(group.condition)]
        if found != expected:
            raise Damage(f"its condition is {found}, expected {expected}")

    def _target(self, data: Mapping[str, Any], group: Group) -> Target:
        target: Target = self._unpack(data)
        masks = [target.last_mask, *(mask for mask, _ in target.history)]
        if any(not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.ndim != 2 for mask in masks):
            raise Damage("a mask of it is not bool (h, w)")
        if target.logits is not None and (target.logits.ndim != 2 or not target.logits.is_floating_point()):
            raise Damage(f"its mask is {target.logits.dtype} {tuple(target.logits.shape)}, expected float (h, w)")
        if not 0 <= target.class_index < len(group.labels) or not math.isfinite(target.score):
            raise Damage(f"it has score {target.score} for label {target.class_index} of {len(group.labels)}")
        return target


def _prompt_ids(fields_of_group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the prompts that a packed group follows."""
    yield fields_of_group["prompt"]["prompt_id"]
    for member in fields_of_group.get("members", ()):
        yield member["prompt"]["prompt_id"]
