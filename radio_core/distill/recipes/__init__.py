"""Recipes: functions that return a complete training config."""

from collections.abc import Callable
from difflib import get_close_matches

from radio_core.distill.config import TrainConfig
from radio_core.distill.recipes.efficient import e_radio_b, e_radio_l, timm_network
from radio_core.distill.recipes.paper import (
    radio_b,
    radio_h,
    radio_h_stage1,
    radio_h_stage2,
    radio_l_ablation,
)
from radio_core.distill.recipes.single_gpu import single_gpu
from radio_core.distill.recipes.toy import toy, toy_eradio, toy_full, toy_timm

Recipe = Callable[[], TrainConfig]

RECIPES: dict[str, Recipe] = {
    "toy": toy,
    "toy-full": toy_full,
    "toy-e-radio": toy_eradio,
    "single-gpu": single_gpu,
    "radio-b": radio_b,
    "radio-l-ablation": radio_l_ablation,
    "radio-h": radio_h,
    "radio-h-stage1": radio_h_stage1,
    "radio-h-stage2": radio_h_stage2,
    "e-radio-b": e_radio_b,
    "e-radio-l": e_radio_l,
}
RECIPES_OF_NETWORKS: dict[str, Callable[[str], TrainConfig]] = {
    "timm": timm_network,
    "toy-timm": toy_timm,
}
"""Recipes with the name of a network behind a colon, e.g. "timm:regnety_064"."""


def get_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name in RECIPES:
        return RECIPES[name]()
    kind, _, network = name.partition(":")
    if network and kind in RECIPES_OF_NETWORKS:
        return RECIPES_OF_NETWORKS[kind](network)
    close = get_close_matches(name, RECIPES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    known = ", ".join([*RECIPES, *(f"{kind}:NETWORK" for kind in RECIPES_OF_NETWORKS)])
    raise ValueError(f"unknown recipe {name!r}{hint}; known: {known}")
