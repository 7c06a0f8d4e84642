"""Images against sentences that name the classes, as open_clip compares them."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def zero_shot_classifier(
    encode_text: Callable[[Sequence[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    classes_per_batch: int = 10,
) -> Tensor:
    """Class weights: normalise every sentence, average over templates, normalise again.

    Args:
        encode_text: sentences -> [T, D] float, not necessarily normalised; it is called with
            class-major lists (all templates of the first class, then of the second, ...).
        class_names: C names.
        templates: sentences with one "{}".
        classes_per_batch: classes whose sentences are encoded at once.

    Returns:
        [D, C] float32 with unit columns.
    """
    columns = []
    for start in range(0, len(class_names), classes_per_batch):
        names = class_names[start : start + classes_per_batch]
        texts = [template.replace("{}", name) for name in names for template in templates]
        embeddings = F.normalize(encode_text(texts).float(), dim=1)
        means = embeddings.view(len(names), len(templates), -1).mean(dim=1)
        columns.append(F.normalize(means, dim=1))
    return torch.cat(columns).T


def zero_shot_logits(image_summaries: Tensor, classifier: Tensor) -> Tensor:
    """Cosine similarity of images [B, D] with classes [D, C] -> [B, C] in [-1, 1]."""
    return F.normalize(image_summaries.float(), dim=1) @ classifier
