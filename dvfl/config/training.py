"""Networks, what they are shown, how they are trained and distilled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dvfl.config.section import Count, Fraction, Name, Positive, Section, nearest


class FrameStoreConfig(Section):
    """How frames are kept: as JPEG, each on its own."""

    short_side: int | None = Field(
        None,
        ge=16,
        description="Short side of the frames kept, pixels; None: input.short_side. One store can serve inputs of "
        "several sizes, resized from this one.",
    )
    quality: int = Field(
        90,
        ge=1,
        le=100,
        description="JPEG quality; on UCF101 at 256 pixels 80, 90 and 95 take 10.7, 15.1 and 21.2 kB a frame, and a "
        "pixel is 1.4, 1.0 and 0.8 of 255 levels off in the mean.",
    )
    shards: Count = Field(1, description="Jobs that write the store, each its share of it; more pay on a cluster.")


class InputConfig(Section):
    """What a network is shown (FACTS of the released recipe in brackets where they differ from the default)."""

    frames: Count = Field(8, description="Segments of a clip, one frame each [8].")
    img_size: int = Field(32, ge=16, description="Height and width given to the network, pixels [224].")
    short_side: int = Field(36, ge=16, description="Short side a frame is first resized to, pixels [256].")
    crop_area: tuple[Fraction, Fraction] = Field(
        (0.5, 1.0), description="Share of the area that a training crop keeps [0.08, 1]."
    )
    crop_aspect: tuple[Positive, Positive] = Field(
        (0.75, 4 / 3), description="Width over height of a training crop [3/4, 4/3]."
    )
    flip: Fraction = Field(
        0.5, description="Chance of a mirrored training clip; 0 for data sets with horizontal_flip: false [0.5]."
    )
    color_jitter: Fraction = Field(0.0, description="Chance of colour jitter for a clip [0.8].")
    brightness: float = Field(0.4, ge=0, description="Brightness jitter, redrawn per frame [0.4].")
    contrast: float = Field(0.4, ge=0, description="Contrast jitter, redrawn per frame [0.4].")
    saturation: float = Field(0.2, ge=0, description="Saturation jitter, redrawn per frame [0.2].")
    hue: float = Field(0.1, ge=0, le=0.5, description="Hue jitter, redrawn per frame [0.1].")
    greyscale: Fraction = Field(0.0, description="Chance of a greyscale clip [0.2].")
    views: Count | None = Field(
        8,
        description="Augmented views of a clip that the epochs cycle through; None: every epoch draws a new one. "
        "With a number they are drawn and decoded once, and so are the teacher's targets for them.",
    )
    frame_store: FrameStoreConfig | None = Field(
        None,
        description="Decode each clip once and keep its frames, so that a view costs a few small decodes, and not a "
        "clip; `{}` takes the defaults. None: decode as needed. Off unless asked for, in the paper's protocol as well: "
        "JPEG changes the pixels a little, in training and test, and no study has shown yet that accuracy stays; and "
        "it takes several times the clips' own space. Where `views` are kept in memory it gains little.",
    )

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1] or value[0] <= 0:
            raise ValueError("needs two positive numbers, the smaller first")
        return value

    @model_validator(mode="after")
    def _crop_fits(self) -> InputConfig:
        if self.short_side < self.img_size:
            raise ValueError(f"short_side {self.short_side} is smaller than img_size {self.img_size}")
        return self

    @property
    def stored_short_side(self) -> int:
        """Short side of the frames in the store."""
        return (self.frame_store and self.frame_store.short_side) or self.short_side


class TrainConfig(Section):
    """How a network is trained."""

    epochs: Count = Field(30, description="Passes over the training clips [120]; the last epoch is reported.")
    batch_size: Count = Field(24, description="Clips of a micro-batch: what one device takes at once [8].")
    accumulate: Count = Field(1, description="Micro-batches of one optimiser step.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="sgd: Nesterov momentum 0.9 [sgd].")
    lr: Positive = Field(1e-3, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay; none on biases and 1-D parameters.")
    warmup: Fraction = Field(0.1, description="Share of the steps that warm up linearly [20 of 120 epochs].")
    lr_floor: Fraction = Field(0.01, description="First and last learning rate, as a share of lr [0.01].")
    clip_grad_norm: Positive | None = Field(5.0, description="Gradient norm is clipped at this [5].")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the cross-entropy [0.1].")
    mixup: float = Field(0.0, ge=0, description="Alpha of mixup's Beta; 0: off [0.8].")
    cutmix: float = Field(0.0, ge=0, description="Alpha of CutMix's Beta; 0: off [1.0].")
    mix_probability: Fraction = Field(1.0, description="Share of the micro-batches that are mixed.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="auto: bfloat16 on GPUs, float32 elsewhere."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:<n>.")
    threads: Count = Field(1, description="CPU threads of a training job; part of the result on a CPU.")
    workers: int = Field(0, ge=0, description="Processes that decode clips; results do not depend on it.")
    validate_every: Count = Field(10, description="Epochs from one look at the validation subset to the next.")
    include_validation: bool = Field(
        True, description="Final arms train on train and validation together, as published protocols do."
    )

    @model_validator(mode="after")
    def _mixing_needs_pairs(self) -> TrainConfig:
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"mixup and CutMix need an even batch_size, not {self.batch_size}")
        return self


class PretrainConfig(Section):
    """A training on another data set that comes before the network's own."""

    dataset: Name = Field(description="Data set, all of whose labelled clips (of its first split) are trained on.")
    set: dict[str, Any] = Field({}, description="Dotted config keys that differ while pretraining.")


