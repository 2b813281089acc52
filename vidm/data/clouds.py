"""A plane of noise clouds above the viewer, whose motion is known exactly.

Pixel (u, v), v = 0 at the top and 1 at the bottom of the picture, sees the plane at depth d and place P; the
pattern D drifts with the wind w and evolves slowly:

    d(v) = 1 / (1 - k v)        P = (u d, v d)                              (perspective, 0 <= k < 1)
    c(p, n) = D(P(p) - n w, n)  D = sum_i a_i g_i(cos(r_i n) A_i + sin(r_i n) B_i)

What a pixel of frame a shows is found in frame b at P^-1(P(p) + (b - a) w): that gives the flow. A_i and
B_i are band-limited Gaussian fields (real and imaginary part of one FFT), tileable and wider than the
picture; g is the identity for the coarsest octave and |.| for the others: round puffs with creases.

Lengths are in frame widths, angles in radians, times in frames.
"""

from __future__ import annotations

import numpy as np

PERIOD = 8 / 3  # of the noise
MODES = 256  # per axis, drawn at every picture size, so that a scene is the same at each
HALF_NORMAL_MEAN, HALF_NORMAL_VARIANCE = np.sqrt(2 / np.pi), 1 - 2 / np.pi  # of |normal|


def smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


class Layer:
    """One plane of clouds.

    Args:
        rng: draws the noise.
        size: side of the picture, pixels.
        wavelength: of the coarsest octave.
        weights: of the puffy octaves, each 2.6 times finer than the one before; the coarsest has weight 1.
        stretch: how much longer than wide the structures are, along `heading`.
        curl: how far the pattern is warped, which bends streaks.
        wind: drift (x, y) on the plane in a frame.
        tilt: k of the perspective.
        rates: of the octaves' change of shape, radians a frame.
        margin: pixels around the picture that `at` returns too.
    """

    def __init__(self, rng, size, *, wavelength, weights, stretch, heading, curl, wind, tilt, rates, margin=0) -> None:
        self.size, self.tilt, self.wind, self.rates = size, tilt, wind, rates
        self.side = int(2 ** np.ceil(np.log2(2 * size)))
        waves = wavelength / 2.6 ** np.arange(1 + len(weights))
        self.octaves = [self._octave(rng, wave, stretch, heading) for wave in waves]
        if curl:
            warp = self._octave(rng, 1.2, 1.0, 0.0)
            self.octaves = [[self._warped(field, warp, curl) for field in octave] for octave in self.octaves]
        scale = 1 / np.sqrt(1 + HALF_NORMAL_VARIANCE * np.sum(np.square(weights)))
        self.weights = scale * np.array([1, *weights])
        self.offset = -HALF_NORMAL_MEAN * self.weights[1:].sum()
        line = np.arange(-margin, size + margin) + 0.5
        u, v = np.meshgrid(line / size - 0.5, line / size)
        self.base = [axis.astype(np.float32) for axis in self._to_plane(u, v)]

    def _octave(self, rng, wavelength: float, stretch: float, heading: float) -> list[np.ndarray]:
        """Two independent fields with waves of about this length, (side, side), unit variance."""
        noise = rng.standard_normal((2, MODES, MODES), dtype=np.float32)
        k = np.fft.fftfreq(MODES, 1 / MODES).astype(np.float32) / PERIOD  # cycles per frame width
        c, s = np.float32(np.cos(heading)), np.float32(np.sin(heading))
        along, across = k * c + k[:, None] * s, k[:, None] * c - k * s
        radius = np.hypot(along * np.float32(stretch), across / np.float32(np.sqrt(stretch)))
        radius *= np.float32(wavelength)
        # Steep on both sides: an octave has one size of puff, and nothing finer than the picture can show.
        gain = radius * np.sqrt(radius) * np.exp(-0.75 * radius * radius)
        gain *= np.hypot(k, k[:, None]) < 0.4 * self.size
        spectrum = np.empty((MODES, MODES), np.complex64)
        spectrum.real, spectrum.imag = noise * gain
        if self.side != MODES:  # the same field, sampled more or less finely
            half = min(self.side, MODES) // 2
            ends = (slice(0, half), slice(-half, None))
            whole, spectrum = spectrum, np.zeros((self.side, self.side), np.complex64)
            for rows in ends:
                for columns in ends:
                    spectrum[rows, columns] = whole[rows, columns]
        field = np.fft.ifft2(spectrum)
        return [np.ascontiguousarray(part) / part.std() for part in (field.real, field.imag)]

    def _warped(self, field: np.ndarray, warp: list[np.ndarray], curl: float) -> np.ndarray:
        reach = np.float32(curl * self.side / PERIOD)
        line = np.arange(self.side, dtype=np.float32)
        return self._sampled(field, line + reach * warp[0], line[:, None] + reach * warp[1])

    def _sampled(self, field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bilinear; x and y in texels, wrapped by a bit mask, since the side is a power of two."""
        column, row = np.floor(x), np.floor(y)
        x, y = x - column, y - row
        last = self.side - 1
        left, top = column.astype(np.int32) & last, (row.astype(np.int32) & last) * self.side
        right, bottom = (left + 1) & last, (top + self.side) & (self.side**2 - 1)
        flat = field.reshape(-1)
        upper, lower = flat.take(top + left), flat.take(bottom + left)
        upper += x * (flat.take(top + right) - upper)
        lower += x * (flat.take(bottom + right) - lower)
        upper += y * (lower - upper)
        return upper

    def _to_plane(self, u, v):
        depth = 1 / (1 - self.tilt * v)
        return u * depth, v * depth

    def at(self, n: float) -> np.ndarray:
        """The pattern in frame n with its margin, (rows, columns) float32, zero mean and unit variance."""
        pattern = np.full((self.side, self.side), self.offset, np.float32)
        for (a, b), weight, rate in zip(self.octaves, self.weights, self.rates, strict=True):
            octave = np.float32(weight * np.cos(rate * n)) * a
            octave += np.float32(weight * np.sin(rate * n)) * b
            pattern += octave if a is self.octaves[0][0] else np.abs(octave, out=octave)
        x, y = (
            (axis - np.float32(wind * n)) * np.float32(self.side / PERIOD)
            for axis, wind in zip(self.base, self.wind, strict=True)
        )
        return self._sampled(pattern, x, y)

    def flow(self, frames: float) -> np.ndarray:
        """How far what a pixel shows moves in so many frames, (2, size, size) float32, pixels (dx, dy)."""
        line = (np.arange(self.size) + 0.5) / self.size
        u, v = np.meshgrid(line - 0.5, line)
        x, y = self._to_plane(u, v)
        x, y = x + self.wind[0] * frames, y + self.wind[1] * frames
        depth = 1 + self.tilt * y
        return (np.stack([x / depth - u, y / depth - v]) * self.size).astype(np.float32)
