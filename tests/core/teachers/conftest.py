"""Every kind of teacher against its own library: tiny, random, saved in the library's format.

A maker writes files into a folder and gives (source, expected, size, other): the source as
`load_teacher` takes it; normalised images -> summary or None, and features, as the library itself
computes them; pixels of its input; another (height, width) that it takes, or None.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from radio_core.teachers import load_teacher


class Kind:
    """A saved model and the teacher that was loaded from it."""

    def __init__(self, make: Callable[[Path], Any], folder: Path) -> None:
        torch.manual_seed(0)
        self.source, self.expected, self.size, self.other = make(folder)
        self.teacher = load_teacher(self.source)

    def check_own_size(self) -> None:
        """At its own size it says what the library says, whatever the size of the images."""
        teacher, own = self.teacher, (self.size, self.size)
        assert teacher.spec.name == self.source
        assert teacher.spec.input_size == self.size
        self.check_outputs(own)
        images = torch.rand(1, 3, *own)
        assert torch.equal(teacher(images).features, teacher(images, own).features)
        assert teacher(torch.rand(1, 3, 50, 70)).features.shape[-2:] == teacher.spec.grid()

    def check_other_sizes(self) -> None:
        """It says what the library says at another size, or refuses it."""
        spec = self.teacher.spec
        assert spec.flexible is (self.other is not None)
        if self.other is None:
            with pytest.raises(ValueError, match=f"{self.size} x {self.size} pixels only, not 16"):
                self.teacher(torch.rand(1, 3, 16, 16), (16, 16))
            return
        self.check_outputs(self.other)
        with pytest.raises(ValueError, match=rf"multiples of {spec.step} pixels, not 33 x"):
            self.teacher(torch.rand(1, 3, 16, 16), (33, 16))

    def check_frozen(self) -> None:
        """Nothing of it trains, in float32."""
        nn.ModuleList([self.teacher]).train()
        assert not any(module.training for module in self.teacher.modules())
        assert not any(parameter.requires_grad for parameter in self.teacher.parameters())
        assert {parameter.dtype for parameter in self.teacher.parameters()} == {torch.float32}

    def check_outputs(self, size: tuple[int, int]) -> None:
        """Shapes, types and values of the outputs for images of a size."""
        spec, images = self.teacher.spec, torch.rand(2, 3, *size)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
        with torch.no_grad():
            summary, features = self.expected((images - mean) / std)
        output = self.teacher(images, size)
        torch.testing.assert_close(output.features, features, rtol=1e-4, atol=1e-5)
        assert output.features.shape == (2, spec.feature_dim, *spec.grid(size))
        assert output.features.dtype == torch.float32
        assert not output.features.requires_grad
        assert float(output.features.std()) > 0
        assert (output.summary is None) == (spec.summary_dim is None) == (summary is None)
        if output.summary is not None:
            torch.testing.assert_close(output.summary, summary, rtol=1e-4, atol=1e-5)
            assert output.summary.shape == (2, spec.summary_dim)
            assert output.summary.dtype == torch.float32


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Kind]:
    """Gives the `Kind` of a maker, which is made once."""
    known: dict[Any, Kind] = {}

    def get(make: Callable[[Path], Any]) -> Kind:
        if make not in known:
            known[make] = Kind(make, tmp_path_factory.mktemp("model"))
        return known[make]

    return get
