"""LLaVA's own code on the transformers that is installed.

`llava-torch` was written for transformers 4.36. What has changed since then is bridged here, and
only here, each time after looking whether it has changed:

- `apply` mends the models: `forward` drops arguments that newer `generate` passes and LLaVA does
  not have; saving resets generation settings that transformers has come to refuse (Vicuna's).
- `apply_to_training` mends the trainer, and the gathering of weights, which imports deepspeed even
  where nothing is sharded. A base model is read as float32 where no dtype is asked for, not as
  what it was stored in (Vicuna's float16, which no optimizer can train).
- `modern_flags` renames the training flags that transformers has renamed, drops those that are
  gone, and passes on the process's rank, which transformers no longer looks up.
"""

import dataclasses
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
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
_RENAMED_FLAGS = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "warmup_ratio": "warmup_steps",
}
_CHOICE_FLAGS = {
    "adafactor": ("optim", "adafactor"),
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
}
"""Switches of older versions that became a value of another flag."""
# fmt: off
_GONE_FLAGS = {
    "dispatch_batches", "fp16_backend", "fp16_opt_level", "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap", "half_precision_backend", "include_inputs_for_metrics",
    "include_tokens_per_second", "jit_mode_eval", "logging_dir", "mp_parameters",
    "overwrite_output_dir", "past_index", "push_to_hub_organization", "ray_scope",
    "save_safetensors", "split_batches", "torchdynamo", "tpu_metrics_debug", "tpu_num_cores",
    "use_ipex", "use_legacy_prediction_loop", "use_mps_device",
}
# fmt: on
"""Flags of transformers 4.46 and before that later ones do without."""
_SAMPLING = {"temperature": 1.0, "top_p": 1.0}
"""Settings of `generate` that count where it samples, and the values that change nothing."""


def check_transformers(installed: str) -> None:
    """Raise ImportError for transformers older than 4.46; warn of one newer than what is known."""
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
    """Import a module of LLaVA: `llava-torch`, or a clone of its repository on the path."""
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
    """The classes of language models that the installed LLaVA has."""
    found = []
    for module, name in _LANGUAGE_MODELS.items():
        try:
            found.append(getattr(require_llava(module), name))
        except (ImportError, AttributeError):
            if name == "LlavaLlamaForCausalLM":
                raise
    return found


def apply() -> None:
    """Mend LLaVA's models. Call it before they are built; again is harmless."""
    for model in language_models():
        wrap_once(model, "forward", _with_known_arguments)
        wrap_once(model, "save_pretrained", _without_unused_sampling)
    base = require_llava("llava.model.llava_arch").LlavaMetaModel
    wrap_once(base, "initialize_vision_modules", _with_fsdp_as_list)


def apply_to_training() -> ModuleType:
    """Mend LLaVA's training, and return `llava.train.train`. Again is harmless."""
    trainer = require("transformers.trainer", extra="llava")
    if not hasattr(trainer, "ALL_LAYERNORM_LAYERS"):
        layers = require("transformers.pytorch_utils", extra="llava").ALL_LAYERNORM_LAYERS
        vars(trainer)["ALL_LAYERNORM_LAYERS"] = layers
    own_trainer = require_llava("llava.train.llava_trainer")
    train = require_llava("llava.train.train")
    _mend_trainer(own_trainer.LLaVATrainer, trainer.Trainer)
    for model in language_models():
        wrap_once(model, "from_pretrained", _as_float32)
    if find_spec("deepspeed") is None:
        for module in (own_trainer, train):
            wrap_once(module, "maybe_zero_3", _without_deepspeed)
    return train


def modern_flags(argv: Sequence[str], known: type[Any] | None = None) -> list[str]:
    """Training flags under the names of `known`, by default transformers' TrainingArguments.

    One that is gone is dropped with a warning. Under a launcher `--local_rank` is among them: by it
    LLaVA knows the process that saves.
    """
    if known is None:
        known = require("transformers", extra="llava").TrainingArguments
    assert known is not None
    fields = {field.name for field in dataclasses.fields(known)}
    result: list[str] = []
    for name, values in split_flags(argv):
        if name is None or name in fields:
            result += values
        elif _RENAMED_FLAGS.get(name) in fields:
            result += [values[0].replace(name, _RENAMED_FLAGS[name], 1), *values[1:]]
        elif name in _CHOICE_FLAGS:
            choice, value = _CHOICE_FLAGS[name]
            wanted = (values[0].partition("=")[2] or "".join(values[1:])).lower()
            result += [] if wanted in ("false", "0", "no") else [f"--{choice}", value]
        elif name in _GONE_FLAGS:
            warnings.warn(f"--{name} no longer exists and is left out", stacklevel=2)
        else:
            result += values
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and not any(name == "local_rank" for name, _ in split_flags(argv)):
        result.append(f"--local_rank={rank}")
    return result


