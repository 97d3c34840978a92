"""What may differ when a run is resumed: how it is trained from here, not what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.job.explain import show

if TYPE_CHECKING:
    from ltm_platform.job.spec import JobSpec

CHANGEABLE = (
    "recipe.epochs",
    "recipe.micro_batch",
    "recipe.lr",
    "recipe.min_lr",
    "recipe.warmup_epochs",
    "recipe.clip_grad",
    "recipe.ib.weight",
    "data.cache",
    "data.allow_bad",
    "data.loader_workers",
    "engine.offload",
    "checkpoint",
    "cluster",
    "tracking.notify",
)


def changes(old: JobSpec, new: JobSpec) -> dict[str, str]:
    """The fields that differ, each with ``old -> new``.

    Raises:
        UserError: a field differs that makes it another experiment.
    """
    before, after = old.flat(), new.flat()
    found = {}
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        if key == "cluster.storage" or not any(f"{key}.".startswith(f"{c}.") for c in CHANGEABLE):
            section = key.split(".options")[0]
            raise new.error(
                section,
                f"{key} is {show(now)}, but a run that goes on keeps its {show(was)}; "
                f"allowed to change are {', '.join(CHANGEABLE)}",
            )
        found[key] = f"{was} -> {now}"
    return found
