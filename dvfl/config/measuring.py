"""What is measured of trained networks, and where it is written down."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dvfl.config.section import Count, EachOnce, Fraction, ModelName, Name, Positive, Section, Seeds
from dvfl.config.tuning import DatabaseUrl, TuneConfig
from dvfl.models.registry import check_model


def _no_truth(number: Any) -> Any:
    """To pydantic's literals, unlike its numbers, true is 1."""
    if isinstance(number, bool):
        raise ValueError("should be 1 or 3")
    return number


class EvaluateConfig(Section):
    clips: Count = Field(1, description="Temporal clips of a test clip [1 or 4].")
    crops: Annotated[Literal[1, 3], BeforeValidator(_no_truth)] = Field(
        1, description="Spatial crops of a test clip [1 or 3]."
    )
    frames: Literal["even", "random"] = Field(
        "even",
        description="Frames of several temporal clips: spread evenly over the segments, or drawn at random, as the "
        "released datasets/pipeline.py does (finding random_multiview). A single clip takes the segments' centres.",
    )
    batch_size: Count = Field(
        32,
        description="Views that the network takes at once, of one clip at least; results do not depend on it "
        "[2 clips].",
    )
    drop_last: int | None = Field(
        None,
        ge=2,
        description="Clips of the batches of which the last is left out where it is incomplete, however many views a "
        "clip has: 2 leaves out the last clip of an odd number, in the order of their ids; None: every clip is tested "
        "[2 on each GPU, in random order, in datasets/build.py: finding eval_drops_clips].",
    )
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples behind an interval.")

    def tested(self, clips: int) -> int:
        """How many of so many clips are tested: the first, in the order of their ids."""
        return clips - clips % self.drop_last if self.drop_last else clips


class StudyConfig(Section):
    arms: Annotated[list[Name], EachOnce] = Field(min_length=1, description="Arms that the study trains.")
    grid: dict[str, list[Any]] = Field({}, description="Dotted keys and their values; all combinations run.")
    points: list[dict[str, Any]] = Field([], description="Single points, each some dotted keys with a value.")
    seeds: Seeds = Field([0], description="Seeds of each trial.")
    evaluate_on: Literal["validation", "test"] = Field(
        "validation", description="validation where something is chosen; test for a control that chooses nothing."
    )
    set: dict[str, Any] = Field({}, description="Dotted keys that differ for every trial of the study.")
    differences: bool = Field(
        False,
        description="In place of grid and points: a trial for each difference between the protocols that "
        "config/protocols.yaml says how to measure, and those that they are compared with.",
    )
    reference: dict[str, Any] | None = Field(
        None,
        description="The point that the others are compared with, as it stands in `points` or is made by the `grid`; "
        "None: labels alone (distill.alpha 0), where that is among them.",
    )

    @model_validator(mode="after")
    def _reference_is_a_point(self) -> StudyConfig:
        chosen = self.reference
        if chosen is not None and chosen not in self.points:
            of_grid = chosen.keys() == self.grid.keys() and all(chosen[key] in self.grid[key] for key in chosen)
            if not of_grid or not chosen:
                raise ValueError(f"has a `reference` that is none of its points: {chosen}")
        return self

    @model_validator(mode="after")
    def _has_points(self) -> StudyConfig:
        if self.differences:
            if self.grid or self.points:
                raise ValueError("has its points from config/protocols.yaml: leave out `grid` and `points`")
            if self.evaluate_on != "test":
                raise ValueError("measures the differences between the protocols, on test: set `evaluate_on: test`")
            return self
        if not self.grid and not self.points:
            raise ValueError("needs a `grid` or `points`")
        if any(not values for values in self.grid.values()):
            raise ValueError("has a key without values in `grid`")
        if any(not point for point in self.points):
            raise ValueError("has a point without keys in `points`")
        return self


