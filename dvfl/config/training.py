"""Networks, what they are shown, how they are trained and distilled."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from dvfl.config.divergences import PARAMETERS, AlphaDivergenceConfig, DistConfig, DivergenceName, DkdConfig
from dvfl.config.section import Count, Fraction, ModelName, Name, Positive, Section, Seeds

DropPath = Annotated[float, Field(ge=0.0, lt=1.0)]
Deviation = Annotated[float, Field(gt=0.0, le=1.0)]


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("is not a device; use auto, cpu, cuda or cuda:<n>")
    return name


Device = Annotated[str, AfterValidator(_known_device)]


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
    """What a network is shown; in brackets the authors' released recipe, where the paper leaves it open too."""

    frames: Count = Field(8, description="Segments of a clip, one frame each [8].")
    img_size: int = Field(32, ge=16, description="Height and width given to the network, pixels [224].")
    short_side: int = Field(36, ge=16, description="Short side a frame is first resized to, pixels [256].")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear",
        description="How frames are resized, to short_side and from a training crop to img_size, in training and test; "
        "always antialiased [bilinear, the default of Resize in datasets/pipeline.py, by OpenCV and not antialiased].",
    )
    mean: tuple[Fraction, Fraction, Fraction] = Field(
        (0.485, 0.456, 0.406),
        strict=False,  # YAML has lists
        description="Subtracted from red, green and blue, which lie between 0 and 1, before a network, teacher or "
        "student, sees them [ImageNet's, in datasets/build.py times 255].",
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (0.229, 0.224, 0.225),
        strict=False,
        description="What the three are divided by then [ImageNet's, likewise].",
    )
    crop_area: tuple[Fraction, Fraction] = Field(
        (0.5, 1.0), strict=False, description="Share of the area that a training crop keeps [0.08, 1]."
    )
    crop_aspect: tuple[Positive, Positive] = Field(
        (0.75, 4 / 3), strict=False, description="Width over height of a training crop [3/4, 4/3]."
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

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _of_three_colours(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise ValueError("needs three numbers, of red, green and blue")
        return value

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

    @property
    def stored_quality(self) -> int:
        """JPEG quality of the frames in the store, which there must be."""
        assert self.frame_store is not None
        return self.frame_store.quality


class TrainConfig(Section):
    """How a network is trained; the released recipe in brackets."""

    epochs: Count = Field(30, description="Passes over the training clips [120].")
    batch_size: Count = Field(24, description="Clips of a micro-batch: what one device takes at once [8].")
    accumulate: Count = Field(
        1, description="Micro-batches of one optimiser step, those of all processes together; at least one for each."
    )
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="sgd with Nesterov momentum, or adamw [sgd].")
    lr: Positive = Field(1e-3, description="Peak learning rate, of a step of lr_batch clips where that is given [0.1].")
    lr_batch: Count | None = Field(
        None,
        description="Clips of the step that lr is meant for: the peak is lr * batch_size * accumulate / lr_batch; "
        "None: lr as it stands [512, which makes 0.0046875 of 24 clips a step].",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of sgd [0.9].")
    weight_decay: float = Field(
        0.05, ge=0, description="Weight decay, of what decay_applies_to says [1e-4 in the released files]."
    )
    decay_applies_to: Literal["matrices", "none"] = Field(
        "matrices",
        description="matrices: matrices and kernels, not biases and other 1-D parameters; none: no parameter, which is "
        "what the released optimizer makes of any weight decay (finding no_weight_decay_at_all).",
    )
    warmup: Fraction = Field(0.1, description="Share of the steps that warm up linearly [20 of 120 epochs].")
    lr_floor: Fraction = Field(
        0.01,
        description="Learning rate that the warm-up starts from and the cosine, step by step, ends at, as a share of "
        "the peak [0.01].",
    )
    clip_grad_norm: Positive | None = Field(5.0, description="Gradient norm is clipped at this [5].")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the cross-entropy [0.1].")
    mixup: float = Field(0.0, ge=0, description="Alpha of mixup's Beta; 0: off [0.8].")
    cutmix: float = Field(0.0, ge=0, description="Alpha of CutMix's Beta; 0: off [1.0].")
    mix_probability: Fraction = Field(
        0.5,
        description="Share of the micro-batches that are mixed [0.5 in the released files, 1 in what main_KD.py does: "
        "finding mixup_prob_ignored].",
    )
    cutmix_share: Fraction = Field(
        0.5, description="Share of CutMix among the micro-batches that are mixed, where mixup is on as well [0.5]."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="auto: bfloat16 on GPUs, float32 elsewhere. float16 is for GPUs without bfloat16: gradients are "
        "scaled, and a step whose gradient overflows is left out.",
    )
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:<n>.")
    gpus: int = Field(
        0,
        ge=0,
        description="GPUs that a training or test asks Snakemake for, one process on each; as many as there are where "
        "there are fewer. 0: it asks for none, and takes one where device `auto` finds any.",
    )
    share_gpus: bool = Field(
        False, description="May work on a GPU beside other jobs that may; else a job waits until one is free."
    )
    processes: Count | None = Field(
        None,
        description="Processes of a training or test; None: one for each of `gpus`, and one on a CPU. Steps are the "
        "same whatever their number: they take the micro-batches of `accumulate` in turn.",
    )
    threads: Count = Field(1, description="CPU threads of a process; part of the result on a CPU.")
    workers: int = Field(
        0, ge=0, description="Processes that decode clips, for each that trains; results do not depend on it."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Blocks keep no activations and compute them again in the backward pass: less memory, more time, "
        "the same numbers. For VideoFocalNets and those of timm's models that know it.",
    )
    compile: bool = Field(
        False,
        description="torch.compile the networks: minutes at first, then faster steps on GPUs. Draws the same random "
        "numbers; rounding differs.",
    )
    validate_every: Count = Field(10, description="Epochs from one look at the validation subset to the next.")
    include_validation: bool = Field(
        True, description="Final arms train on train and validation together, as published protocols do."
    )

    report_epoch: Literal["last", "best_on_test"] = Field(
        "last",
        description="Epoch whose weights are the result. best_on_test looks at the clips that the run is evaluated on "
        "after every epoch and keeps the best: selection on test, as the released main_KD.py reports (finding "
        "selection_on_test). Refused in protocol as_described, outside studies that are evaluated on test.",
    )

    @property
    def asked_gpus(self) -> int:
        """GPUs to ask Snakemake for."""
        return 0 if self.device == "cpu" else self.gpus

    @property
    def asked_processes(self) -> int:
        """Processes where there are the GPUs that are asked for."""
        return self.processes or max(1, self.asked_gpus)

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up, for steps of this many clips."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size * self.accumulate / self.lr_batch

    @model_validator(mode="after")
    def _every_process_has_a_micro_batch(self) -> TrainConfig:
        if self.gpus and self.processes and self.gpus != self.processes:
            raise ValueError(f"has {self.processes} processes for {self.gpus} gpus; each takes one: leave one key out")
        if (count := max(self.gpus, self.processes or 1)) > self.accumulate:
            raise ValueError(
                f"has {count} processes, but accumulate {self.accumulate}: that counts the micro-batches of a step, of "
                f"all processes together; make it {count} or a multiple"
            )
        return self

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

    model: ModelName = Field(
        description="Name of a registered model: a VideoFocalNet, a video model of torchvision's (r3d_18), an image "
        "model of timm's on each frame (timm/resnet18), or one of your own, registered by a plugin."
    )
    model_overrides: dict[str, Any] = Field({}, description="Constructor arguments of the model to change.")
    drop_path: DropPath | None = Field(
        None,
        description="Stochastic depth of the last block, growing linearly from 0 at the first; None: the model's own. "
        "It wins over `drop_path_rate` in model_overrides [base 0.5, small 0.3, tiny 0.2, vfl_net 0.1 distilled].",
    )
    drop_path_alone: DropPath | None = Field(
        None,
        description="The same where the network learns from labels alone; None: as drop_path [vfl_net 0.2 in the "
        "released file of the run on labels: finding unequal_drop_path].",
    )
    weights: str | None = Field(
        None,
        description="Weights that replace the training: a path, an address (https://…) that they are fetched "
        "from, or a name in weights_definitions; every one must fit.",
    )
    start_from: str | None = Field(
        None,
        description="Weights that training starts from: a path, an address, or a name, likewise; what does not fit "
        "starts as it is drawn, and is told. Without effect where `weights` are given [ImageNet FocalNets].",
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


class FeaturesConfig(Section):
    """Distillation between the modulators of two VideoFocalNets: local and global context, in space and in time."""

    weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the modulators' distance, added to the loss; 0: off. Keeps the teacher in the loop, and "
        "needs teacher and student both VideoFocalNets of as many stages, and alpha above 0.",
    )


class DistillConfig(Section):
    """L = alpha * T^2 * KL(teacher/T || student/T) + (1 - alpha) * cross-entropy."""

    divergence: DivergenceName = Field(
        "forward_kl",
        description="What alpha weighs: forward_kl is the paper's, released_code what classification/criterion.py "
        "computes (finding kd_not_a_divergence); all are defined in dvfl/distill/divergences.py.",
    )
    alpha: Fraction = Field(0.2, description="Weight of the divergence [0.2, by the README]; 0: labels only.")
    alpha_by_dataset: dict[Name, Fraction] = Field(
        {}, description="Alpha of single data sets, over alpha [ucf101 0.3, by its file: finding alpha_unequal]."
    )
    temperature: Positive = Field(10.0, description="Temperature T [10].")
    t_squared: bool = Field(True, description="Multiply the divergence by T^2 (stated assumption; as released).")
    teacher_head: Literal["trained", "random"] = Field(
        "trained",
        description="random: the teacher's classifier is initialised again before it teaches, once a run, as the "
        "released main_KD.py does on every GPU (finding teacher_head_random).",
    )
    teacher_gate: bool = Field(
        True,
        description="Refuse a teacher that is no better than guessing on the training clips. false is for trying out "
        "whether everything runs, with networks that had no time to learn; a random head is never refused.",
    )
    targets: Literal["auto", "stored", "online"] = Field(
        "auto",
        description="Where the teacher's logits come from. stored: from files, which one job writes for the very "
        "inputs of the training (`dvfl targets`) and all runs with the same inputs read, whatever their alpha, "
        "temperature, divergence or student. online: from the teacher in the loop. auto: stored where three or more "
        "runs of one study, or of the arms, have the same inputs, or where a store is there; elsewhere the teacher is "
        "asked in the training, once for each of `input.views` where these are not mixed (few, and kept in memory), "
        "else in the loop. Whichever auto takes, the numbers are the same to the bit.",
    )
    targets_precision: Literal["float32", "float16"] = Field(
        "float32",
        description="Of the teacher's logits, unless `targets` is online: float16 takes half the space and rounds them "
        "by up to 1 in 2048.",
    )
    alpha_divergence: AlphaDivergenceConfig = AlphaDivergenceConfig()
    dkd: DkdConfig = DkdConfig()
    dist: DistConfig = DistConfig()
    features: FeaturesConfig = FeaturesConfig()

    @model_validator(mode="after")
    def _features_need_the_teacher(self) -> DistillConfig:
        if self.features.weight and self.targets == "stored":
            raise ValueError(
                "features.weight is above 0, but of the teacher only logits are stored, no modulators: "
                "set distill.targets: online, or the weight to 0"
            )
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence's own."""
        section = getattr(self, self.divergence) if self.divergence in PARAMETERS else None
        return section.model_dump() if section else {}

    @property
    def unread(self) -> set[str]:
        """Keys that change nothing as the others are."""
        unread = set() if self.features.weight else {"features"}
        if self.in_loop:
            unread.add("targets_precision")
        return (PARAMETERS.keys() - {self.divergence}) | unread

    @property
    def in_loop(self) -> bool:
        """Whether the teacher must look at every batch as it comes: asked for, or needed for its modulators."""
        return self.targets == "online" or bool(self.features.weight)

    @property
    def refuses_chance(self) -> bool:
        """Whether a teacher at chance level stops the work."""
        return self.teacher_gate and self.teacher_head == "trained"


class ArmConfig(Section):
    network: Literal["teacher", "student"] = Field(description="Which network the arm trains.")
    distil_from: Name | None = Field(None, description="Arm whose weights teach this one; None: labels only.")
    seeds: Seeds | None = Field(None, description="Seeds of this arm; None: the run's seeds.")
    set: dict[str, Any] = Field({}, description="Dotted config keys that differ for this arm.")
