import inspect
import warnings
from dataclasses import make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from radio_llava import compat

OLD = make_dataclass("Old", ["evaluation_strategy", "warmup_ratio", "overwrite_output_dir"])
NEW = make_dataclass("New", ["eval_strategy", "warmup_steps"])


@pytest.mark.parametrize("version", ["4.46.0", "4.57.1", "5.23.0", "5.0.0.dev0"])
def test_known_versions_of_transformers_pass_silently(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.check_transformers(version)


@pytest.mark.parametrize("version", ["4.45.2", "4.36.0", "3.5.1"])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(ImportError, match=rf"transformers {version} is too old.*4\.46"):
        compat.check_transformers(version)


def test_newer_major_versions_are_reported() -> None:
    with pytest.warns(UserWarning, match=r"transformers 6\.0\.1 is newer.*transformers<6"):
        compat.check_transformers("6.0.1")


def test_renamed_flags_get_their_new_names() -> None:
    argv = ["--evaluation_strategy", "no", "--warmup_ratio=0.03", "--bf16", "True"]
    modern = ["--eval_strategy", "no", "--warmup_steps=0.03", "--bf16", "True"]
    assert compat.modern_flags(argv, NEW) == modern
    assert compat.modern_flags(argv, OLD) == argv
    assert compat.modern_flags(modern, NEW) == modern


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


def test_a_forward_that_takes_everything_is_left_alone() -> None:
    class Open:
        def forward(self, **kwargs: Any) -> Any:
            return kwargs

    original = Open.forward
    compat.wrap_once(Open, "forward", compat._with_known_arguments)
    assert Open.forward is original


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
