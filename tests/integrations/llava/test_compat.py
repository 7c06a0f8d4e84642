import inspect
import warnings
from dataclasses import fields, make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from radio_llava import compat


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)


OLD = make_dataclass("Old", ["evaluation_strategy", "warmup_ratio", "overwrite_output_dir"])
NEW = make_dataclass("New", ["eval_strategy", "warmup_steps"])


def test_versions_of_transformers_that_are_too_old_or_too_new_are_told_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in ("4.46.0", "4.57.1", "5.23.0", "5.0.0.dev0"):
            compat.check_transformers(known)
    for old in ("4.45.2", "4.36.0", "3.5.1"):
        with pytest.raises(ImportError, match=rf"transformers {old} is too old.*4\.46"):
            compat.check_transformers(old)
    with pytest.warns(UserWarning, match=r"transformers 6\.0\.1 is newer.*transformers<6"):
        compat.check_transformers("6.0.1")


def test_renamed_flags_get_their_new_names() -> None:
    argv = ["--evaluation_strategy", "no", "--warmup_ratio=0.03", "--bf16", "True"]
    modern = ["--eval_strategy", "no", "--warmup_steps=0.03", "--bf16", "True"]
    assert compat.modern_flags(argv, NEW) == modern
    assert compat.modern_flags(argv, OLD) == argv
    assert compat.modern_flags(modern, NEW) == modern


# What transformers 4.46 has and later versions have dropped or renamed.
OLD_FLAGS = """adafactor dispatch_batches evaluation_strategy fp16_backend fp16_opt_level
fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap group_by_length half_precision_backend
include_inputs_for_metrics include_tokens_per_second jit_mode_eval logging_dir mp_parameters no_cuda
overwrite_output_dir past_index per_gpu_eval_batch_size per_gpu_train_batch_size
push_to_hub_model_id push_to_hub_organization push_to_hub_token ray_scope save_safetensors
split_batches torchdynamo tpu_metrics_debug tpu_num_cores use_ipex use_legacy_prediction_loop
use_mps_device warmup_ratio"""


@pytest.mark.filterwarnings("ignore:.*no longer exists")
@pytest.mark.parametrize("name", OLD_FLAGS.split())
def test_every_flag_of_older_versions_is_still_taken(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    known = {field.name for field in fields(transformers.TrainingArguments)}
    modern = compat.modern_flags([f"--{name}", "1", "--seed", "2"])
    assert modern[-2:] == ["--seed", "2"]
    assert {flag[2:] for flag in modern if flag.startswith("--")} <= known


def test_switches_that_became_choices_keep_their_meaning() -> None:
    new = make_dataclass("New", ["train_sampling_strategy", "optim", "use_cpu"])
    argv = ["--group_by_length", "True", "--adafactor=False", "--no_cuda"]
    modern = ["--train_sampling_strategy", "group_by_length", "--use_cpu"]
    assert compat.modern_flags(argv, new) == modern


def test_the_rank_of_a_process_reaches_llava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert compat.modern_flags(["--bf16", "True"], NEW) == ["--bf16", "True", "--local_rank=3"]
    given = ["--local_rank=1", "--bf16", "True"]  # as deepspeed's launcher does
    assert compat.modern_flags(given, NEW) == given


def test_sampling_settings_without_sampling_are_reset_and_others_kept() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    vicuna = transformers.GenerationConfig(temperature=0.9, top_p=0.6, max_length=4096)
    compat.drop_unused_sampling(vicuna)
    vicuna.validate(strict=True)
    assert (vicuna.temperature, vicuna.top_p, vicuna.max_length) == (1.0, 1.0, 4096)
    sampling = transformers.GenerationConfig(temperature=0.9, do_sample=True)
    compat.drop_unused_sampling(sampling)
    assert sampling.temperature == 0.9


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [(True, ["full_shard"]), (["full_shard"], ["full_shard"]), ([], None), (None, None)],
)
def test_llava_gets_fsdp_as_a_list(given: Any, handed_on: Any) -> None:
    class Meta:
        def initialize_vision_modules(self, model_args: Any, fsdp: Any = None) -> Any:
            return fsdp

    compat.wrap_once(Meta, "initialize_vision_modules", compat._with_fsdp_as_list)
    assert Meta().initialize_vision_modules(None, fsdp=given) == handed_on


