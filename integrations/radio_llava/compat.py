"""LLaVA's own code on the transformers that is installed.

`llava-torch` was written for transformers 4.36. What has changed since then is bridged here, and
only here, each time after looking whether it has changed:

- `apply` mends the models: `forward` drops the arguments that newer `generate` passes and that
  LLaVA's signature does not have (`cache_position`).
- `apply_to_training` mends what `llava.train` needs: a name that it imports from
  `transformers.trainer`, the trainer's renamed arguments, and the gathering of weights, which
  imports deepspeed even where nothing is sharded.
- `modern_flags` renames the training flags that transformers has renamed.

Nothing is done at import, nothing twice, and nothing where it is not needed.
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from radio_core.extras import require

OLDEST = (4, 46)
NEWEST_MAJOR = 5
LLAVA_INSTALL = "pip install --no-deps llava-torch==1.2.2.post1"

_LANGUAGE_MODELS = {
    "llava.model.language_model.llava_llama": "LlavaLlamaForCausalLM",
    "llava.model.language_model.llava_mpt": "LlavaMptForCausalLM",
    "llava.model.language_model.llava_mistral": "LlavaMistralForCausalLM",
}
_RENAMED_FLAGS = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
_GONE_FLAGS = {"overwrite_output_dir", "save_safetensors"}
"""Flags of older versions that LLaVA's training does not depend on."""


def check_transformers(installed: str) -> None:
    """Refuse versions of transformers that are too old; say where one is newer than what is known.

    Raises:
        ImportError: older than 4.46.
    """
    major, minor = (int(part) for part in installed.split(".")[:2])
    if (major, minor) < OLDEST:
        raise ImportError(
            f"transformers {installed} is too old for radio_llava: it needs "
            f"{OLDEST[0]}.{OLDEST[1]} or newer (pip install -U 'radio-toolkit[llava]')",
            name="transformers",
        )
    if major > NEWEST_MAJOR:
        warnings.warn(
            f"transformers {installed} is newer than what LLaVA was made to work with here "
            f"({NEWEST_MAJOR}.x): if it fails, install 'transformers<{NEWEST_MAJOR + 1}'",
            stacklevel=3,
        )


def require_llava(module: str = "llava") -> ModuleType:
    """Import a module of LLaVA: `llava-torch`, or a clone of its repository on the path.

    Raises:
        ImportError: LLaVA or what it imports is missing, with the commands that install it; or
            transformers is too old.
    """
    transformers = require("transformers", extra="llava")
    check_transformers(transformers.__version__)
    if find_spec("llava") is None:
        raise ImportError(
            "LLaVA is not installed: pip install 'radio-toolkit[llava]' and, without its own "
            f"outdated pins, {LLAVA_INSTALL} (or put a clone of its repository on PYTHONPATH)",
            name="llava",
        )
    return require(module, extra="llava")


def language_models() -> list[type[Any]]:
    """LLaVA's classes of language models, those that the installed LLaVA has.

    `llava.model` hides the errors of these imports; here the one for Llama is raised.
    """
    found = []
    for module, name in _LANGUAGE_MODELS.items():
        try:
            found.append(getattr(require_llava(module), name))
        except (ImportError, AttributeError):
            if name == "LlavaLlamaForCausalLM":
                raise
    return found


def apply() -> None:
    """Mend LLaVA's models. Call it before they are built; again is harmless.

    Raises:
        ImportError: see `require_llava`.
    """
    for model in language_models():
        wrap_once(model, "forward", _with_known_arguments)


def apply_to_training() -> ModuleType:
    """Mend LLaVA's training, and return `llava.train.train`. Again is harmless.

    Raises:
        ImportError: see `require_llava`.
    """
    trainer = require("transformers.trainer", extra="llava")
    if not hasattr(trainer, "ALL_LAYERNORM_LAYERS"):
        layers = require("transformers.pytorch_utils", extra="llava").ALL_LAYERNORM_LAYERS
        vars(trainer)["ALL_LAYERNORM_LAYERS"] = layers
    own_trainer = require_llava("llava.train.llava_trainer")
    train = require_llava("llava.train.train")
    _mend_trainer(own_trainer.LLaVATrainer, trainer.Trainer)
    if find_spec("deepspeed") is None:
        for module in (own_trainer, train):
            wrap_once(module, "maybe_zero_3", _without_deepspeed)
    return train


