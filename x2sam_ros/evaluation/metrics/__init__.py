"""Metrics of masks, tracks, panoptic maps and captions: update, merge, compute."""
