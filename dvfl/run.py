"""One training: where its files lie, and every value that decides what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_serializer

from dvfl.config import DistillConfig, InputConfig, NetworkConfig, Section, TrainConfig, digest
from dvfl.errors import UserError
from dvfl.files import read_json
from dvfl.paths import RESULTS

Stage = Literal["final", "selection", "pretraining"]


@dataclass(frozen=True)
class Run:
    """One training: an arm, on one split of a data set, with one seed.

    `study` and `trial` are empty for the runs that the arms name.
    """

    dataset: str
    split: str
    protocol: str
    arm: str
    seed: int
    stage: Stage = "final"
    study: str = ""
    trial: str = ""

    @property
    def directory(self) -> Path:
        if self.study:
            return RESULTS / f"ablation/{self.dataset}/{self.study}/{self.trial}/{self.arm}/seed{self.seed}"
        if self.stage == "pretraining":
            return RESULTS / f"pretraining/{self.dataset}/{self.arm}/seed{self.seed}"
        if self.stage == "selection":
            return RESULTS / f"ablation/{self.dataset}/selection/{self.arm}/seed{self.seed}"
        return RESULTS / f"runs/{self.dataset}/{self.split}/{self.protocol}/{self.arm}/seed{self.seed}"

    @property
    def name(self) -> str:
        """Its name in MLflow."""
        middle = f"{self.study}/{self.trial}" if self.study else self.stage if self.stage != "final" else ""
        parts = [self.split, self.protocol, middle, self.arm, f"seed{self.seed}"]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.directory.as_posix()


def trained_input(directory: Path) -> InputConfig:
    """What the network in a run's directory was shown, whatever a config says by now.

    Raises UserError where the run has not finished.
    """
    if not (directory / "run.json").exists():
        raise UserError(f"{directory}: is not the directory of a finished run (there is no run.json in it)")
    return InputConfig.model_validate(read_json(directory / "run.json")["settings"]["input"])


class RunSettings(Section):
    """Every config value that decides what a run computes; its digest names the run's resume state."""

    dataset: str
    split: str
    stage: Stage
    seed: int
    split_seed: int
    allow_flip: bool
    network: NetworkConfig
    input: InputConfig
    train: TrainConfig
    distill: DistillConfig | None

    @field_serializer("distill")
    def _what_is_read(self, distill: DistillConfig | None) -> dict[str, Any] | None:
        return None if distill is None else distill.model_dump(mode="json", exclude=distill.unread)

    @property
    def digest(self) -> str:
        return digest([self.decisive, self.subsets])

    @property
    def decisive(self) -> dict[str, Any]:
        """The values that change what comes out, as plain values."""
        # Where it runs, how many processes train, decode or store frames, and how often validation is looked at do not
        # change what comes out, but for rounding; whether validation is trained on is said by the subsets, pretraining
        # by `start_from`.
        where = {"device", "gpus", "share_gpus", "processes", "workers", "gradient_checkpointing", "compile"}
        unused = {
            "train": where | {"validate_every", "include_validation"},
            "network": {"pretrain"},
            "input": {"frame_store": {"shards"}},
        }
        values = self.model_dump(mode="json", exclude=unused)
        if self.distill is not None and self.distill.targets == "stored":
            values["distill"]["targets"] = "auto"  # the same numbers
        return values

    @property
    def has_targets(self) -> bool:
        """Whether the run learns from logits of a teacher that could be stored."""
        return self.distill is not None and not self.distill.in_loop and self.network.weights is None

    @property
    def taught_by_view(self) -> bool:
        """Whether all that the teacher is ever shown are a few views of each clip, the same in every epoch."""
        return self.input.views is not None and not (self.train.mixup or self.train.cutmix)

    @property
    def taught_on(self) -> dict[str, Any]:
        """What decides, beside files, each input of a distillation and the teacher's answer to it, to the last bit."""
        assert self.distill is not None
        train = {"batch_size", "threads", "compile"}
        if not self.taught_by_view:  # the teacher is asked as the loop asks it
            train |= {"epochs", "precision", "mixup", "cutmix", "mix_probability", "cutmix_share"}
        return {
            **{key: getattr(self, key) for key in ("dataset", "split", "subsets", "seed", "split_seed", "allow_flip")},
            "clips_per_class": self.network.clips_per_class,
            "input": self.input.model_dump(mode="json", exclude={"frame_store": {"shards"}}),
            "train": self.train.model_dump(mode="json", include=train),
            "distill": self.distill.model_dump(mode="json", include={"teacher_head", "targets_precision"}),
        }

    @property
    def subsets(self) -> list[str]:
        """What is trained on."""
        joined = self.stage != "selection" and self.train.include_validation
        return ["train", "validation"] if joined else ["train"]

    @property
    def evaluated_on(self) -> str:
        return "validation" if self.stage == "selection" else "test"
