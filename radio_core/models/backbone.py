"""What a student is to everything else: a config that says what it can do, and its network."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from torch import Tensor, nn

from radio_core.registry import Registry, UnknownName
from radio_core.vision import Output, Resolution

C = TypeVar("C", bound="BackboneConfig")
StudentClass: TypeAlias = type["BackboneConfig"]
STUDENTS: Registry[StudentClass] = Registry("radio.students", "student")


class TokenStates(NamedTuple):
    """Token sequences [B, prefix + h*w, C], patches row-major, before any final norm.

    Attributes:
        final: after the last block that ran.
        collected: after each requested block, in the order of the blocks.
        grid: (h, w) in patches.
    """

    final: Tensor
    collected: list[Tensor]
    grid: tuple[int, int]


class BackboneConfig:
    """Base class of the shapes of students, and what each can do.

    A new student is a frozen, keyword-only dataclass that derives from this. It has `patch_size`
    and `embed_dim` as fields or properties, `build`, and a field `type` whose only value is its
    name: that of its entry point in the group "radio.students", or "module:Class". Whatever else
    it can do, it says by overriding what stands here.

    Attributes:
        type: the name of this kind of student in config.json.
        supports_windows: `Backbone.forward` takes a window size (ViTDet mode).
        own_windows: it attends in windows by design; `Backbone.change_window_size` sets their
            size, and `fit_windows` fits them to images.
        builds_on_meta: its network may be made on the meta device and then take over tensors of
            a file: all that it computes with is in its state dict.
        feature_start: index of the first token that counts as a feature, where a released model
            does not cut at its first patch; its features are then no map.
    """

    type: str
    supports_windows = False
    own_windows = False
    builds_on_meta = False
    feature_start: int | None = None

    if TYPE_CHECKING:  # at run time they would be the defaults of fields of these names

        @property
        def patch_size(self) -> int:
            """Pixels of one feature cell."""

        @property
        def embed_dim(self) -> int:
            """Width C of the summary tokens and of the features."""

    @property
    def label(self) -> str:
        """What people call it; networks of one label and width can share weights."""
        return self.type

    @property
    def resolution_step(self) -> int:
        """Image sides are multiples of this many pixels."""
        return self.patch_size

    @property
    def fixed_size(self) -> Resolution | None:
        """The only image size that it takes; None for any multiples of `resolution_step`."""
        return None

    @property
    def max_resolution(self) -> int | None:
        """Longest image side in pixels that it has positions for; None where that is no limit."""
        return None

    @property
    def num_summary_tokens(self) -> int:
        """Number S of summary tokens."""
        return 1

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches of a transformer."""
        return 0

    @property
    def num_blocks(self) -> int:
        """Blocks of a transformer, whose tokens `Backbone.run_blocks` gives; 0 without them."""
        return 0

    def build(self) -> "Backbone":
        """The network, with fresh weights."""
        raise NotImplementedError

    def with_summary_tokens(self: C, count: int) -> C:
        """The same with `count` summary tokens; itself where their number cannot be set."""
        return self

    def fit_windows(self: C, height: int, width: int) -> C:
        """The same with own windows that tile images of this size in pixels."""
        return self

    def with_fields(self: C, **changes: Any) -> C:
        """A copy with other values of those fields that it has; the other changes do not count."""
        assert dataclasses.is_dataclass(self)
        names = {field.name for field in dataclasses.fields(self)}
        known = {name: value for name, value in changes.items() if name in names}
        return dataclasses.replace(self, **known) if known else self

    @classmethod
    def of_type(cls, name: object) -> StudentClass:
        """The class that a file calls `name`, without importing anything for it.

        Raises:
            UnknownName: no student of that name; the known ones are listed.
        """
        found = STUDENTS.known(name) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, cls) and dataclasses.is_dataclass(found):
            return found
        if found is None and re.fullmatch(r"[\w.]+:\w+", str(name)):
            raise UnknownName(
                f"unknown student {name!r}: names in files import nothing; if you trust it, import "
                f"its module first or set RADIO_PLUGINS={str(name).partition(':')[0]}"
            )
        raise UnknownName.of("student", str(name), STUDENTS.entries)