class AblationConfig(Section):
    studies: dict[Name, StudyConfig] = Field({}, description="Studies of given points, by name.")
    tune: dict[Name, TuneConfig] = Field({}, description="Studies that search a space, by name.")
    run: Annotated[list[Name], EachOnce] = Field([], description="Studies that the tables include, of either kind.")
    storage: DatabaseUrl | None = Field(
        None,
        description="Where Optuna keeps the trials: postgresql://USER@HOST:PORT/DATABASE, its password in PGPASSWORD "
        "or ~/.pgpass; None: a journal file for each study, under results/ablation.",
    )
    heartbeat: Count = Field(
        60,
        description="Seconds between the signs of life of a trial in PostgreSQL; one that gave none for twice as long "
        "is another worker's to go on with.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> AblationConfig:
        if both := sorted(self.studies.keys() & self.tune.keys()):
            raise ValueError(f"has a study {both[0]!r} under `studies` and under `tune`: give one another name")
        return self

    @property
    def known(self) -> list[str]:
        """Studies of both kinds."""
        return [*self.studies, *self.tune]

    @property
    def run_studies(self) -> list[str]:
        """Of the studies that the tables include, those of given points."""
        return [name for name in self.run if name in self.studies]

    @property
    def run_tune(self) -> list[str]:
        """Of the studies that the tables include, those that search a space."""
        return [name for name in self.run if name in self.tune]


class ProfileConfig(Section):
    paper_models: Annotated[list[ModelName], EachOnce] = Field(
        ["video_focalnet_base", "video_focalnet_small", "video_focalnet_tiny", "vfl_net"],
        description="Models profiled at the paper's size, untrained: compute does not depend on weights.",
    )
    num_classes: int = Field(101, ge=2, description="Classes of the paper-size models.")
    frames: Count = Field(8, description="Frames of the paper-size models.")
    img_size: int = Field(224, ge=32, description="Height and width of the paper-size models, pixels.")
    batch_sizes: Annotated[list[Count], EachOnce] = Field([1], min_length=1, description="Clips at once.")
    larger_batches: Annotated[list[Count], EachOnce] = Field(
        [4, 8], min_length=1, description="Clips at once for the target `larger_batches`, which no table waits for."
    )
    repeats: int = Field(
        7,
        ge=3,
        description="Timed forward passes of a paper-size model; a ratio of two latencies has an interval from 7 on.",
    )
    repeats_small: int = Field(50, ge=3, description="Timed forward passes of the run's own models.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Precision of the timed passes.")
    benchmark: bool = Field(True, description="The report waits for `dvfl bench --quick`, some minutes.")
    exported: Annotated[list[Literal["float32", "bfloat16", "int8"]], EachOnce] = Field(
        [],
        description="Precisions in which each model is also exported to ONNX and timed in ONNX Runtime and OpenVINO, "
        "on the CPU with as many threads; needs the extra `export`, and minutes for each large model.",
    )

    @model_validator(mode="after")
    def _models_take_the_clips(self) -> ProfileConfig:
        for model in self.paper_models:
            check_model(model, num_frames=self.frames, img_size=self.img_size)
        return self


class ExportConfig(Section):
    """How `dvfl export` makes and checks its files."""

    check_clips: Count = Field(
        500, description="Clips that an exported file is compared with the original on; drawn where there are more."
    )
    bfloat16_tolerance: Positive = Field(
        5e-3,
        description="Largest difference of a logit that bfloat16 may make, as a share of the largest logit; more is "
        "refused. A bfloat16 has 8 bits: networks trained on a small scale can need 2e-2, with the same top-1.",
    )
    calibration_clips: Count = Field(64, description="Training clips that int8 takes its ranges from.")
    max_accuracy_drop: Fraction = Field(
        0.02, description="Top-1 on the validation subset that int8 may lose, as a fraction; more is refused."
    )


class AuditConfig(Section):
    pictures: bool = Field(
        True,
        description="Compare the clips' pictures, too (every clip is decoded once more); not those of the embedded "
        "data set, whose small smooth scenes look alike by chance.",
    )
    distance: float = Field(
        10.0,
        ge=0,
        le=32,
        description="Bits of 64 by which frames of two clips may differ, in the mean, to be held the same pictures; "
        "measured on UCF101: copies 0 to 9.5, clips of different sources 13.5 and more.",
    )


class TrackingConfig(Section):
    uri: str = Field(
        "sqlite:///results/mlflow.db",
        description="MLflow tracking URI: a server (http://HOST:PORT) or a database that is opened directly.",
    )
    artifacts: str = Field(
        "results/mlartifacts", description="Artifact root of a database; a server has one of its own."
    )
