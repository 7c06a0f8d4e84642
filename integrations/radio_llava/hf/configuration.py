"""The `vision_config` of a transformers LLaVA that has a RADIO tower."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_llava.features import feature_dim
from radio_llava.tower_config import TowerConfig


class RadioVisionConfig(PretrainedConfig):
    """A RADIO model and the choice of its features, complete: no other file is needed.

    Make one with `of`; the constructor is what transformers fills from a config.json.

    Args:
        radio: `RadioConfig` as a mapping, without the adaptors that the tower does not use.
        tower: `TowerConfig` as a mapping. Its `model` only tells people where the weights came
            from; its `resolution` and `aspect` are what the processor is made with.
        hidden_size: width of the features.
        patch_size: pixels of one image token.
        **kwargs: what every transformers configuration has.
    """

    model_type = "radio_llava_tower"

    def __init__(
        self,
        radio: Mapping[str, Any] | None = None,
        tower: Mapping[str, Any] | None = None,
        hidden_size: int = 0,
        patch_size: int = 0,
        **kwargs: Any,
    ) -> None:
        self.radio = dict(radio or {})
        self.tower = dict(tower or {})
        self.hidden_size = hidden_size
        self.patch_size = patch_size
        super().__init__(**kwargs)

    @classmethod
    def of(cls, radio: RadioModel, tower: TowerConfig) -> "RadioVisionConfig":
        """The configuration of a tower made of `radio`.

        Raises:
            ValueError: the model does not have the layers or the adaptor that `tower` names.
        """
        hidden_size = feature_dim(radio, tower)
        used = tuple(spec for spec in radio.config.adaptors if spec.name == tower.adaptor)
        return cls(
            radio=to_mapping(dataclasses.replace(radio.config, adaptors=used)),
            tower=tower.to_dict(),
            hidden_size=hidden_size,
            patch_size=radio.patch_size // (used[0].upsample if used else 1),
        )

    def radio_config(self) -> RadioConfig:
        """The field `radio` as a dataclass.

        Raises:
            ValueError: it is empty or malformed.
        """
        self._check_complete()
        return from_mapping(RadioConfig, self.radio, "vision_config.radio")

    def tower_config(self) -> TowerConfig:
        """The field `tower` as a dataclass.

        Raises:
            ValueError: it is empty or malformed.
        """
        self._check_complete()
        return TowerConfig.from_dict(self.tower)

    def _check_complete(self) -> None:
        # transformers itself makes empty ones, to find out the defaults.
        if not self.radio or not self.tower:
            raise ValueError(
                "this RadioVisionConfig describes no model: make it with "
                "RadioVisionConfig.of(load_model(...), TowerConfig(...))"
            )
