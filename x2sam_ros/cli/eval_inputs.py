"""What ``x2sam eval`` is given, the generated suite too; and the same again for what it left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x2sam_ros.cli.eval_scenes import NAME, generated_dataset
from x2sam_ros.errors import ConfigError, ResultsError, TruthError

if TYPE_CHECKING:
    from x2sam_ros.evaluation.inputs import Input
    from x2sam_ros.truth.dataset import Dataset


def open_given(paths: Sequence[str], layout: str | None, options: Mapping[str, Any]) -> list[Input]:
    """Open inputs.

    Args:
        paths: of data sets and bags, or ``NAME``.
        layout, options: as ``open_inputs`` takes them.

    Raises:
        TruthError, ConfigError: as ``open_inputs``; or an option that the generated suite has no use for.
    """
    from x2sam_ros.evaluation.inputs import Input, open_inputs

    opened = open_inputs([Path(path) for path in paths if path != NAME], layout, **options)
    if NAME not in paths:
        return opened
    for name, value in {"layout": layout, **options}.items():
        if name != "stride" and value is not None:
            raise ConfigError(f"the input {NAME} has no {name}; leave {name} {value!r:.80} away")
    return [Input(generated_dataset(stride=options["stride"]), (NAME,), options=options), *opened]


def reopen(cell: Path) -> Dataset:
    """Open the ground truth of a cell as it was when the cell was run.

    Args:
        cell: its folder.

    Raises:
        ResultsError: the folder does not say what it was.
        TruthError: it is not there any more, or another one.
    """
    from x2sam_ros.evaluation.runner import TRUTH_FILE

    path = cell / TRUTH_FILE
    try:
        said = json.loads(path.read_text())
        paths, layout, options, fingerprint = said["paths"], said["layout"], said["options"], said["fingerprint"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{path} does not say where the ground truth is; run x2sam eval again") from error
    for item in open_given(paths, layout or None, options):
        if item.dataset.fingerprint == fingerprint:
            return item.dataset
    raise TruthError(f"the ground truth at {', '.join(paths)} is another one than was scored; evaluate again")
