"""How nnU-Net's plans prepare images, as settings of `data`.

| scheme in the plans | x becomes | here |
|---|---|---|
| ZScoreNormalization | (x − mean) / deviation, of the image | `normalise: image` |
| CTNormalization | (clip(x, low, high) − mean) / deviation, of the foreground | `channel_ranges`, `mean`, `std` |
| RGBTo01Normalization | x / 255 | `std` 1 |
| NoNormalization | x | `std` 1/255, as black and white are 0 and 255 |

RescaleTo01Normalization depends on the brightest and darkest pixel of each image, and has no counterpart.
"""

import dataclasses
from typing import NamedTuple

from seg.config import DataConfig
from seg.errors import UserError
from seg.published.nnunet_plans import Plans
from seg.published.settings_file import entry
from seg.untrusted import shown

PER_IMAGE, BYTES = "ZScoreNormalization", (0.0, 255.0)
SMALLEST_STD = 1e-8  # below it nnU-Net divides by this


class Channel(NamedTuple):
    """Black and white of a channel, and what is then subtracted and divided by, where white is 1."""

    levels: tuple[float, float]
    mean: float
    std: float


def read_data_settings(plans: Plans, size: tuple[int, int]) -> DataConfig:
    """Return the settings of images and windows of `size`; a normalisation without a counterpart is refused by name."""
    channels, where = read_num_channels(plans), plans.where
    schemes = entry(plans.configuration, "normalization_schemes", list, where)
    if len(schemes) != channels:
        raise UserError(
            f"{where}: normalization_schemes: expected one for each of {channels} channels, found {len(schemes)}"
        )
    if set(map(str, schemes)) == {PER_IMAGE}:
        masked = plans.configuration.get("use_mask_for_norm")
        if isinstance(masked, list) and any(masked):
            raise UserError(f"{where}: use_mask_for_norm: expected false; here the pixels around a body count, too")
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        return DataConfig(size=size, channels=channels, precision="float32", normalise="image", mean=zeros, std=ones)
    parts = [_channel(plans, number, scheme) for number, scheme in enumerate(schemes)]
    mean, std = tuple(part.mean for part in parts), tuple(part.std for part in parts)
    data = DataConfig(size=size, channels=channels, mean=mean, std=std)
    if set(schemes) == {"RGBTo01Normalization"}:
        return data
    levels = tuple(part.levels for part in parts)
    return dataclasses.replace(data, precision="float32", range="percentiles", channel_ranges=levels)


def read_num_channels(plans: Plans) -> int:
    """Return the number of an image's channels."""
    key = "channel_names" if "channel_names" in plans.dataset else "modality"
    return len(entry(plans.dataset, key, dict, plans.dataset_where))


def _channel(plans: Plans, number: int, scheme: str) -> Channel:
    match scheme:
        case "RGBTo01Normalization":
            return Channel(BYTES, 0.0, 1.0)
        case "NoNormalization":
            return Channel(BYTES, 0.0, 1 / BYTES[1])
        case "CTNormalization":
            where = f"{plans.where}: intensities of channel {number}"
            intensities = entry(plans.intensities, str(number), dict, where)
            keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
            low, high, mean, std = (float(entry(intensities, key, float, where)) for key in keys)
            if not low <= mean <= high or low == high:
                raise UserError(
                    f"{where}: expected a mean within the percentiles, found {mean:g} in {low:g} … {high:g}"
                )
            return Channel((low, high), (mean - low) / (high - low), max(std, SMALLEST_STD) / (high - low))
    known = f"{PER_IMAGE} (of all channels), CTNormalization, RGBTo01Normalization or NoNormalization"
    raise UserError(f"{plans.where}: normalization_schemes: expected {known}, found {shown(scheme)}")
