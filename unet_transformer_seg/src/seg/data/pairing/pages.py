"""Divides files of several images, such as stacks of pages and volumes of slices, into a pair for each of them."""

import dataclasses

from seg.config import DataConfig
from seg.data.images.image_kind import has_image_name
from seg.data.images.stack import count_images
from seg.data.pairing.pair import Search

SINGLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".npy", ".npz")  # suffixes of files of a single image


def divide_stacks(search: Search, config: DataConfig) -> Search:
    """Return the search with a pair for each image of a file: page n of the image with page n of the mask.

    The file is divided after the splits are, so all of its images are in one split.
    """
    pairs, problems, num_stacks = [], [], 0
    for pair in search.pairs:
        if pair.image.suffix.lower() in SINGLE or not has_image_name(pair.image):
            pairs.append(pair)
            continue
        count = count_images(pair.image, config)
        in_mask = count_images(pair.mask, dataclasses.replace(config, channels=DataConfig.channels)) if count > 1 else 1
        if in_mask != count:
            text = f"{pair.mask}: {in_mask} pages, its image {pair.image} has {count}"
            problems.append(f"{text}; save as many masks as images")
        elif count == 1:
            pairs.append(pair)
        else:
            num_stacks += 1
            names = (f"{pair.name}[{page}]" for page in range(count))
            pairs += [dataclasses.replace(pair, name=name, page=page) for page, name in enumerate(names)]
    notes = [f"{num_stacks} files hold several images, {len(pairs)} in all"] if num_stacks else []
    return Search(pairs, [*search.problems, *problems], search.remarks, [*search.notes, *notes])
