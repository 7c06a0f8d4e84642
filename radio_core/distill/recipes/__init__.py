"""Recipes: functions that return a complete training config, entry points of `radio.recipes`."""

import inspect
from collections.abc import Callable

from radio_core.distill.config import TrainConfig
from radio_core.registry import Registry, UnknownName

Recipe = Callable[..., TrainConfig]
"""Called without arguments; or, for "timm:regnety_064", with what is behind the colon."""
RECIPES: Registry[Recipe] = Registry("radio.recipes", "recipe")


def get_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Args:
        name: of an entry point; with a ":" and the name of a network behind it where the recipe
            takes one, e.g. "timm:regnety_064"; or "module:function" of anybody's own code.

    Raises:
        UnknownName: a ValueError; the message lists the known names, or says that the name of a
            network is missing.
        ValueError: the function gives no `TrainConfig`.
    """
    kind, _, network = name.partition(":")
    recipe = RECIPES.load(kind if kind in RECIPES else name)
    given = bool(network) and kind in RECIPES
    if given != _takes_network(recipe):
        form = kind if given else f"{kind}:NETWORK, e.g. {kind}:resnet18"
        raise UnknownName(f"recipe {name!r}: name it {form}")
    config = recipe(network) if given else recipe()
    if not isinstance(config, TrainConfig):
        raise ValueError(f"recipe {name!r} gives a {type(config).__name__}, not a TrainConfig")
    return config


def recipe_list() -> str:
    """One line a recipe, for a command's help."""
    lines = []
    for name in RECIPES.entries:
        try:
            recipe = RECIPES.load(name)
        except ImportError as error:
            lines.append(f"  {name:<18}({error})")
            continue
        shown = f"{name}:NETWORK" if _takes_network(recipe) else name
        lines.append(f"  {shown:<18}{(inspect.getdoc(recipe) or '').partition(chr(10))[0]}")
    lines.append("  MODULE:FUNCTION   your own, of a file on PYTHONPATH")
    return "\n".join(["recipes:", *lines])


def _takes_network(recipe: Recipe) -> bool:
    parameters = inspect.signature(recipe).parameters.values()
    return any(parameter.default is parameter.empty for parameter in parameters)
