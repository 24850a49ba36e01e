"""What passes, with numbers worked out by hand."""

import numpy as np
import pytest

from dvfl.deploy.check import agreement, check_accuracy, check_logits
from dvfl.deploy.packages import ExportError

ORIGINAL = np.array([[2.0, 0.0], [0.0, -4.0], [1.0, 0.9], [0.0, 1.0]])


def test_error_is_a_share_of_the_largest_logit_and_classes_are_counted():
    changed = ORIGINAL + np.array([[0, 0], [0, 0.04], [0, 0.2], [0, 0]])
    found = agreement(changed, ORIGINAL)
    assert found.relative_error == pytest.approx(0.05)
    assert (found.top1_differs, found.clips, found.share) == (1, 4, 0.25)
    # Wilson's interval of 1 in 4: (2 n p + z^2 -+ z sqrt(z^2 + 4 n p (1 - p))) / (2 (n + z^2)).
    z = 1.959964
    half = z * np.sqrt(z**2 + 3)
    assert found.ci_low == pytest.approx((2 + z**2 - half) / (2 * (4 + z**2)))
    assert found.ci_high == pytest.approx((2 + z**2 + half) / (2 * (4 + z**2)))


@pytest.mark.parametrize(
    ("precision", "error", "passes"),
    [
        ("float32", 9e-6, True),
        ("float32", 2e-5, False),
        ("bfloat16", 4e-3, True),
        ("bfloat16", 6e-3, False),
        ("bfloat16", np.nan, False),
        ("int8", 0.5, True),
    ],
)
def test_every_runtime_has_to_pass(precision, error, passes):
    found = {"onnxruntime": agreement(ORIGINAL, ORIGINAL), "openvino": agreement(ORIGINAL * (1 + error), ORIGINAL)}
    if passes:
        check_logits(found, precision, bfloat16_tolerance=5e-3)
    else:
        with pytest.raises(ExportError, match=f"{precision} in openvino"):
            check_logits(found, precision, bfloat16_tolerance=5e-3)


def test_accuracy_may_fall_by_what_is_allowed_and_no_more():
    check_accuracy({"onnxruntime": 0.9, "openvino": 0.78}, original=0.8, clips=50, allowed=0.02 + 1e-9)
    with pytest.raises(ExportError, match=r"openvino: top-1 on 50 validation clips falls from 80.0% to 76.0%"):
        check_accuracy({"onnxruntime": 0.9, "openvino": 0.76}, original=0.8, clips=50, allowed=0.02)
