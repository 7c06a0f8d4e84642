"""The toy world as an endless folder of images for the trainer."""

from PIL import Image

from radio_core.data.toyworld.scenes import render_scene


class ToyWorldImages:
    """Scenes first … first + count - 1 of world `seed`, as an image source for training.

    Held-out scenes for evaluation come from far-away indices (see `export`), so they never overlap.
    """

    def __init__(self, count: int, seed: int = 0, first: int = 0) -> None:
        if count < 1:
            raise ValueError(f"toy world: count must be at least 1, not {count}")
        self.count, self.seed, self.first = count, seed, first

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Image.Image:
        """Scene number `index` as an RGB picture of 128×128 pixels."""
        return Image.fromarray(render_scene(self.seed, self.first + index).image)
