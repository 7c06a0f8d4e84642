"""Train LLaVA with a RADIO vision tower: `python -m radio_llava.train FLAGS`, or under a launcher.

All flags are those of LLaVA's own `train.py`, and besides them:

    --vision_tower radio_b|l|h|g, c-radio_..., e-radio_..., toy, a release, a file or a directory;
        or a teacher: open_clip:..., dinov2:..., sam:..., toy-clip|dino|sam, frozen, with its own
        image size (the flags below are RADIO's alone)
    --radio_resolution PIXELS       long edge of the images (432)
    --radio_aspect native|pad|square
    --radio_layers I ...            blocks whose features are put side by side, -1 for the last
    --radio_adaptor NAME            the features of an adaptor instead
    --radio_normalize none|layer_norm|unit_scale
    --unfreeze_mm_vision_tower True
    --attn_implementation NAME      flash_attention_2 for what LLaVA's train_mem.py does

RADIO is meant for images in their own aspect ratio: leave out `--image_aspect_ratio pad`, which
pads them to squares first. `--mm_vision_select_layer` is CLIP's, and has no effect on RADIO.

Launchers: torchrun ... -m radio_llava.train, accelerate launch ... -m radio_llava.train,
deepspeed --module radio_llava.train --deepspeed FILE.json.
"""

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from radio_llava import compat
from radio_llava.data import CheckedDataset, MixedSizes
from radio_llava.images import RadioImageProcessor
from radio_llava.registration import register
from radio_llava.tower import TRUSTED

_FLAGS: dict[str, tuple[Any, Any, str]] = {
    "radio_resolution": (int | None, None, "Long edge of the images in pixels."),
    "radio_aspect": (str | None, None, "native, pad or square."),
    "radio_layers": (list[int] | None, None, "Blocks put side by side; -1 for the last."),
    "radio_adaptor": (str | None, None, "Name of the adaptor whose features are taken."),
    "radio_normalize": (str | None, None, "Scale of the features: none, layer_norm or unit_scale."),
    "unfreeze_mm_vision_tower": (bool, False, "Train the vision tower too."),
}
_FLASH = "flash_attention_2"
_ASPECTS = ("square", "pad")
"""Values of `--image_aspect_ratio`; "square", the default, leaves the shape to the tower."""


def main(argv: Sequence[str]) -> int:
    """Train as the flags say; returns the exit code."""
    register()
    train = compat.apply_to_training()
    compat.wrap_once(train, "make_supervised_data_module", checked)
    known = {field.name for field in dataclasses.fields(train.ModelArguments)}
    fields = [
        (name, kind, dataclasses.field(default=default, metadata={"help": text}))
        for name, (kind, default, text) in _FLAGS.items()
        if name not in known
    ]
    if fields:
        bases = (train.ModelArguments,)
        vars(train)["ModelArguments"] = dataclasses.make_dataclass(
            "ModelArguments", fields, bases=bases
        )
    for flag, words in compat.split_flags(argv):
        if flag == "vision_tower":
            TRUSTED.add(words[0].partition("=")[2] or "".join(words[1:]))
    options, flags = _attention(train, argv)
    sys.argv = [sys.argv[0], *compat.modern_flags(flags, train.TrainingArguments)]
    train.train(**options)
    return 0


def checked(make: Any, tokenizer: Any, data_args: Any) -> dict[str, Any]:
    """`make_supervised_data_module` whose data is checked, where the tower is one of ours."""
    if not isinstance(getattr(data_args, "image_processor", None), RadioImageProcessor):
        return dict(make(tokenizer=tokenizer, data_args=data_args))
    if data_args.image_aspect_ratio not in _ASPECTS:
        raise ValueError(
            f"--image_aspect_ratio {data_args.image_aspect_ratio}: known are "
            f"{', '.join(_ASPECTS)}; RADIO takes images of any size as they are"
        )
    try:
        module: dict[str, Any] = make(tokenizer=tokenizer, data_args=data_args)
    except (OSError, ValueError) as error:
        raise ValueError(f"--data_path {data_args.data_path}: {error}") from error
    module["train_dataset"] = CheckedDataset(module["train_dataset"])
    module["data_collator"] = MixedSizes(module["data_collator"])
    return module


def _attention(train: ModuleType, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Arguments for LLaVA's `train` by `--attn_implementation`, and the other flags."""
    rest: list[str] = []
    wanted = None
    arguments = iter(argv)
    for argument in arguments:
        name, equals, given = argument.partition("=")
        if name != "--attn_implementation":
            rest.append(argument)
            continue
        wanted = given if equals else next(arguments, None)
        if wanted is None:
            raise ValueError("--attn_implementation needs a value, such as sdpa")
    if wanted is None:
        return {}, rest
    if wanted == _FLASH and find_spec("flash_attn") is None:
        warnings.warn("flash_attn is not installed: training without it", stacklevel=3)
        return {}, rest
    if "attn_implementation" in inspect.signature(train.train).parameters:
        return {"attn_implementation": wanted}, rest
    if wanted != _FLASH:
        raise ValueError(f"--attn_implementation: this version of LLaVA knows {_FLASH} alone")
    patch = compat.require_llava("llava.train.llama_flash_attn_monkey_patch")
    patch.replace_llama_attn_with_flash_attn()
    return {}, rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
