"""The teacher of a run: what it is shown, and where the student gets its logits from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dvfl import plan, stores
from dvfl.config import Config, digest
from dvfl.data.clips import ClipDataset, epoch_order, iterate_training
from dvfl.data.transforms import normalise
from dvfl.distill.modulators import ModulatorProjection
from dvfl.distill.target_store import RECIPE, UNMIXED, TargetStore
from dvfl.distill.targets import CachedTargets, OnlineTargets, StoredTargets, TeacherTargets, check_teacher
from dvfl.distill.task import DistillationTask, frozen
from dvfl.distill.teacher_head import initialise_classifier
from dvfl.files import MissingInput, sha256
from dvfl.models.inference import for_inference
from dvfl.models.plugins import plugin_file
from dvfl.models.weights import load_network
from dvfl.progress import Progress
from dvfl.randomness import torch_seeded
from dvfl.run import Run, RunSettings
from dvfl.train.distributed import Processes
from dvfl.train.loop import Recipe, autocast, compile_network, count_micro_batches, training_batches
from dvfl.train.provenance import package_versions


def load_teacher(weights: str, settings: RunSettings, recipe: Recipe) -> nn.Module:
    """The frozen teacher on the recipe's device; with a head of its own where that is to be random."""
    assert settings.distill is not None
    network, description = load_network(weights)
    if settings.distill.teacher_head == "random":
        with torch_seeded(settings.seed, "teacher head"):
            initialise_classifier(network, description)
    network = frozen(network.to(recipe.device))
    if recipe.train.compile:
        compile_network(network)
        return network
    return for_inference(network)


@dataclass(frozen=True)
class Lessons:
    """What a teacher is shown in the passes of a store, in the micro-batches in which a training asks it."""

    teacher: nn.Module
    dataset: ClipDataset
    recipe: Recipe

    def count(self, name: str) -> int:
        """Micro-batches of a pass."""
        clips, train = len(self.dataset), self.recipe.train
        return -(-clips // train.batch_size) if in_order(name) else count_micro_batches(clips, train)

    def number(self, name: str, position: int) -> int | None:
        """The micro-batch of a pass that shows a clip; None where mixing leaves the clip out."""
        if not in_order(name):
            order = epoch_order(len(self.dataset), self.recipe.seed, _number(name))
            position = int((order == position).argmax())
        number = position // self.recipe.train.batch_size
        return number if number < self.count(name) else None

    def inputs(self, name: str, numbers: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Some micro-batches of a pass, by number: positions (B,), inputs (B, T, 3, H, W)."""
        if not in_order(name):
            for batch in training_batches(self.dataset, self.recipe, _number(name), numbers):
                yield batch.positions, batch.inputs
            return
        order, train = range(len(self.dataset)), self.recipe.train
        batches = iterate_training(
            self.dataset, order, _number(name), train.batch_size, workers=train.workers, take=lambda _: numbers
        )
        for positions, views, _ in batches:
            yield torch.from_numpy(positions), normalise(views, self.dataset.input).to(self.recipe.device)

    def logits(self, name: str, inputs: Tensor) -> Tensor:
        """The teacher's answer, (B, C) in float32; as precise in the training's passes as the training asks it."""
        with torch.autocast(inputs.device.type, enabled=False) if in_order(name) else autocast(self.recipe):
            return OnlineTargets(self.teacher)(inputs, torch.empty(0), 0)


def in_order(name: str) -> bool:
    """Whether a pass shows the clips themselves, in order."""
    return name == UNMIXED or name.startswith("view")


def _number(name: str) -> int:
    """Of a view or an epoch."""
    return 0 if name == UNMIXED else int(name.removeprefix("view").removeprefix("epoch"))


def target_store(
    config: Config,
    run: Run,
    settings: RunSettings,
    inputs: Mapping[str, str | None],
    dataset: ClipDataset,
    recipe: Recipe,
) -> TargetStore:
    """Where the targets of a run are, or are to be.

    inputs: hashes of the run's files. Versions of what augments and of what computes count as well, and on what kind of
    device, how precisely: `auto` is another thing on another machine.
    """
    assert settings.distill is not None
    teacher = plan.teacher_of(config, run)
    assert teacher is not None
    plugin = plugin_file(plan.run_settings(config, teacher).network.model)
    files = [inputs[name] for name in ("teacher_weights", "index", "split")] + ([sha256(plugin)] if plugin else [])
    shaping = ("torch", "torchvision", "timm", "av", "numba", "numpy")
    versions = [version for name, version in package_versions().items() if name in shaping]
    computed = [recipe.device.type, *([] if settings.taught_by_view else [str(recipe.precision)])]
    key = digest([RECIPE, settings.taught_on, files, versions, computed])
    kind, count = ("view", settings.input.views) if settings.taught_by_view else ("epoch", settings.train.epochs)
    return TargetStore(
        stores.targets_directory(config, run) / key,
        tuple(f"{kind}{number}" for number in range(count or 0)),
        len(dataset),
        len(dataset.classes),
        settings.distill.targets_precision,
    )


def distillation(
    processes: Processes,
    student: nn.Module,
    weights: str,
    store: TargetStore | None,
    dataset: ClipDataset,
    settings: RunSettings,
    recipe: Recipe,
) -> tuple[DistillationTask, float]:
    """The distillation task, and the teacher's accuracy on the training clips.

    That must be above chance, unless the teacher's head is to be random. weights: the teacher's, which is not even
    loaded where the `store` has all of its logits.
    """
    distill = settings.distill
    assert distill is not None
    required = distill.refuses_chance
    labels = torch.tensor(dataset.labels)  # a copy: pandas gives an array that may not be written
    if store is not None and not processes.any(bool(store.missing())):
        accuracy = check_teacher(store.of_clips(), labels, str(store.folder), required)
        return DistillationTask(student, StoredTargets(store), distill), accuracy
    if distill.targets == "stored":
        assert store is not None
        raise MissingInput(f"{store.folder}: is not complete, or of other weights or clips; {store.remedy}")
    lessons = Lessons(load_teacher(weights, settings, recipe), dataset, recipe)
    few_views = settings.taught_by_view and not distill.in_loop
    names = [f"view{view}" for view in range(settings.input.views or 1 if few_views else 1)]
    precision = torch.float32 if distill.in_loop else getattr(torch, distill.targets_precision)

    def inputs_of(name: str) -> Iterator[Tensor]:
        yield from (inputs for _, inputs in lessons.inputs(name, processes.share(lessons.count(name))))

    with Progress("teacher's targets", len(names), silent=not processes.first or not few_views) as progress:
        views = (inputs_of(name) for name in progress.track(names))
        of_clips = CachedTargets.compute(lessons.teacher, views, recipe.device, processes.gathered, precision)
    accuracy = check_teacher(of_clips.logits, labels, weights, required)
    targets: TeacherTargets = of_clips if few_views else OnlineTargets(lessons.teacher, precision)
    features: ModulatorProjection | None = None
    if distill.features.weight:
        if processes.first and distill.targets == "auto":
            print("distill.targets: online, since stored logits have no modulators to compare", file=sys.stderr)
        with torch_seeded(settings.seed, "projectors"):
            features = ModulatorProjection(student, lessons.teacher).to(recipe.device)
    return DistillationTask(student, targets, distill, features, lessons.teacher if features else None), accuracy