def modern_flags(argv: Sequence[str], known: type[Any] | None = None) -> list[str]:
    """Training flags under the names that the installed transformers has for them.

    Args:
        argv: flags of LLaVA's scripts, such as `--evaluation_strategy no --warmup_ratio 0.03`.
        known: the dataclass of training arguments; None for transformers' own.

    Returns:
        The flags, renamed where they were renamed. A flag without any effect on LLaVA that is
        gone is dropped with a warning.
    """
    if known is None:
        known = require("transformers", extra="llava").TrainingArguments
    assert known is not None
    fields = {field.name for field in dataclasses.fields(known)}
    result: list[str] = []
    dropping = False
    for argument in argv:
        if not argument.startswith("--"):
            if not dropping:
                result.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        dropping = name in _GONE_FLAGS and name not in fields
        if dropping:
            warnings.warn(f"--{name} no longer exists and is left out", stacklevel=2)
            continue
        new = _RENAMED_FLAGS.get(name)
        if new is not None and name not in fields and new in fields:
            name = new
        result.append(f"--{name}{equals}{value}")
    return result


def wrap_once(
    owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace the function `name` of a module or class by `wrap(function)`, unless that is done.

    The new function has the old one's signature, which transformers and peft look at.
    """
    original = getattr(owner, name)
    done: tuple[str, ...] = getattr(original, "_radio_wrapped", ())
    if wrap.__qualname__ in done:
        return
    replacement = wrap(original)
    if replacement is original:  # nothing to mend
        return
    wrapped = functools.wraps(original)(replacement)
    wrapped._radio_wrapped = (*done, wrap.__qualname__)  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _with_known_arguments(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A `forward` that drops keyword arguments which it does not have."""
    parameters = inspect.signature(forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return forward

    def known_only(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{k: v for k, v in kwargs.items() if k in parameters})

    return known_only


def _mend_trainer(own: Any, base: Any) -> None:
    """Fit LLaVA's trainer to the arguments that transformers' trainer has today."""
    if "tokenizer" not in inspect.signature(base.__init__).parameters:
        wrap_once(own, "__init__", _with_processing_class)
    needs_dataset = "train_dataset" in inspect.signature(base._get_train_sampler).parameters
    if needs_dataset and len(inspect.signature(own._get_train_sampler).parameters) == 1:
        wrap_once(own, "_get_train_sampler", _with_train_dataset)
    if "model" in inspect.signature(base.create_optimizer).parameters:
        wrap_once(own, "create_optimizer", _with_model)
    if "metrics" not in inspect.signature(base._save_checkpoint).parameters:
        wrap_once(own, "_save_checkpoint", _without_metrics(base))


def _with_processing_class(init: Callable[..., None]) -> Callable[..., None]:
    def renamed(self: Any, *args: Any, tokenizer: Any = None, **kwargs: Any) -> None:
        init(self, *args, **({"processing_class": tokenizer} | kwargs))

    return renamed


def _with_train_dataset(sampler: Callable[..., Any]) -> Callable[..., Any]:
    def of_own_dataset(self: Any, train_dataset: Any = None) -> Any:
        return sampler(self)  # LLaVA trains on one data set, which the trainer has

    return of_own_dataset


def _with_model(create: Callable[..., Any]) -> Callable[..., Any]:
    def of_given_model(self: Any, model: Any = None) -> Any:
        own = self.model
        self.model = own if model is None else model  # the sharded one, whose weights are trained
        try:
            return create(self)
        finally:
            self.model = own

    return of_given_model


def _without_metrics(base: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(save: Callable[..., Any]) -> Callable[..., Any]:
        def saved(self: Any, model: Any, trial: Any, *_: Any) -> Any:
            if getattr(self.args, "tune_mm_mlp_adapter", False):
                return save(self, model, trial)
            return base._save_checkpoint(self, model, trial)

        return saved

    return wrap


def _without_deepspeed(gather: Callable[..., Any]) -> Callable[..., Any]:
    def plain(param: Any, ignore_status: bool = False, name: str | None = None) -> Any:
        return param.detach().cpu().clone()

    return plain
