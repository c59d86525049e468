"""Tiny copies of the layouts of public datasets. Each writer returns the labels it wrote: sequence to (T, H, W)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import header_fields

SIZE = (24, 40)
CAMERA, LABELS = "/camera/image_raw", "/ground_truth/label_image"

Labels = npt.NDArray[np.uint8]


def moving_boxes(frames: int = 4, objects: int = 2, size: tuple[int, int] = SIZE) -> Labels:
    """Draw boxes that move; the second is absent from frame 0 and vanishes from frame 2, then comes back."""
    labels = np.zeros((frames, *size), np.uint8)
    for frame in range(frames):
        for number in range(objects):
            if number != 1 or frame not in (0, 2):
                labels[frame, 2 + 8 * number : 8 + 8 * number, 3 + 2 * frame : 14 + 2 * frame + number] = number + 1
    return labels


def write_images(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for name in names:
        Image.fromarray(noise).save(folder / name)


def write_palette(path: Path, labels: Labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, "L").convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(path)


def write_colours(path: Path, numbers: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = [(numbers.astype(np.int64) >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
    Image.fromarray(np.stack(channels, axis=-1)).save(path)


def write_json(path: Path, said: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said), encoding="utf-8")


def rle(mask: npt.NDArray[np.bool_], is_compressed: bool = True) -> dict[str, Any]:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if is_compressed:
        return {"size": list(mask.shape), "counts": packed["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def tracks(labels: Labels, is_compressed: bool = True) -> list[list[dict[str, Any] | None]]:
    """Return a list for each object: its run lengths on each frame, None where it is absent."""
    ids = range(1, int(labels.max()) + 1)
    return [[rle(frame == i, is_compressed) if (frame == i).any() else None for frame in labels] for i in ids]


def frame_names(count: int, suffix: str = ".jpg", step: int = 1) -> list[str]:
    return [f"{number * step:05d}{suffix}" for number in range(count)]


def write_davis(root: Path, year: str = "2017", value: int | None = None) -> dict[str, Labels]:
    """Two sequences of split val; with ``value`` everything that is marked has it, as 255 in DAVIS 2016."""
    written = {}
    for name, count in (("bear", 4), ("swan-2", 3)):
        labels = moving_boxes(count)
        if value is not None:
            labels = np.where(labels > 0, np.uint8(value), np.uint8(0))
        write_images(root / "JPEGImages/480p" / name, frame_names(count))
        for file, frame in zip(frame_names(count, ".png"), labels):
            write_palette(root / "Annotations/480p" / name / file, frame)
        written[name] = labels
    sets = root / "ImageSets" / year / "val.txt"
    sets.parent.mkdir(parents=True)
    sets.write_text("".join(f"{name}\n" for name in written), encoding="utf-8")
    return written


def write_sequences(root: Path) -> dict[str, Labels]:
    """A sequences.json with a clip of value 255 and one of two objects."""
    said, written = [], {}
    for name, value in (("one", 255), ("two", None)):
        labels = moving_boxes() if value is None else (moving_boxes(objects=1) > 0).astype(np.uint8) * np.uint8(value)
        write_images(root / "clips" / name / "frames", frame_names(4))
        for file, frame in zip(frame_names(4, ".png"), labels):
            write_palette(root / "clips" / name / "masks" / file, frame)
        objects = [
            {"id": i, "mask_value": value or i, "class_name": ("dog", "car")[i - 1], "expressions": [f"thing {i}"]}
            for i in ((1,) if value else (1, 2))
        ]
        said.append(
            {
                "name": name, "dir": f"clips/{name}", "frames": "frames/%05d.jpg", "masks": "masks/%05d.png",
                "n_frames": 4, "nominal_fps": 24, "objects": objects, "negative_expressions": ["a whale"],
            }
        )  # fmt: skip
        written[name] = labels
    write_json(root / "sequences.json", said)
    return written


def write_youtube_vos(root: Path, split: str = "valid") -> dict[str, Labels]:
    """A video of six images of which every fifth has a mask: frames 0 and 5."""
    labels = moving_boxes(2)
    folder = root / split
    write_images(folder / "JPEGImages/v1", frame_names(6))
    for file, frame in zip(frame_names(2, ".png", step=5), labels):
        write_palette(folder / "Annotations/v1" / file, frame)
    objects = {"1": {"category": "dog", "frames": ["00000"]}, "2": {"category": "cat", "frames": ["00005"]}}
    write_json(folder / "meta.json", {"videos": {"v1": {"objects": objects}}})
    return {"v1": labels}


def write_youtube_vis(root: Path, split: str = "valid", is_compressed: bool = False) -> dict[str, Labels]:
    labels = moving_boxes()
    write_images(root / split / "JPEGImages/a1", frame_names(4))
    annotations = [
        {"id": 70 + i, "video_id": 9, "category_id": 5 + i, "iscrowd": 0, "segmentations": track}
        for i, track in enumerate(tracks(labels, is_compressed))
    ]
    videos = [{"id": 9, "height": SIZE[0], "width": SIZE[1], "file_names": [f"a1/{n}" for n in frame_names(4)]}]
    categories = [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}]
    write_json(root / f"{split}.json", {"videos": videos, "annotations": annotations, "categories": categories})
    return {"a1": labels}


def write_ref_youtube_vos(root: Path, split: str = "train", is_split: bool = False) -> dict[str, Labels]:
    """With ``is_split`` each expression has masks of its own, as in the valid split."""
    labels = moving_boxes()
    write_images(root / split / "JPEGImages/v1", frame_names(4))
    expressions = {"0": {"exp": "the upper box"}, "1": {"exp": "the lower box"}}
    for number, expression in enumerate(expressions.values(), 1):
        if not is_split:
            expression["obj_id"] = str(number)
    for file, frame in zip(frame_names(4, ".png"), labels):
        for key in expressions if is_split else ():
            meant = (frame == int(key) + 1).astype(np.uint8) * np.uint8(255)
            write_palette(root / split / "Annotations/v1" / key / file, meant)
        if not is_split:
            write_palette(root / split / "Annotations/v1" / file, frame)
    frames = [Path(name).stem for name in frame_names(4)]
    said = {"videos": {"v1": {"expressions": expressions, "frames": frames}}}
    write_json(root / "meta_expressions" / split / "meta_expressions.json", said)
    return {"v1": labels}


def write_mevis(root: Path, split: str = "valid_u") -> dict[str, Labels]:
    """Annotations 11 and 12; expressions of one, of both, and of none."""
    labels = moving_boxes()
    write_images(root / split / "JPEGImages/v1", frame_names(4))
    frames = [Path(name).stem for name in frame_names(4)]
    meant = {"0": [11], "1": [11, 12], "2": []}
    expressions = {key: {"exp": f"words {key}", "obj_id": ids, "anno_id": ids} for key, ids in meant.items()}
    said = {"videos": {"v1": {"vid_id": 1, "expressions": expressions, "frames": frames}}}
    write_json(root / split / "meta_expressions.json", said)
    write_json(root / split / "mask_dict.json", dict(zip(("11", "12"), tracks(labels))))
    return {"v1": labels}


PANOPTIC_IDS = {0: 0, 1: 300, 2: 70_001, 3: 12}
"""Segment ids of VIPSeg and COCO panoptic, by label; 3 is stuff that covers the last rows, 0 is void."""

PANOPTIC_CATEGORIES = [
    {"id": 4, "name": "dog", "isthing": 1},
    {"id": 8, "name": "cat", "isthing": 1},
    {"id": 90, "name": "grass", "isthing": 0},
]


def _panoptic(frames: int) -> tuple[Labels, list[list[dict[str, Any]]]]:
    labels = moving_boxes(frames)
    labels[:, -4:] = 3
    category = {1: 4, 2: 8, 3: 90}
    segments = [
        [
            {"id": PANOPTIC_IDS[i], "category_id": category[i], "iscrowd": int(i == 2), "area": int((frame == i).sum())}
            for i in (1, 2, 3)
            if (frame == i).any()
        ]
        for frame in labels
    ]
    return labels, segments


def _coloured(labels: Labels) -> npt.NDArray[np.int64]:
    return np.array([PANOPTIC_IDS[i] for i in range(4)])[labels]


def write_vipseg(root: Path) -> dict[str, Labels]:
    labels, segments = _panoptic(4)
    write_images(root / "images/v7", frame_names(4))
    for file, frame in zip(frame_names(4, ".png"), labels):
        write_colours(root / "panomasksRGB/v7" / file, _coloured(frame))
    images = [
        {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(frame_names(4))
    ]
    frames = [
        {"image_id": i, "file_name": name, "segments_info": found}
        for i, (name, found) in enumerate(zip(frame_names(4, ".png"), segments))
    ]
    said = {
        "videos": [{"video_id": "v7", "images": images}],
        "annotations": [{"video_id": "v7", "annotations": frames}],
        "categories": PANOPTIC_CATEGORIES,
    }
    write_json(root / "panoptic_gt_VIPSeg_val.json", said)
    return {"v7": labels}


def write_coco_panoptic(root: Path) -> dict[str, Labels]:
    labels, segments = _panoptic(2)
    write_images(root / "val2017", ["000001.jpg", "000002.jpg"])
    for number, frame in enumerate(labels, 1):
        write_colours(root / "annotations/panoptic_val2017" / f"00000{number}.png", _coloured(frame))
    said = {
        "images": [{"id": i, "file_name": f"00000{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)],
        "annotations": [
            {"image_id": i, "file_name": f"00000{i}.png", "segments_info": found} for i, found in enumerate(segments, 1)
        ],
        "categories": PANOPTIC_CATEGORIES,
    }
    write_json(root / "annotations/panoptic_val2017.json", said)
    return {f"00000{number}": frame[None] for number, frame in enumerate(labels, 1)}


BOX = [4.0, 3.0, 20.0, 3.0, 20.0, 15.0, 4.0, 15.0]
"""A polygon; COCO's rules draw it on columns 4 to 19 and rows 3 to 14."""


