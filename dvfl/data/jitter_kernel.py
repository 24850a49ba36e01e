"""A frame's colour changes, compiled by numba: a block of pixels goes through all of them while the cache holds it.

Between two changes all levels are whole, as torchvision leaves them, so a frame may rest as uint8 wherever a pass over
it has to end: before a contrast, which needs the mean grey of all pixels. Every float32 operation is PyTorch's, in its
order, and rounds as it does. To import this module is to compile `jitter`, or to load it from numba's files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit
from numba.core.registry import cpu_target
from numba.extending import intrinsic

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers
BLOCK = 2048  # pixels: three planes of float32 fill half of a first-level cache
ZERO, HALF, ONE, TOP = np.float32(0), np.float32(0.5), np.float32(1), np.float32(255)  # a plain 0.5 is float64
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # parts of grey


def compiled(signature: str) -> Callable[[Callable], Callable]:
    """Decorator: compiles for this processor, once for all processes that find numba's files.

    numba writes an index and then the code that it names, so processes on two kinds of processor that share a folder,
    or of two versions of this file, could find each other's code under their own name: hence names that differ.
    """

    def compile(function: Callable) -> Callable:
        processor = repr(cpu_target.target_context.codegen().magic_tuple())
        digest = hashlib.sha256(processor.encode() + Path(__file__).read_bytes()).hexdigest()
        function.__qualname__ += f"_{digest[:16]}"  # the files are named by it
        try:
            return njit(signature, cache=True)(function)
        except Exception:  # no folder to write to, a full disk, a damaged file: nothing to fail a training for
            return njit(signature)(function)

    return compile


@intrinsic
def _fma(typing, a, b, c):
    """a * b + c, rounded once, as PyTorch's c.add(b, alpha=a)."""
    return a(a, b, c), lambda context, builder, signature, arguments: builder.fma(*arguments)


@njit
def _level(value):
    """As a conversion to uint8 and back."""
    return np.floor(min(max(value, ZERO), TOP))


@njit
def _grey(red, green, blue):
    return np.floor(_fma(BLUE, blue, _fma(GREEN, green, RED * red)))


@njit
def _scale_brightness(red, green, blue, factor):
    for i in range(len(red)):
        red[i], green[i], blue[i] = _level(red[i] * factor), _level(green[i] * factor), _level(blue[i] * factor)


@njit
def _scale_contrast(red, green, blue, factor, rest, mean):
    """Differences from the frame's mean grey."""
    for i in range(len(red)):
        red[i] = _level(_fma(rest, mean, red[i] * factor))
        green[i] = _level(_fma(rest, mean, green[i] * factor))
        blue[i] = _level(_fma(rest, mean, blue[i] * factor))


@njit
def _scale_saturation(red, green, blue, factor, rest):
    """Differences of each pixel from its grey."""
    for i in range(len(red)):
        grey = _grey(red[i], green[i], blue[i])
        red[i] = _level(_fma(rest, grey, red[i] * factor))
        green[i] = _level(_fma(rest, grey, green[i] * factor))
        blue[i] = _level(_fma(rest, grey, blue[i] * factor))


@njit
def _turn_hue(red, green, blue, half):
    """A turn towards green by half a sixth of the circle at most; `half` is what is left to 1/2, see `ColorJitter`."""
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        value, least = max(max(r, g), b), min(min(r, g), b)
        red[i] = _turned(r - g, g - b, value, least, half)
        green[i] = _turned(g - b, b - r, value, least, half)
        blue[i] = _turned(b - r, r - g, value, least, half)


@njit
def _turned(difference, following, value, least, half):
    chroma, middle = value - least, (value + least + ONE) * HALF  # and half a level, to round
    side = chroma if following >= ZERO else -chroma
    return np.floor(min(max(_fma(half, side, difference) + middle, least), value))


@njit
def _change(planes, numbers, factors, mean):
    """Changes uint8 planes (3, P) in place; returns the sum of their grey afterwards."""
    block, total = np.empty((3, BLOCK), np.float32), 0
    for begin in range(0, planes.shape[1], BLOCK):
        levels = planes[:, begin : begin + BLOCK]
        red, green, blue = block[0, : levels.shape[1]], block[1, : levels.shape[1]], block[2, : levels.shape[1]]
        _copy_levels(levels[0], red)
        _copy_levels(levels[1], green)
        _copy_levels(levels[2], blue)
        for k in range(len(numbers)):
            factor, rest = np.float32(factors[k]), np.float32(1 - factors[k])
            if numbers[k] == BRIGHTNESS:
                _scale_brightness(red, green, blue, factor)
            elif numbers[k] == CONTRAST:
                _scale_contrast(red, green, blue, factor, rest, mean)
            elif numbers[k] == SATURATION:
                _scale_saturation(red, green, blue, factor, rest)
            else:
                thirds = int(np.rint(3 * factors[k]))
                sixths = 6 * (factors[k] - thirds / 3)
                for _ in range(thirds % 3):
                    red, green, blue = blue, red, green
                if sixths > 0:
                    _turn_hue(red, green, blue, np.float32(0.5 - sixths))
                else:  # the other way, the circle runs backwards
                    _turn_hue(blue, green, red, np.float32(0.5 + sixths))
        for i in range(len(red)):
            total += int(_grey(red[i], green[i], blue[i]))
        _copy_levels(red, levels[0])
        _copy_levels(green, levels[1])
        _copy_levels(blue, levels[2])
    return total


@njit
def _copy_levels(source, target):
    for i in range(len(source)):
        target[i] = np.int32(source[i])  # processors have no instruction from float32 to uint8


@compiled("void(uint8[:, ::1], uint8[:, :, ::1], int64[:, ::1], float64[:, ::1])")
def jitter(pixels, frames, numbers, factors):
    """Pixels (T, P * 3), channels last -> frames (T, 3, P), changed.

    A row of `numbers` and `factors` (T, K): a frame's changes in their order, contrast at most once. A hue's factor is
    a part of the circle, -0.5 to 0.5. Up to 65,793 pixels, float32 has a frame's sum of grey exactly, so that PyTorch's
    mean is this one to the bit.
    """
    for t in range(len(frames)):
        for channel in range(3):
            for p in range(frames.shape[2]):
                frames[t, channel, p] = pixels[t, 3 * p + channel]
        begin, mean = 0, ZERO
        for k in range(numbers.shape[1]):
            if numbers[t, k] == CONTRAST:
                total = _change(frames[t], numbers[t, :k], factors[t, :k], mean)
                begin, mean = k, np.float32(total) / np.float32(frames.shape[2])
        _change(frames[t], numbers[t, begin:], factors[t, begin:], mean)