def test_a_flag_that_is_gone_is_dropped_with_its_value() -> None:
    argv = ["--overwrite_output_dir", "True", "--bf16", "True"]
    with pytest.warns(UserWarning, match="--overwrite_output_dir no longer exists"):
        assert compat.modern_flags(argv, NEW) == ["--bf16", "True"]
    assert compat.modern_flags(argv, OLD) == argv


class Model:
    def forward(self, ids: Any, mask: Any = None) -> Any:
        return ids, mask


def test_a_forward_gets_the_arguments_that_it_has_and_keeps_its_signature() -> None:
    owner = type("Owner", (Model,), {})
    before = inspect.signature(owner.forward)
    compat.wrap_once(owner, "forward", compat._with_known_arguments)
    once = owner.forward
    assert owner().forward(1, mask=2, cache_position=3) == (1, 2)
    assert inspect.signature(owner.forward) == before
    compat.wrap_once(owner, "forward", compat._with_known_arguments)
    assert owner.forward is once


def test_a_forward_that_takes_everything_gets_it() -> None:
    owner: Any = type("Open", (), {"forward": lambda self, **kwargs: kwargs})
    compat.wrap_once(owner, "forward", compat._with_known_arguments)
    assert owner().forward(mask=2, cache_position=3) == {"mask": 2, "cache_position": 3}


class OldBase:
    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def _get_train_sampler(self) -> Any:
        return "sampler"

    def create_optimizer(self) -> Any:
        return "optimizer"

    def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> Any:
        return "saved"


class NewBase:
    def __init__(self, model: Any = None, processing_class: Any = None) -> None:
        self.model, self.processing_class = model, processing_class
        self.args = SimpleNamespace()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return "sampler"

    def create_optimizer(self, model: Any = None) -> Any:
        return "optimizer"

    def _save_checkpoint(self, model: Any, trial: Any) -> Any:
        return "saved"


def own_trainer(base: type) -> Any:
    """A trainer that is written as LLaVA's is."""

    class Trainer(base):  # type: ignore[misc]
        def _get_train_sampler(self) -> Any:
            return super()._get_train_sampler()

        def create_optimizer(self) -> Any:
            return self.model

        def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> Any:
            if getattr(self.args, "tune_mm_mlp_adapter", False):
                return "projector"
            return super()._save_checkpoint(model, trial, metrics)

    return Trainer


def test_the_trainer_is_fitted_to_a_newer_base() -> None:
    own = own_trainer(NewBase)
    for _ in range(2):
        compat._mend_trainer(own, NewBase)
        trainer = own(model="model", tokenizer="words")
        assert trainer.processing_class == "words"
        assert trainer._get_train_sampler(object()) == "sampler"
        assert trainer.create_optimizer("sharded") == "sharded"
        assert (trainer.create_optimizer(), trainer.model) == ("model", "model")
        assert trainer._save_checkpoint("model", None) == "saved"
        trainer.args.tune_mm_mlp_adapter = True
        assert trainer._save_checkpoint("model", None) == "projector"


def test_the_trainer_is_left_alone_where_nothing_has_changed() -> None:
    own = own_trainer(OldBase)
    before = dict(vars(own))
    compat._mend_trainer(own, OldBase)
    assert dict(vars(own)) == before


def test_a_missing_llava_is_named_with_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'llava'")
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"radio-toolkit\[llava\].*llava-torch==1\.2\.2\.post1"):
        compat.require_llava()


def test_training_is_mended_once() -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    train = compat.apply_to_training()
    trainer, gather = dict(vars(train.LLaVATrainer)), train.maybe_zero_3
    assert compat.apply_to_training() is train
    assert (dict(vars(train.LLaVATrainer)), train.maybe_zero_3) == (trainer, gather)
