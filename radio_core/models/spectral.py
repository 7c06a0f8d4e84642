"""Spectral reparametrisation of linear layers: W_hat = g W / sigma(W), with a learned gain g.

Zhai et al. 2023; keeps attention from collapsing into few tokens in long training. It is folded
into plain weights when a model is saved.
"""

from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

MIN_GAIN = 0.05
QKV_CHUNKS = 3
_START_ITERATIONS = 32


class SpectralWeight(nn.Module):
    """g W / sigma(W) of one matrix, g = softplus(scale) + 0.05, sigma by power iteration.

    The vectors u and v persist; each forward in training mode improves them by one iteration.

    Args:
        weight: [out, in]; at the start W_hat = W (unless sigma(W) is below 0.05).
        eps: added to sigma, and the least norm that is divided by.
    """

    _u: Tensor
    _v: Tensor
    _sn_version: Tensor

    def __init__(self, weight: Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        weight = weight.detach().float()
        self.register_buffer("_u", F.normalize(torch.randn_like(weight[:, 0]), dim=0, eps=eps))
        self.register_buffer("_v", F.normalize(torch.randn_like(weight[0]), dim=0, eps=eps))
        self.register_buffer("_sn_version", torch.tensor(2))
        for _ in range(_START_ITERATIONS):
            self.iterate(weight)
        gain = (self.sigma(weight) - MIN_GAIN).clamp(min=1e-4)
        self.scale = nn.Parameter(torch.log(torch.expm1(gain)).reshape(1, 1))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One power iteration on weight [out, in]."""
        self._u.copy_(F.normalize(torch.mv(weight, self._v), dim=0, eps=self.eps))
        self._v.copy_(F.normalize(torch.mv(weight.t(), self._u), dim=0, eps=self.eps))

    def sigma(self, weight: Tensor) -> Tensor:
        """The largest singular value of weight [out, in], as a scalar."""
        # Copies, so that the next iteration does not overwrite what backward needs.
        u, v = self._u.clone(), self._v.clone()
        return torch.dot(u, torch.mv(weight, v)) + self.eps

    def forward(self, weight: Tensor) -> Tensor:
        """Weight [out, in] to the reparametrised weight, same shape and dtype."""
        full = weight.float()
        if self.training:
            self.iterate(full)
        gain = F.softplus(self.scale) + MIN_GAIN
        return (full * (gain / self.sigma(full))).to(weight.dtype)


class SpectralChunks(nn.Module):
    """`SpectralWeight` on equal groups of rows, each on its own (q, k and v of attention)."""

    def __init__(self, weight: Tensor, chunks: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectralWeight(part, eps) for part in weight.chunk(chunks))

    def forward(self, weight: Tensor) -> Tensor:
        """Weight [out, in] to the reparametrised weight, same shape."""
        rows = weight.chunk(len(self.parts))
        return torch.cat([part(row) for part, row in zip(self.parts, rows, strict=True)])


def apply_spectral(
    module: nn.Module, *, eps: float = 1e-6, exclude: Collection[str] = ("patch_generator",)
) -> None:
    """Reparametrise every linear layer inside `module`, in place; outputs stay as they were.

    Args:
        module: a backbone or an adaptor. `attn.qkv` layers are treated as three matrices.
        eps: see `SpectralWeight`.
        exclude: submodule names below which nothing is reparametrised.
    """
    layers = [
        (path, layer)
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not set(path.split(".")) & set(exclude)
    ]
    for path, layer in layers:
        weight = layer.weight
        spectral: nn.Module
        if path.split(".")[-1] == "qkv":
            spectral = SpectralChunks(weight, QKV_CHUNKS, eps)
        else:
            spectral = SpectralWeight(weight, eps)
        # Registering runs the parametrization; in eval mode that leaves u and v alone.
        training = layer.training
        parametrize.register_parametrization(layer.eval(), "weight", spectral)
        layer.train(training)


@torch.no_grad()
def iterate_spectral(
    module: nn.Module, rounds: int = 1, whole: Callable[[Tensor], Tensor] = lambda weight: weight
) -> None:
    """Improve u and v of every reparametrised layer inside `module`, in place.

    From then on its forward passes leave u and v alone until the next call, whatever their mode:
    the weights are then the same however often and wherever a step runs the model (micro-batches,
    recomputed activations, several processes).

    Args:
        module: any module.
        rounds: power iterations.
        whole: gives the whole of a weight that is sharded over processes.
    """
    for _, _, original, spectral in _spectral_layers(module):
        weight = whole(original).float()
        spectral.eval()
        parts = [part for part in spectral.modules() if isinstance(part, SpectralWeight)]
        for part, rows in zip(parts, weight.chunk(len(parts)), strict=True):
            for _ in range(rounds):
                part.iterate(rows)


@torch.no_grad()
def set_weight(layer: nn.Linear, weight: Tensor) -> None:
    """Give a linear layer this weight [out, in], in place, reparametrised or not.

    A spectral reparametrisation starts anew, so that W_hat = W.
    """
    if not parametrize.is_parametrized(layer, "weight"):
        layer.weight.copy_(weight)
        return
    for _, _, original, spectral in _spectral_layers(layer):
        original.copy_(weight)
        fresh: nn.Module
        if isinstance(spectral, SpectralChunks):
            part = spectral.parts[0]
            assert isinstance(part, SpectralWeight)
            fresh = SpectralChunks(original, len(spectral.parts), part.eps)
        else:
            fresh = SpectralWeight(original, spectral.eps)
        spectral.load_state_dict(fresh.state_dict())


def fold_spectral(module: nn.Module) -> nn.Module:
    """Replace every spectral reparametrisation inside `module` by its plain weight, in place.

    Args:
        module: any module; without reparametrised layers it stays as it is.

    Returns:
        The same module, whose outputs in eval mode are as before.
    """
    for _, layer, _, spectral in list(_spectral_layers(module)):
        spectral.eval()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module


@torch.no_grad()
def folded_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that `module` would have after `fold_spectral`; the module is not changed."""
    state: dict[str, Tensor] = module.state_dict()
    for path, _, original, spectral in _spectral_layers(module):
        prefix = f"{path}." if path else ""
        state = {k: v for k, v in state.items() if not k.startswith(f"{prefix}parametrizations.")}
        training = spectral.training
        state[f"{prefix}weight"] = spectral.eval()(original)
        spectral.train(training)
    return state


def _spectral_layers(
    module: nn.Module,
) -> Iterator[tuple[str, nn.Module, Tensor, SpectralWeight | SpectralChunks]]:
    """Every reparametrised layer: its path, itself, the original weight, the parametrization."""
    for path, layer in module.named_modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        chain = layer.get_submodule("parametrizations.weight")
        assert isinstance(chain, parametrize.ParametrizationList)
        spectral = chain[0]
        if isinstance(spectral, SpectralWeight | SpectralChunks):
            yield path, layer, chain.original, spectral
