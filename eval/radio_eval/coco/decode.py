"""Decode the images of coming batches while the model works on the present one."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from radio_core.data.images import UnreadableImage
from radio_eval.coco.instances import CocoInstances

Decoded = np.ndarray | UnreadableImage
"""uint8 [H, W, 3], RGB, or why there is none."""


def decoded_batches(
    coco: CocoInstances, batches: Sequence[Sequence[int]], *, ahead: int = 2, threads: int = 4
) -> Iterator[dict[int, Decoded]]:
    """The images of each batch by id, in order; decoders run in threads.

    Args:
        coco: the split.
        batches: image ids.
        ahead: batches that are decoded before they are asked for.
        threads: decoders.
    """

    def decode(image_id: int) -> Decoded:
        try:
            return coco.image(image_id)
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor(threads) as pool:

        def begin(batch: Sequence[int]) -> dict[int, Future[Decoded]]:
            return {image_id: pool.submit(decode, image_id) for image_id in batch}

        remaining = iter(batches)
        begun = deque(begin(batch) for batch in islice(remaining, ahead))
        try:
            while begun:
                begun.extend(begin(batch) for batch in islice(remaining, 1))
                yield {image_id: image.result() for image_id, image in begun.popleft().items()}
        finally:
            pool.shutdown(cancel_futures=True)
