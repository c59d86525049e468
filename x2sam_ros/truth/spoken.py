"""Names of classes as one says them: what a network is asked for, whether it learns or is scored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from x2sam_ros.truth.dataset import Category

_MADE_UP = ("-merged", "-other", "-stuff")
"""Parts of COCO's names of classes, which nobody says. Source: X2SAM's wording of classes."""

_SEPARATORS = str.maketrans("-_", "  ")


def spoken(categories: Iterable[Category], official_quirks: bool = False) -> dict[int, str]:
    """Return the name of each category as one would say it; where two would be the same, as they are listed.

    Args:
        categories: of a dataset.
        official_quirks: as the published network learnt and was scored with them: in small letters, without what is in
            brackets, and with the "other" of COCO's names.

    Returns:
        Names by the categories' numbers.
    """
    listed = list(categories)
    say = _published if official_quirks else _said
    said = {one.category_id: say(one.name) or one.name for one in listed}
    times = Counter(said.values())
    return {one.category_id: said[one.category_id] if times[said[one.category_id]] == 1 else one.name for one in listed}


def _said(name: str) -> str:
    for part in _MADE_UP:
        name = name.replace(part, "")
    return " ".join(name.translate(_SEPARATORS).split())


def _published(name: str) -> str:
    """Return a name in the published words.

    Source: wanghao9610/X2SAM, names of classes of pictures and of clips; what follows them there finds no hyphen left.
    """
    name = name.replace("-merged", "").replace("-stuff", "").strip().lower()
    name = re.sub(r"\(.*\)", "", name).replace(".", "").translate(_SEPARATORS)
    return name.replace("  ", " ").strip()
