"""Tables of the documentation that repeat the code. ``python -m tests.docs.tables`` writes them anew."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

from tests.unit.test_import_law import MAY_IMPORT, VALUES
from x2sam_ros.config import TrainConfig
from x2sam_ros.evaluation.metrics.names import METRICS
from x2sam_ros.evaluation.prompting import PROMPTS
from x2sam_ros.ros.interface import ACTIONS, SERVICES, TOPICS, Endpoint, Topic
from x2sam_ros.ros.params import ParameterSpec, parameter_specs
from x2sam_ros.training.data.joint import JointSettings
from x2sam_ros.training.data.sources import SourceConfig
from x2sam_ros.training.finetune import FinetuneConfig
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.prompts import PROMPT_ODDS, TEXT_ODDS
from x2sam_ros.training.recipe import STAGES, Recipe
from x2sam_ros.truth.open import LAYOUTS

ROOT = Path(__file__).resolve().parents[2]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _accepted(spec: ParameterSpec) -> str:
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices)
    if spec.low is not None:
        return f"{spec.low:g} to {spec.high:g}"
    return {str: "text", tuple: "list of texts", bool: "`true`, `false`"}[type(spec.default)]


def parameter_table() -> str:
    """Return the parameters of the node."""
    rows = [
        (
            f"`{spec.name}`",
            f"`{json.dumps(spec.default)}`",
            _accepted(spec),
            "live" if spec.live else "",
            spec.description.replace("<", r"\<"),
        )
        for spec in parameter_specs()
    ]
    return _table(("parameter", "default", "accepts", "", "what it is"), rows)


def topic_table(direction: str) -> str:
    """Return the topics that the node subscribes to ("in") or publishes ("out")."""
    rows = [
        (f"`{topic.name}`", f"`{topic.type}`", topic.qos, "yes" if topic.each_camera else "", _about(topic))
        for topic in TOPICS
        if topic.direction == direction
    ]
    return _table(("topic", "type", "QoS", "each camera", "what it is"), rows)


def _about(topic: Topic) -> str:
    return f"{topic.about}; where {topic.when}" if topic.when else topic.about


def endpoint_table(kind: str, endpoints: Sequence[Endpoint]) -> str:
    """Return the services or actions."""
    return _table((kind, "type", "what it does"), [(f"`{e.name}`", f"`{e.type}`", e.about) for e in endpoints])


def phase_table() -> str:
    """Return the phases of training."""
    config = TrainConfig()
    rows = []
    for name in config.phases:
        phase = config.phase(name)
        clips = (phase.clips, phase.prompts, phase.texts, phase.frames, phase.max_stride)
        numbers = (phase.steps, *clips, phase.learning_rate)
        rows.append((name, *(f"{number:g}" for number in numbers)))
    header = ("phase", "steps", "clips a step", "prompts a clip", "questions a clip", "frames a clip")
    return _table((*header, "largest stride", "learning rate"), rows)


def prompt_odds_table() -> str:
    """Return how often each kind of prompt is drawn in training."""
    rows = [(kind, "masks", f"{odds:.0%}") for kind, odds in PROMPT_ODDS.items()]
    rows += [(kind, "words", f"{odds:.0%}") for kind, odds in TEXT_ODDS.items()]
    return _table(("kind", "asks for", "share"), rows)


def settings_table(kind: type) -> str:
    """Return the settings of a dataclass as its docstring explains them, with their defaults."""
    about = inspect.getdoc(kind) or ""
    lines = about.partition("Args:\n")[2].partition("\n\n")[0]
    rows = []
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", lines, re.M):
        values = dict.fromkeys(_default(kind, name) for name in names.split(", "))
        listed = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append((listed, ", ".join(values), re.sub(r"\s+", " ", text).replace("``", "`").rstrip(".")))
    return _table(("setting", "default", "what it is"), rows)


def _default(kind: type, name: str) -> str:
    """Return the default of a field as YAML has it; '' where there is none, or one that a table of its own shows."""
    (item,) = (item for item in fields(kind) if item.name == name)
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING or is_dataclass(value) or name == "rates":
        return ""
    return f"`{json.dumps(value)}`"


def stage_table() -> str:
    """Return the stages of joint training."""
    rows = []
    for name, make in STAGES.items():
        stage = make(1)
        rates = ", ".join(f"`{pattern}` {factor:g}" for pattern, factor in stage.rates)
        lora = f"rank {stage.lora.rank}, alpha {stage.lora.alpha:g}" if stage.lora else "none"
        rows.append((f"`{name}`", rates, lora, f"{stage.clip_norm:g}", f"{stage.average:g}"))
    return _table(("stage", "pattern of names and factor of the rate", "adapters", "clip_norm", "average"), rows)


def loss_table() -> str:
    """Return the two sets of losses, where they differ or not."""
    ours, published = LossConfig(), LossConfig.published()
    rows = [
        (f"`{item.name}`", json.dumps(getattr(ours, item.name)), json.dumps(getattr(published, item.name)))
        for item in fields(LossConfig)
    ]
    return _table(("setting", "built-in", "published"), rows)


def import_table() -> str:
    """Return the import law."""
    rows = []
    for room, allowed in MAY_IMPORT.items():
        names = (["values", *sorted(allowed - VALUES)]) if allowed >= VALUES else sorted(allowed)
        rows.append((room, ", ".join(names) or "-"))
    return _table(("room", "may import"), rows)


def layout_table() -> str:
    """Return the layouts of ground truth that can be read."""
    return _table(("layout", "what is looked for"), [(f"`{name}`", needs) for name, needs in LAYOUTS.items()])


def prompt_table() -> str:
    """Return how each kind of dataset can be asked."""
    return _table(("kind", "prompts"), [(kind.value, ", ".join(prompts)) for kind, prompts in PROMPTS.items()])


def metric_table() -> str:
    """Return the numbers of an evaluation."""
    rows = [
        (f"`{info.name}`", info.meaning, info.unit, "" if info.higher_is_better else "lower")
        for info in METRICS.values()
    ]
    return _table(("number", "what it is", "unit", "better"), rows)


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/ros_interface.md", "subscriptions"): lambda: topic_table("in"),
    ("docs/ros_interface.md", "publications"): lambda: topic_table("out"),
    ("docs/ros_interface.md", "services"): lambda: endpoint_table("service", SERVICES),
    ("docs/ros_interface.md", "actions"): lambda: endpoint_table("action", ACTIONS),
    ("docs/ros_interface.md", "parameters"): parameter_table,
    ("docs/training.md", "phases"): phase_table,
    ("docs/training.md", "prompts"): prompt_odds_table,
    ("docs/joint_training.md", "stages"): stage_table,
    ("docs/joint_training.md", "recipe"): lambda: settings_table(Recipe),
    ("docs/joint_training.md", "data"): lambda: settings_table(JointSettings),
    ("docs/joint_training.md", "sources"): lambda: settings_table(SourceConfig),
    ("docs/joint_training.md", "losses"): loss_table,
    ("docs/finetuning.md", "finetune"): lambda: settings_table(FinetuneConfig),
    ("docs/architecture.md", "import-law"): import_table,
    ("docs/evaluation.md", "layouts"): layout_table,
    ("docs/evaluation.md", "prompts"): prompt_table,
    ("docs/evaluation.md", "metrics"): metric_table,
}
"""(page, name of its markers) to what stands between them."""


def block(page: str, name: str) -> str:
    """Return what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page."""
    return _split(ROOT / page, name)[1].strip()


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """Return a page's text up to and with the begin marker, between the markers, and from the end marker on."""
    found = re.fullmatch(rf"(.*<!-- {name}:begin -->\n)(.*)(<!-- {name}:end -->.*)", path.read_text("utf-8"), re.S)
    assert found, f"{path} has no markers <!-- {name}:begin --> and <!-- {name}:end -->"
    return found[1], found[2], found[3]


def main() -> None:
    """Write every table into its page."""
    for (page, name), table in TABLES.items():
        path = ROOT / page
        begin, _, end = _split(path, name)
        path.write_text(f"{begin}{table()}\n{end}", encoding="utf-8")


if __name__ == "__main__":
    main()
