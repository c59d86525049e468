"""A benchmark measures every variant with every number of targets, and one long stream of each kind."""

from __future__ import annotations

import pytest

from tests.unit.evaluation.bench_scenes import opened, scene
from x2sam_ros.config import CLIP_LENGTH
from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.bench import BenchOptions, run
from x2sam_ros.evaluation.bench_report import VARIANTS, from_dict, tables, to_dict


def test_a_run_with_peers_measures_everything_once() -> None:
    steps: list[None] = []
    options = BenchOptions((2, 1, 2), CLIP_LENGTH, stream_frames=52)
    found = run(opened(), scene(), options, lambda: steps.append(None))
    assert len(steps) == options.steps
    assert [(cost.variant, cost.targets) for cost in found.costs] == [(v, n) for v in VARIANTS for n in (1, 2)]
    for cost in found.costs:
        assert cost.followed == cost.targets and cost.held_mib > 0 and cost.gpu_mib == 0
        assert 0 < cost.median_ms <= cost.p95_ms and cost.frames_per_s == pytest.approx(1e3 / cost.frame_ms)
        assert (cost.language_ms > 0.2) == (cost.variant == "per clip")
    known = {"preprocess", "encode", "pixel_decode", "segment", "select", "remember", "postprocess", "total"}
    for targets in (1, 2):
        assert known <= {stage.stage for stage in found.stages if stage.targets == targets}
    assert [(p.variant, p.frame) for p in found.length] == [
        ("separate", 50),
        ("separate", 52),
        ("SAM 2", 50),
        ("SAM 2", 52),
    ]
    assert found.length[0].held_mib == found.length[1].held_mib < found.length[3].held_mib
    assert found.resident_mib > 100 and found.sam2["parameters"] > 0
    assert found.model.sha256 == opened().model.identity and found.image_size == scene().size
    assert from_dict(to_dict(found)) == found and len(tables(found)) == 6


def test_without_peers_and_stream_only_ours_are_measured() -> None:
    found = run(opened(), scene(), BenchOptions((1,), stream_frames=0, peers=False))
    assert [cost.variant for cost in found.costs] == ["separate", "merged"]
    assert found.length == () and found.sam2 == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ()}, "expected numbers from 1"),
        ({"targets": (1, 0)}, "expected numbers from 1"),
        ({"targets": (1000,)}, "expected numbers from 1 to 256"),
        ({"stream_targets": 0}, "expected numbers from 1"),
        ({"frames": 0}, "multiple of 8"),
        ({"frames": 12}, "multiple of 8"),
        ({"stream_frames": 10}, "expected 0 or at least 50"),
        ({"stream_frames": -1}, "expected 0 or at least 50"),
    ],
)
def test_options_that_cannot_be_measured_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchOptions(**options)  # type: ignore[arg-type]