class Backbone(nn.Module):
    """Base class of student networks: `forward`, and what the config says that it can do.

    Attributes:
        embed_dim: width C of the summary tokens and of the features.
        patch_size: pixels of one feature cell.
        num_summary_tokens: number S of summary tokens.
        deployed: `switch_to_deploy` has fused its weights: it can be neither trained nor saved.
    """

    config: BackboneConfig
    deployed = False

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.embed_dim
        self.patch_size = config.patch_size
        self.num_summary_tokens = config.num_summary_tokens

    if TYPE_CHECKING:

        def __call__(self, images: Tensor, window_size: int | None = None) -> Output:
            """As `forward`."""

    def forward(self, images: Tensor, window_size: int | None = None) -> Output:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], already normalised; H and W multiples of `resolution_step`.
            window_size: side in patches of the attention windows; None for global attention.

        Returns:
            Summary tokens [B, S, C] and features [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: wrong sides (names the nearest valid size), or windows not supported.
        """
        raise NotImplementedError

    def run_blocks(
        self,
        images: Tensor,
        window_size: int | None = None,
        *,
        collect: Sequence[int] = (),
        depth: int | None = None,
    ) -> TokenStates:
        """Token sequences after the blocks with the indices `collect` and after the last one.

        Args:
            images: [B, 3, H, W], normalised.
            window_size: as in `forward`.
            collect: block indices from 0.
            depth: run only this many blocks; None for all.

        Raises:
            ValueError: it is no transformer with such blocks.
        """
        raise self._cannot("has no transformer blocks whose tokens could be had")

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The norm behind the last block, [B, prefix + h*w, C] to the same shape."""
        return tokens

    def as_output(self, tokens: Tensor, grid: tuple[int, int]) -> Output:
        """Tokens [B, prefix + h*w, C] after the last block and its norm as what `forward` gives."""
        raise NotImplementedError

    def layer_output(self, tokens: Tensor, grid: tuple[int, int]) -> Output:
        """Tokens [B, prefix + h*w, C] after any block: summary tokens and patches [B, C, h, w]."""
        raise NotImplementedError

    def units(self) -> list[nn.Module]:
        """The parts that are compiled or sharded one by one: blocks, or the network itself."""
        return [self]

    def checkpoint_activations(self) -> None:
        """Keep no activations inside the units for the backward pass; compute them again there.

        Raises:
            ValueError: it cannot.
        """
        raise self._cannot("cannot do activation_checkpointing: raise accumulate instead")

    def change_window_size(self, window_size: int) -> None:
        """Set the side of its own windows, in cells of its maps.

        Raises:
            ValueError: it has no windows of its own, or not of this size.
        """
        raise self._cannot("has no windows of its own")

    def fit_windows(self, height: int, width: int) -> None:
        """Fit its own windows, where it has some, to images of this size in pixels."""

    def switch_to_deploy(self) -> "Backbone":
        """Fuse what only training needs, for good; the outputs stay. Returns self."""
        return self

    def _cannot(self, what: str) -> ValueError:
        return ValueError(f"the student {self.config.label} {what}")


def student_class(name: str) -> StudentClass:
    """The config class that a user names: an entry point, or "module:Class", which is imported.

    Raises:
        UnknownName: there is none; the known ones are listed.
        ValueError: it is no student's config class.
    """
    found = STUDENTS.load(name)
    if not (isinstance(found, type) and issubclass(found, BackboneConfig)):
        raise ValueError(
            f"{name} is no student: it must be a dataclass that derives from "
            "radio_core.models.backbone.BackboneConfig"
        )
    return found


def check_type(config: BackboneConfig) -> None:
    """Raise ValueError unless a file with this `type` would be read with this very class."""
    kind = type(config)
    own = f"{kind.__module__}:{kind.__qualname__}"
    if config.type != own and STUDENTS.known(config.type) is not kind:
        raise ValueError(
            f"the student {kind.__name__} calls itself {config.type!r}, and would not be found by "
            f"that name: give it the field `type: str = {own!r}`"
        )
