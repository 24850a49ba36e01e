"""What weights learned before: a network must not be tested on clips that it, or its teacher, was trained on."""

from __future__ import annotations

from pathlib import Path

from dvfl.models.weights import NetworkDescription, WeightsError
from dvfl.run import Run


def trained_on(run: Run, split_sha256: str | None) -> dict[str, str]:
    """What the weights of a run say of the clips that they learned."""
    return {"dataset": run.dataset, "split": run.split, "sha256": split_sha256 or ""}


def check_lineage(
    weights: Path,
    description: NetworkDescription | None,
    classes: list[str],
    run: Run,
    split_sha256: str | None,
    starts: bool = False,
) -> None:
    """Refuses weights of other classes or of another split than the run's: leakage, of train into test.

    `description` is what the file says of itself; None, or one that does not say what was learned, is let through.
    Splits are told apart by the hash of their list, so one of the same name that was drawn anew is another. Weights
    that the training only `starts` from may be of other classes and of another data set. Raises WeightsError.
    """
    if description is None:
        return
    if description.classes != classes and not starts:
        differing = sorted(set(description.classes) ^ set(classes))
        how = f"differ in {', '.join(differing[:3])}" if differing else "stand in another order"
        raise WeightsError(
            f"{weights}: was trained on other classes than {run.dataset} has: {len(description.classes)} against "
            f"{len(classes)}, which {how}; use weights of the same classes"
        )
    learned, own = description.trained_on, trained_on(run, split_sha256)
    if learned is None or (starts and learned["dataset"] != run.dataset):
        return
    if learned["sha256"] != own["sha256"]:
        then, now = (f"{each['dataset']}, {each['split']} (list {each['sha256'][:12]})" for each in (learned, own))
        raise WeightsError(
            f"{weights}: was trained on {then}, and {run} is tested on {now}: test clips may be among those that it "
            f"learned; use weights that were trained on this very split"
        )