def write_coco_instances(root: Path) -> dict[str, Labels]:
    """An image with a polygon (1) and a crowd in run lengths (2), and one with nothing."""
    labels = np.zeros((1, *SIZE), np.uint8)
    labels[0, 3:15, 4:20], labels[0, 16:22, 25:39] = 1, 2
    write_images(root / "val2017", ["000007.jpg", "000008.jpg"])
    shared = {"image_id": 7, "bbox": [0, 0, 1, 1], "area": 1}
    said = {
        "images": [{"id": i, "file_name": f"00000{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (7, 8)],
        "annotations": [
            {"id": 31, "category_id": 2, "iscrowd": 0, "segmentation": [BOX], **shared},
            {"id": 32, "category_id": 17, "iscrowd": 1, "segmentation": rle(labels[0] == 2, False), **shared},
        ],
        "categories": [{"id": 2, "name": "bicycle"}, {"id": 17, "name": "cat"}],
    }
    write_json(root / "annotations/instances_val2017.json", said)
    return {"000007": labels, "000008": np.zeros((1, *SIZE), np.uint8)}


def write_coco_images(root: Path) -> dict[str, Labels]:
    labels = moving_boxes(2)[1:]
    write_images(root / "images", ["7.jpg"])
    write_palette(root / "instances/7.png", labels[0])
    things = [
        {"id": 1, "category_id": 3, "category": "car", "expressions": ["the car", "a red car"]},
        {"id": 2, "category_id": 1, "category": "person"},
    ]
    write_json(root / "images.json", [{"image": "images/7.jpg", "instances": "instances/7.png", "objects": things}])
    return {"7": labels}


def write_reasonseg(root: Path, split: str = "val") -> None:
    """One photograph: a target, an area to ignore on it, and a smaller target on that."""
    write_images(root / split, ["a.jpg"])
    shapes = [
        {"label": "target", "points": [[2, 2], [30, 2], [30, 20], [2, 20]]},
        {"label": "ignore", "points": [[5, 5], [20, 5], [20, 15], [5, 15]]},
        {"label": "target", "points": [[8, 8], [10, 8], [10, 10], [8, 10]]},
        {"label": "flag", "points": [[0, 0], [39, 0], [39, 23]]},
    ]
    write_json(root / split / "a.json", {"text": ["what is it?", "where?"], "is_sentence": True, "shapes": shapes})


def write_camvid(root: Path, split: str = "val") -> dict[str, Labels]:
    """SegNet's layout: two clips, 11 is unlabelled."""
    written = {}
    for name, count in (("0016E5", 3), ("Seq05VD", 1)):
        labels = np.minimum(moving_boxes(count) * 4, 11).astype(np.uint8)
        labels[:, :2] = 11
        files = [f"{name}_{number:05d}.png" for number in range(count)]
        write_images(root / split, files)
        for file, frame in zip(files, labels):
            write_palette(root / f"{split}annot" / file, frame)
        written[name] = labels
    return written


def write_sceneparse(root: Path, split: str = "validation") -> dict[str, Labels]:
    labels = moving_boxes(2)
    names = [f"ADE_val_0000000{number}" for number in (1, 2)]
    write_images(root / "images" / split, [f"{name}.jpg" for name in names])
    for name, frame in zip(names, labels):
        write_palette(root / "annotations" / split / f"{name}.png", frame)
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.1\t1\t1\t1\twall", "2\t0.1\t1\t1\t0\tdoor, double door"]
    (root / "objectInfo150.txt").write_text("\n".join([*rows, "3\t0.1\t1\t1\t0\tscreen"]), encoding="utf-8")
    return {name: frame[None] for name, frame in zip(names, labels)}


def write_gcg(root: Path) -> dict[str, Labels]:
    labels = moving_boxes(2)[1:]
    write_images(root / "images", ["p.jpg"])
    one, two = (rle(labels[0] == number) for number in (1, 2))
    groundings = {
        "two boxes": {"token_positives": [10, 19], "rle_masks": [one, two]},
        "A box": {"token_positives": [0, 5], "rle_masks": [one]},
    }
    said = [{"image_id": "p", "file_name": "p.jpg", "caption": "A box and two boxes.", "groundings": groundings}]
    write_json(root / "GranDf_HA_GCG_val.json", said)
    return {"p": labels}


def write_bag(
    path: Path, stamps: list[int], labels: Labels, label_stamps: list[int] | None = None, **other: Any
) -> None:
    """Write a bag of grey images and label images.

    Args:
        other: ``topic`` and ``encoding`` of the label images; ``info``, names by value; ``size`` of the images.
    """
    topic, encoding = other.get("topic", LABELS), other.get("encoding", "mono8")
    info = f"{topic.rpartition('/')[0]}/label_info"
    topics = {CAMERA: "sensor_msgs/msg/Image", topic: "sensor_msgs/msg/Image", info: "x2sam_ros/msg/LabelInfo"}
    if "info" not in other:
        del topics[info]
    grey = np.full(other.get("size", labels.shape[1:]), 90, np.uint8)
    with McapFile(path, topics) as file:
        for stamp in stamps:
            file.add(CAMERA, stamp, image_fields(stamp, "camera", "mono8", grey))
        for stamp, frame in zip(stamps if label_stamps is None else label_stamps, labels):
            file.add(topic, stamp, image_fields(stamp, "camera", encoding, np.ascontiguousarray(frame)))
        if "info" in other:
            names: dict[int, str] = other["info"]
            fields = {"header": header_fields(0, ""), "values": np.array(list(names), np.uint32)}
            file.add(info, 0, {**fields, "labels": list(names.values())})


def write_revos(root: Path, splits: tuple[str, ...] = ("train", "valid")) -> dict[str, Labels]:
    """Videos in folders of where they are from; masks of all splits in one file."""
    labels = moving_boxes()
    write_images(root / "JPEGImages/YFCC/v1", frame_names(4))
    expressions = {
        "0": {"exp": "the upper box", "obj_id": [0], "anno_id": [11], "type_id": 0},
        "1": {"exp": "What could be put on the other?", "obj_id": [0, 1], "anno_id": [11, 12], "type_id": 1},
    }
    frames = [Path(name).stem for name in frame_names(4)]
    video = {"expressions": expressions, "vid_id": 5, "frames": frames, "height": SIZE[0], "width": SIZE[1]}
    for split in splits:
        write_json(root / f"meta_expressions_{split}_.json", {"videos": {"YFCC/v1": video}})
    write_json(root / "mask_dict.json", dict(zip(("11", "12"), tracks(labels))))
    return {"YFCC/v1": labels}


def write_segment_anything(root: Path, folder: str = "sa_000020") -> dict[str, Labels]:
    """Two photographs with a mask for each box."""
    labels = moving_boxes(2)
    names = ("sa_223750", "sa_223751")
    write_images(root / folder, [f"{name}.jpg" for name in names])
    for name, frame in zip(names, labels):
        image = {"image_id": int(name[3:]), "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        masks = [rle(frame == value) for value in np.unique(frame) if value]
        annotations = [{"id": i, "segmentation": mask, "predicted_iou": 0.9} for i, mask in enumerate(masks)]
        write_json(root / folder / f"{name}.json", {"image": image, "annotations": annotations})
    return {f"{folder}/{name}": frame[None] for name, frame in zip(names, labels)}


def write_chats(root: Path, lines: bool = False) -> Path:
    """A chat of two turns about a picture, one about a clip, and one about nothing."""
    write_images(root / "images/coco", ["1.jpg"])
    write_images(root / "images/clip", frame_names(6))
    talk = [
        {"from": "human", "value": "<image>\nWhat is there?"},
        {"from": "gpt", "value": "Noise."},
        {"from": "human", "value": "Of what colour, <SEG>?"},
        {"from": "gpt", "value": "Of all."},
    ]
    said = [
        {"id": "a", "image": "coco/1.jpg", "conversations": talk},
        {"id": "b", "video": "clip", "conversations": talk[:2]},
        {"id": "c", "conversations": talk[2:]},
    ]
    if lines:
        path = root / "chats.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(one) + "\n" for one in said), encoding="utf-8")
        return path
    write_json(root / "chats.json", said)
    return root / "chats.json"


def write_refcoco(root: Path) -> dict[str, Labels]:
    """gRefCOCO: expressions of one object, of both, and of none; and RefCOCO's two sentences of one object."""
    written = write_coco_instances(root)
    (root / "annotations/instances_val2017.json").rename(root / "instances.json")
    shared = {"split": "train", "image_id": 7}
    refs = [
        {**shared, "ann_id": [31], "sentences": [{"sent_id": 1, "sent": "the left"}, {"sent_id": 2, "sent": "bike"}]},
        {**shared, "ann_id": [31, 32], "sentences": [{"sent_id": 3, "sent": "both"}]},
        {**shared, "ann_id": [-1], "sentences": [{"sent_id": 4, "sent": "a whale"}]},
    ]
    write_json(root / "grefs(unc).json", refs)
    return {"000007": written["000007"]}
