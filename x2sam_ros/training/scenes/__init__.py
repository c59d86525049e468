"""Procedural clips of simple shapes with sentences about them and complete ground truth."""

from x2sam_ros.training.scenes.captions import Caption, CaptionPhrase, caption
from x2sam_ros.training.scenes.classes import ClassList, class_list, panoptic_list
from x2sam_ros.training.scenes.clip import Clip, SceneObject, distinct
from x2sam_ros.training.scenes.corpus import sample_corpus
from x2sam_ros.training.scenes.generate import KINDS, generate_clip, lay_out
from x2sam_ros.training.scenes.layout import Layout
from x2sam_ros.training.scenes.phrases import ReferringPhrase, absent_phrases, referring_phrases
from x2sam_ros.training.scenes.questions import QUESTION_KINDS, Question, questions
from x2sam_ros.training.scenes.reasoning import reasoning_phrases
from x2sam_ros.training.scenes.regions import REGION_KINDS, RegionPrompt, region_prompt

__all__ = [
    "KINDS",
    "QUESTION_KINDS",
    "REGION_KINDS",
    "Caption",
    "CaptionPhrase",
    "ClassList",
    "Clip",
    "Layout",
    "Question",
    "ReferringPhrase",
    "RegionPrompt",
    "SceneObject",
    "absent_phrases",
    "caption",
    "class_list",
    "distinct",
    "generate_clip",
    "lay_out",
    "panoptic_list",
    "questions",
    "reasoning_phrases",
    "referring_phrases",
    "region_prompt",
    "sample_corpus",
]
