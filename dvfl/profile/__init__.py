"""What a model costs: compute, time, memory. None of it needs PyTorch in this process."""

from dvfl.profile.machine import machine, package_versions, peak_memory_mb
from dvfl.profile.profile import ProfileError, profile_model

__all__ = ["ProfileError", "machine", "package_versions", "peak_memory_mb", "profile_model"]
