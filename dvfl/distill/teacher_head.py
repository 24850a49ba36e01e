"""The teacher's classifier as the released code leaves it: initialised again after its weights were loaded."""

from __future__ import annotations

import torch
from torch import nn

from dvfl.models.weights import NetworkDescription, WeightsError


def initialise_classifier(model: nn.Module, description: NetworkDescription) -> None:
    """Gives the model's classifier the weights of a network that was never trained, drawn from torch's generator.

    The classifier is the last linear layer with as many outputs as there are classes. Raises WeightsError where the
    model has none.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    name = next((name for name in reversed(layers) if layers[name].out_features == len(description.classes)), None)
    if name is None:
        raise WeightsError(
            f"{description.model}: has no linear layer with {len(description.classes)} outputs whose weights could be "
            f"drawn again; set distill.teacher_head: trained"
        )
    fresh = description.build().get_submodule(name)
    with torch.no_grad():
        layers[name].load_state_dict(fresh.state_dict())
