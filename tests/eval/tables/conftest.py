"""A toy world that is evaluated in seconds."""

from pathlib import Path

import pytest

SMALL = ["--sizes.classification-train", "24", "--sizes.classification-val", "12"]
SMALL += ["--sizes.dense-train", "6", "--sizes.dense-val", "4", "--sizes.sam-val", "2"]
SMALL += ["--sizes.head-iterations", "4", "--llava-sizes.train", "12", "--llava-sizes.val", "3"]
SMALL += ["--training.batch-size", "4", "--training.pretrain-steps", "1"]
SMALL += ["--training.instruct-steps", "2"]
SMALL += ["--throughput.batch-size", "1", "--throughput.repeats", "2"]


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy world's data, shared by the tests; the first run makes it."""
    return tmp_path_factory.mktemp("toy-world")


@pytest.fixture
def small(toy_world: Path) -> list[str]:
    """The flags of a run of seconds in the toy world."""
    return [*SMALL, "--data", str(toy_world)]
