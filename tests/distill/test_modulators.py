"""Modulators are those of the forward pass, compared stage by stage, and the projectors alone bridge the widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dvfl.config import DistillConfig
from dvfl.distill.modulators import ModulatorProjection, Modulators, ModulatorsError, watched
from dvfl.distill.targets import OnlineTargets
from dvfl.distill.task import Batch, DistillationTask, frozen
from dvfl.models.video_focalnet import VideoFocalNet


def network(embed_dim: int = 4, depths: tuple[int, ...] = (1, 2), seed: int = 0, **options) -> VideoFocalNet:
    torch.manual_seed(seed)
    levels = {"focal_levels": (2,) * len(depths), "focal_windows": (3,) * len(depths)}
    size = {"num_classes": 3, "num_frames": 4, "img_size": 16, "init": "narrow"}
    return VideoFocalNet(**{**size, **levels, "embed_dim": embed_dim, "depths": depths, **options})


@pytest.fixture
def clip() -> torch.Tensor:
    torch.manual_seed(7)
    return torch.randn(2, 4, 3, 16, 16)


def test_they_are_the_factors_that_the_query_is_multiplied_by(clip):
    model = network()
    last = model.layers[1].blocks[-1].modulation
    inputs: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    with watched(model) as seen:
        model(clip)
    assert [tuple(map_.shape) for map_ in seen.spatial] == [(2, 4, 4, 4, 4), (2, 4, 2, 2, 8)]
    assert [map_.shape for map_ in seen.temporal] == [map_.shape for map_ in seen.spatial]
    _, context, gates = last.f(inputs[0]).split((8, 8, 3), dim=-1)
    assert_close(seen.spatial[1], last.spatial_modulator(context, gates))
    assert_close(seen.temporal[1], last.temporal_modulator(*last.f_temporal(inputs[0]).split((8, 3), dim=-1)))


def test_watching_leaves_no_trace(clip):
    model = network()
    expected = model(clip)
    with watched(model) as seen:
        assert torch.equal(model(clip), expected)
    model(clip)
    assert len(seen.spatial) == len(seen.temporal) == 2
    assert not any(module._forward_hooks for module in model.modules())


def noise(*shape: int) -> torch.Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape)


def test_the_distance_is_from_the_normalised_teacher_and_counts_stages_alike():
    projection = ModulatorProjection(network(4), network(6))
    for projector in [*projection.spatial, *projection.temporal]:
        nn.init.zeros_(projector.weight)
        nn.init.zeros_(projector.bias)
    student = Modulators([noise(2, 4, 4, 4, 4), noise(2, 4, 2, 2, 8)], [noise(2, 4, 4, 4, 4), noise(2, 4, 2, 2, 8)])
    teacher = Modulators(
        [1e3 + 50 * noise(2, 4, 4, 4, 6), noise(2, 4, 2, 2, 12)], [noise(2, 4, 4, 4, 6), noise(2, 4, 2, 2, 12)]
    )
    found = projection(student, teacher)
    assert {branch: distance.item() for branch, distance in found.items()} == pytest.approx(
        {"spatial": 1.0, "temporal": 1.0}, rel=1e-2
    )


def test_a_student_that_is_the_teacher_normalised_is_at_no_distance():
    projection = ModulatorProjection(network(4, (1,)), network(4, (1,)))
    nn.init.eye_(projection.spatial[0].weight)
    nn.init.zeros_(projection.spatial[0].bias)
    teacher = 3 + 2 * noise(2, 4, 4, 4, 4)
    own = nn.functional.layer_norm(teacher, (4,))
    found = projection(Modulators([own], [own]), Modulators([teacher], [teacher]))
    assert found["spatial"] < 1e-10 < found["temporal"]


def test_maps_of_other_sizes_are_pooled_to_the_smaller(clip):
    student, teacher = network(4, tubelet_size=2), network(6, use_conv_embed=True)
    projection = ModulatorProjection(student, teacher)
    with watched(student) as own:
        student(clip)
    with watched(teacher) as wanted:
        teacher(clip)
    assert own.spatial[0].shape[1] == 2 and wanted.spatial[0].shape[1] == 4
    found = projection(own, wanted)

    def halved(maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [each.unflatten(1, (2, 2)).mean(2) for each in maps]

    assert_close(found, projection(own, Modulators(halved(wanted.spatial), halved(wanted.temporal))))


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (nn.Linear(2, 2), network(), "the student is a Linear, which has no modulators"),
        (network(), nn.Linear(2, 2), "the teacher is a Linear, which has no modulators"),
        (network(depths=(1, 1)), network(depths=(1,)), "the student has 2 stages and the teacher 1"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(student, teacher, said):
    with pytest.raises(ModulatorsError, match=said) as error:
        ModulatorProjection(student, teacher)
    assert str(error.value).startswith("distill.features: ") and "features.weight: 0" in str(error.value)


def task_of(weight: float, student: VideoFocalNet, teacher: VideoFocalNet) -> DistillationTask:
    config = DistillConfig(alpha=0.5, temperature=2.0, targets="online", features={"weight": weight})
    torch.manual_seed(3)
    return DistillationTask(student, OnlineTargets(teacher), config, ModulatorProjection(student, teacher), teacher)


def test_the_loss_gains_a_weighed_part_that_is_logged_by_name_and_taught_to_student_and_projectors(clip):
    student, teacher = network(4), frozen(network(6, seed=1))
    task = task_of(3.0, student, teacher)
    losses = task(Batch(clip, torch.tensor([0, 1]), torch.eye(3)[:2], torch.arange(2), 0))
    parts = losses.parts
    assert parts["loss_features"] == pytest.approx(
        (parts["loss_features_spatial"] + parts["loss_features_temporal"]) / 2
    )
    assert losses.total.item() == pytest.approx(
        0.5 * parts["loss_kd"] + 0.5 * parts["loss_ce"] + 3.0 * parts["loss_features"], rel=1e-5
    )
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in task.features.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.layers[0].blocks[0].modulation.h_temporal.weight.grad.abs().max() > 0
    assert {id(p) for p in task.trained.parameters()} == {
        id(p) for p in [*student.parameters(), *task.features.parameters()]
    }


def test_it_can_be_learned(clip):
    student, teacher = network(4), frozen(network(6, seed=1))
    task = task_of(1.0, student, teacher)
    optimizer = torch.optim.AdamW(task.trained.parameters(), lr=0.01)
    batch = Batch(clip, torch.tensor([0, 1]), torch.eye(3)[:2], torch.arange(2), 0)
    course = []
    for _ in range(60):
        losses = task(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        course.append(losses.parts["loss_features"])
    assert course[-1] < 0.5 * course[0]
