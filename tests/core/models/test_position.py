import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.position import PatchGenerator, Positions
from radio_core.models.vit import ViTConfig

GRID = 16


def generator(
    *, positions: Positions = "cpe", align_corners: bool = False, dropout: float = 0.0
) -> PatchGenerator:
    torch.manual_seed(0)
    config = ViTConfig(
        patch_size=8,
        embed_dim=2,
        depth=1,
        num_heads=1,
        grid_size=GRID,
        positions=positions,
        pos_align_corners=align_corners,
        pos_dropout=dropout,
    )
    module = PatchGenerator(config)
    module.embedder = nn.Identity()
    # The position of a cell is its own coordinate in [0, 1]: (x, y).
    line = torch.linspace(0, 1, GRID)
    field = torch.stack([line.expand(GRID, -1), line[:, None].expand(-1, GRID)], dim=-1)
    module.pos_embed.data.copy_(field.reshape(1, -1, 2))
    return module


def field_of(module: PatchGenerator, batch: int, rows: int, cols: int) -> Tensor:
    """[B, rows, cols, (x, y)], or 1 in place of B."""
    return module.positions(batch, rows, cols).detach().unflatten(1, (rows, cols))


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 7), (24, 5)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_evaluation_resizes_to_the_longer_side_and_cuts(
    rows: int, cols: int, align_corners: bool
) -> None:
    module = generator(align_corners=align_corners).eval()
    side = max(rows, cols)
    grid = module.pos_embed.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
    whole = F.interpolate(grid, (side, side), mode="bilinear", align_corners=align_corners)
    wanted = whole[..., :rows, :cols].permute(0, 2, 3, 1)
    torch.testing.assert_close(field_of(module, 1, rows, cols), wanted.detach())


def test_without_cpe_a_smaller_image_takes_the_corner_and_a_larger_one_stretches() -> None:
    for module in (generator(positions="grid").eval(), generator(positions="grid").train()):
        corner = field_of(module, 2, 4, 6)
        own = module.pos_embed.detach().unflatten(1, (GRID, GRID))
        torch.testing.assert_close(corner, own[:, :4, :6])
        stretched = field_of(module, 2, 32, 32)
        assert stretched[0, 0, -1, 0] == 1
        assert stretched[0, -1, 0, 0] == 0


def test_the_grid_at_its_own_size_is_used_unchanged() -> None:
    for module in (generator().eval(), generator().train(), generator(positions="grid").eval()):
        torch.testing.assert_close(module.positions(2, GRID, GRID), module.pos_embed)


def test_training_crops_are_axis_aligned_windows_inside_the_grid() -> None:
    samples = 4000
    field = field_of(generator().train(), samples, 5, 7)
    x, y = field[:, 0, :, 0], field[:, :, 0, 1]
    torch.testing.assert_close(field[..., 0], x[:, None, :].expand(-1, 5, -1))
    torch.testing.assert_close(field[..., 1], y[:, :, None].expand(-1, -1, 7))
    torch.testing.assert_close(x.diff(dim=1).std(dim=1), torch.zeros(samples), rtol=0, atol=1e-5)
    width, height = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]
    assert field.min() >= 0
    assert field.max() <= 1 + 1e-5
    # scale * aspect and scale / aspect: both factors come back from an unclamped window.
    free = (width < 0.999) & (height < 0.999)
    scale, aspect = (width * height).sqrt()[free], (width / height).sqrt()[free]
    assert scale.min() > math.sqrt(0.1) - 1e-3
    assert 0.75 - 1e-3 < aspect.min() < 0.77
    assert 1.30 < aspect.max() < 4 / 3 + 1e-3
    assert (width > 0.999).float().mean() > 0.05
    # The offset is uniform in what the window leaves free.
    place = (x[:, 0] / (1 - width))[width < 0.9]
    assert place.mean().item() == pytest.approx(0.5, abs=0.03)


def test_one_row_of_patches_samples_the_offset_itself() -> None:
    field = field_of(generator().train(), 500, 1, 6)
    assert field[..., 1].std() > 0.05


def test_dropout_takes_all_positions_of_a_sample_or_none() -> None:
    module = generator(dropout=0.3).train()
    gone = (module.positions(2000, 4, 4) == 0).flatten(1)
    assert torch.equal(gone.all(dim=1), gone[:, 10])
    assert gone[:, 10].float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert not (module.eval().positions(50, 4, 4) == 0).flatten(1).all(dim=1).any()


def test_prefix_tokens_come_first_and_get_no_position() -> None:
    module = generator().eval()
    module.embedder = nn.Flatten(2)  # [B, 2, 4, 4] "images" of one "pixel" a patch
    module.patch_size = 1
    module.embedder = nn.Sequential(nn.Flatten(2), _Transpose())
    tokens = module(torch.zeros(3, 2, 4, 4))
    assert module.cls_token is not None
    torch.testing.assert_close(tokens[:, :1], module.cls_token.token.expand(3, 1, 2))
    torch.testing.assert_close(tokens[:1, 1:], module.positions(1, 4, 4))


def test_gradients_of_a_random_crop_reach_the_grid() -> None:
    module = generator().train()
    module.positions(64, 4, 4).sum().backward()
    assert module.pos_embed.grad is not None
    assert (module.pos_embed.grad != 0).float().mean() > 0.5


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