class NetworkConfig(Section):
    """One role: the big network or the small one."""

    model: str = Field(description="Name of a registered model.")
    model_overrides: dict[str, Any] = Field({}, description="Constructor arguments of the model to change.")
    weights: str | None = Field(
        None,
        description="Path of weights that replace the training, or their name in weights_definitions; every one must "
        "fit.",
    )
    start_from: str | None = Field(
        None,
        description="Path of weights that training starts from, or their name in weights_definitions; what does not "
        "fit starts as it is drawn, and is told. Without effect where `weights` are given [ImageNet FocalNets].",
    )
    pretrain: PretrainConfig | None = Field(
        None,
        description="Trains the network on another data set first, once for all arms and seeds, and starts from what "
        "comes out, all but its head. An arm goes without by setting it to null [Kinetics-400 for the small sets].",
    )
    clips_per_class: Count | None = Field(
        None, description="Labelled clips of each class to train on, whole groups first; None: all."
    )
    train: dict[str, Any] = Field({}, description="Values of `train` that differ for this network.")

    @field_validator("model")
    @classmethod
    def _registered(cls, name: str) -> str:
        from dvfl.models.registry import model_names

        if name not in model_names():
            raise ValueError(f"is not a registered model{nearest(name, model_names())}")
        return name


class DistillConfig(Section):
    """L = alpha * T^2 * KL(teacher/T || student/T) + (1 - alpha) * cross-entropy."""

    divergence: Literal["forward_kl", "reverse_kl", "released_code"] = Field(
        "forward_kl", description="What alpha weighs: forward_kl is the paper's."
    )
    alpha: Fraction = Field(0.2, description="Weight of the divergence [0.2]; 0: labels only.")
    temperature: Positive = Field(10.0, description="Temperature T [10].")
    t_squared: bool = Field(True, description="Multiply the divergence by T^2 (stated assumption; as released).")
    targets: Literal["cached", "online"] = Field(
        "cached", description="cached: the teacher's logits of all views, computed once; online: in the loop."
    )


class ArmConfig(Section):
    network: Literal["teacher", "student"] = Field(description="Which network the arm trains.")
    distil_from: Name | None = Field(None, description="Arm whose weights teach this one; None: labels only.")
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="Seeds of this arm; None: the run's seeds."
    )
    set: dict[str, Any] = Field({}, description="Dotted config keys that differ for this arm.")
