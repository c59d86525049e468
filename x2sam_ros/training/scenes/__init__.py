"""Procedural clips of simple shapes with sentences about them and complete ground truth."""

from x2sam_ros.training.scenes.clip import Clip, SceneObject, distinct
from x2sam_ros.training.scenes.generate import KINDS, generate_clip
from x2sam_ros.training.scenes.phrases import ClassList, ReferringPhrase, absent_phrases, class_list, referring_phrases
from x2sam_ros.training.scenes.regions import REGION_KINDS, RegionPrompt, region_prompt
from x2sam_ros.training.scenes.vocabulary import sample_corpus

__all__ = [
    "KINDS",
    "REGION_KINDS",
    "ClassList",
    "Clip",
    "ReferringPhrase",
    "RegionPrompt",
    "SceneObject",
    "absent_phrases",
    "class_list",
    "distinct",
    "generate_clip",
    "referring_phrases",
    "region_prompt",
    "sample_corpus",
]
