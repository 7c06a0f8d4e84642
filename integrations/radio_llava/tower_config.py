"""What a RADIO vision tower is made of: the model, the image size and the features it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from radio_core.config_file import from_mapping, to_mapping

Aspect = Literal["native", "pad", "square"]
Normalization = Literal["none", "layer_norm", "unit_scale"]


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """One vision tower, as a LLaVA model's config.json records it.

    Attributes:
        model: the RADIO model, as `radio_core.load_model` takes it: "radio_h", "toy", a path.
        resolution: long edge of the resized image, in pixels.
        aspect: "native" keeps the image's own aspect ratio; "pad" puts it in the middle of a
            square of the mean colour; "square" stretches it to a square.
        layers: blocks of the backbone whose features are put side by side, negative ones counted
            from the end; None for the features after the last.
        adaptor: name of an adaptor, for its features in place of the backbone's; "" for none.
        normalize: scale of the features. "layer_norm" gives each token mean 0 and variance 1 over
            the channels; "unit_scale" gives it a root mean square of 1; neither has parameters.
    """

    model: str
    resolution: int = 432
    aspect: Aspect = "native"
    layers: tuple[int, ...] | None = None
    adaptor: str = ""
    normalize: Normalization = "none"

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("a vision tower needs a model: a release's name, 'toy' or a path")
        if self.resolution < 1:
            raise ValueError(f"resolution {self.resolution}: must be at least 1 pixel")
        for value, known in ((self.aspect, Aspect), (self.normalize, Normalization)):
            if value not in get_args(known):
                raise ValueError(f"unknown choice {value!r}; known: {', '.join(get_args(known))}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers: name at least one block, or leave it out for the last")
        if self.layers is not None and self.adaptor:
            raise ValueError(
                "choose layers or an adaptor: an adaptor reads the features of the last block"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, for a model's config.json."""
        values: dict[str, Any] = to_mapping(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TowerConfig":
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: an unknown field or a value that does not fit.
        """
        return from_mapping(cls, values)


FLAGS = ("resolution", "aspect", "layers", "adaptor", "normalize")
"""Names of the training flags that choose them, after "radio_"."""


def tower_config_of(model: str, args: Any) -> TowerConfig:
    """The configuration that LLaVA's arguments or a LLaVA model's config ask for.

    Args:
        model: name of the vision tower.
        args: an object that may have `radio_tower` (a model's config: what `to_dict` gave) and
            `radio_resolution`, `radio_aspect`, `radio_layers`, `radio_adaptor`, `radio_normalize`
            (flags, which win over it; None where they are not given).

    Raises:
        ValueError: a value that does not fit.
    """
    recorded = dict(getattr(args, "radio_tower", None) or {})
    values = recorded if recorded.get("model") == model else {}
    flags = {name: getattr(args, f"radio_{name}", None) for name in FLAGS}
    values |= {name: value for name, value in flags.items() if value is not None}
    return TowerConfig.from_dict(values | {"model": model})