def split_flags(argv: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Each flag's name with its arguments as they are written; None for what precedes them."""
    name, values = None, list[str]()
    for argument in argv:
        if argument.startswith("--"):
            yield name, values
            name, values = argument[2:].partition("=")[0], []
        values.append(argument)
    yield name, values


def drop_unused_sampling(generation: Any) -> None:
    """Reset the settings of a `GenerationConfig` for sampling where it does not sample.

    `generate` ignores them. Vicuna has some all the same, and transformers refuses to save them.
    """
    if generation is None or generation.do_sample:
        return
    for name, neutral in _SAMPLING.items():
        if getattr(generation, name, None) is not None:
            setattr(generation, name, neutral)


def wrap_once(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Let a module or class call `replacement(original, ...)` as its function `name`; once.

    It has the old one's signature, which transformers and peft look at.
    """
    original = getattr(owner, name)
    done: tuple[str, ...] = getattr(original, "_radio_wrapped", ())
    if replacement.__qualname__ in done:
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    wrapped._radio_wrapped = (*done, replacement.__qualname__)  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _with_known_arguments(forward: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    parameters = inspect.signature(forward).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {k: v for k, v in kwargs.items() if k in parameters}
    return forward(self, *args, **kwargs)


def _without_unused_sampling(save: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    drop_unused_sampling(getattr(self, "generation_config", None))
    return save(self, *args, **kwargs)


def _with_fsdp_as_list(initialize: Any, self: Any, model_args: Any, fsdp: Any = None) -> Any:
    """LLaVA asks for the length of `--fsdp`; newer transformers make it True."""
    return initialize(self, model_args, ["full_shard"] if fsdp is True else fsdp or None)


def _as_float32(load: Any, *args: Any, **kwargs: Any) -> Any:
    if "torch_dtype" in kwargs:  # LLaVA's training gives None for float32
        kwargs["torch_dtype"] = kwargs["torch_dtype"] or "float32"
    return load(*args, **kwargs)


def _without_deepspeed(gather: Any, param: Any, *_: Any, **__: Any) -> Any:
    return param.detach().cpu().clone()


def _mend_trainer(own: Any, base: Any) -> None:
    """Fit LLaVA's trainer to the arguments that transformers' trainer has today."""

    def has(method: str, argument: str) -> bool:
        return argument in inspect.signature(getattr(base, method)).parameters

    def with_processing_class(
        init: Any, self: Any, *args: Any, tokenizer: Any = None, **kwargs: Any
    ) -> None:
        init(self, *args, **({"processing_class": tokenizer} | kwargs))

    def with_train_dataset(sampler: Any, self: Any, train_dataset: Any = None) -> Any:
        return sampler(self)  # LLaVA trains on one data set, which the trainer has

    def with_model(create: Any, self: Any, model: Any = None) -> Any:
        before = self.model
        self.model = before if model is None else model  # the sharded one, which is trained
        try:
            return create(self)
        finally:
            self.model = before

    def without_metrics(save: Any, self: Any, model: Any, trial: Any, *_: Any) -> Any:
        if getattr(self.args, "tune_mm_mlp_adapter", False):
            return save(self, model, trial)
        return base._save_checkpoint(self, model, trial)

    if not has("__init__", "tokenizer"):
        wrap_once(own, "__init__", with_processing_class)
    takes_one = len(inspect.signature(own._get_train_sampler).parameters) == 1
    if has("_get_train_sampler", "train_dataset") and takes_one:
        wrap_once(own, "_get_train_sampler", with_train_dataset)
    if has("create_optimizer", "model"):
        wrap_once(own, "create_optimizer", with_model)
    if not has("_save_checkpoint", "metrics"):
        wrap_once(own, "_save_checkpoint", without_metrics)
