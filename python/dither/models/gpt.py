"""A decoder-only language model, the model of every run of this package.

    tokens -> embed -> layers x [ x + attention(norm(x)),  x + mlp(norm(x)) ] -> norm -> head -> logits

Rotary positions (arXiv:2104.09864), RMSNorm (1910.07467) or LayerNorm, SwiGLU (2002.05202) or GELU, optional
RMSNorm on queries and keys (2010.04245), head tied to the embedding or not; GPTConfig lists further options.
No biases in the linears, no dropout. Everything that multiplies is an ordinary module (`nn.Linear`,
`nn.Embedding`, `nn.RMSNorm`, `AttentionProducts`), so that `dither.nn.prepare_` finds it; nothing here knows
about quantization.

Shape suffixes: B sequences, T positions, V vocabulary, D model width, H heads, K width of a head (D = H K),
F hidden width of the MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.errors import UserError
from dither.models.losses import SOFTMAXES
from dither.nn import AttentionProducts


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the model. `mlp_width` 0 picks 4 D for GELU and 8/3 D (up to a multiple of 32) for SwiGLU,
    which have the same number of parameters. Raises UserError when the widths do not fit together.

    norm              "rmsnorm", "layernorm", or "ssnorm": RMSNorm with one gain for all (arXiv:2506.19697)
    norm_affine       False: no gains and biases (also of queries' and keys' norms)
    norm_by_depth     the norms of layer l (from 1) give 1 / sqrt(l) of their output (arXiv:2502.05795)
    embed_projection  a square matrix, orthogonal at first, after the embedding and before the head
                      (arXiv:2506.19697)
    softmax           "softmax" or "stablemax" (dither.models.losses): what makes probabilities of logits
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 256
    mlp: str = "swiglu"
    mlp_width: int = 0
    norm: str = "rmsnorm"
    norm_affine: bool = True
    norm_by_depth: bool = False
    qk_norm: bool = True
    tied: bool = True
    embed_projection: bool = False
    softmax: str = "softmax"
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise UserError(
                f"model.width = {self.width} must be a multiple of twice model.heads = {self.heads} "
                "(every head needs an even width for the rotary positions)"
            )
        if self.mlp not in ("swiglu", "gelu"):
            raise UserError(f"model.mlp must be 'swiglu' or 'gelu', not {self.mlp!r}")
        if self.norm not in ("rmsnorm", "layernorm", "ssnorm"):
            raise UserError(f"model.norm must be 'rmsnorm', 'layernorm' or 'ssnorm', not {self.norm!r}")
        if self.norm == "ssnorm" and not self.norm_affine:
            raise UserError("model.norm = 'ssnorm' is RMSNorm with one gain; without it, it is 'rmsnorm'")
        if self.softmax not in SOFTMAXES:
            raise UserError(f"model.softmax must be one of {', '.join(SOFTMAXES)}, not {self.softmax!r}")
        if self.mlp_width < 0 or self.rope_base <= 1:
            raise UserError("model.mlp_width must not be negative and model.rope_base must exceed 1")

    @property
    def hidden_width(self) -> int:
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.width if self.mlp == "gelu" else 32 * math.ceil(8 * self.width / 3 / 32)


class SingleScaleRMSNorm(nn.Module):
    """x / rms(x) times one learned gain: no channel can become an outlier by its own gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.width,), eps=1e-6) * self.weight


def make_norm(kind: str, width: int, affine: bool = True) -> nn.Module:
    if kind == "ssnorm":
        return SingleScaleRMSNorm(width)
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine)
    return nn.LayerNorm(width, elementwise_affine=affine)


def make_projection(config: GPTConfig) -> nn.Module:
    return nn.Linear(config.width, config.width, bias=False) if config.embed_projection else nn.Identity()


def rotary_table(context: int, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position x frequency, each (T, K/2), formed in fp64."""
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(context, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BTHK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + K/2}) by the position's angles; R = K/2."""
    a, b = x_BTHK.chunk(2, dim=-1)
    cos, sin = cos_TR[:, None, :].to(a.dtype), sin_TR[:, None, :].to(a.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.width // config.heads
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, config.width, bias=False)
        self.v = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        kind, affine = "ssnorm" if config.norm == "ssnorm" else "rmsnorm", config.norm_affine
        self.q_norm = make_norm(kind, self.head_width, affine) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(kind, self.head_width, affine) if config.qk_norm else nn.Identity()
        self.products = AttentionProducts()

    def forward(self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        shape = (*x_BTD.shape[:2], self.heads, self.head_width)
        q_BTHK = rotate(self.q_norm(self.q(x_BTD).view(shape)), cos_TR, sin_TR)
        k_BTHK = rotate(self.k_norm(self.k(x_BTD).view(shape)), cos_TR, sin_TR)
        v_BTHK = self.v(x_BTD).view(shape)
        y_BHTK = self.products(q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2), True)
        return self.out(y_BHTK.transpose(1, 2).reshape(x_BTD.shape))


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class GELU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD)))


class Block(nn.Module):
    """Layer `layer` of the model, from 1."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_scale = layer**-0.5 if config.norm_by_depth else 1.0
        self.attention_norm = make_norm(config.norm, config.width, config.norm_affine)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config.norm, config.width, config.norm_affine)
        self.mlp = (SwiGLU if config.mlp == "swiglu" else GELU)(config.width, config.hidden_width)

    def forward(self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self._scaled(self.attention_norm(x_BTD)), cos_TR, sin_TR)
        return x_BTD + self.mlp(self._scaled(self.mlp_norm(x_BTD)))

    def _scaled(self, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.norm_scale == 1.0 else x_BTD * self.norm_scale


class GPT(nn.Module):
    """The model. `generator` fixes the initial weights; torch's global random state is left as it was.

    Input: int64 tokens (B, T) with T <= config.context. Output: logits (B, T, V)."""

    def __init__(self, config: GPTConfig, vocab: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config, self.vocab = config, vocab
        with torch.random.fork_rng(devices=[]):  # the modules' own initialisation is overwritten below
            self.embed = nn.Embedding(vocab, config.width)
            self.blocks = nn.ModuleList(Block(config, 1 + i) for i in range(config.layers))
            self.norm = make_norm(config.norm, config.width, config.norm_affine)
            self.embed_projection = make_projection(config)
            self.head_projection = make_projection(config)
            self.head = nn.Linear(config.width, vocab, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        cos, sin = rotary_table(config.context, config.width // config.heads, config.rope_base)
        self.register_buffer("cos_TR", cos, persistent=False)
        self.register_buffer("sin_TR", sin, persistent=False)
        self.cos_TR: Tensor
        self.sin_TR: Tensor
        self.init_(generator)

    @torch.no_grad()
    def init_(self, generator: torch.Generator | None = None) -> None:
        """Linears N(0, 1/fan_in), those that write into the residual stream divided by sqrt(2 layers)
        (GPT-2), the embedding and the head N(0, 0.02^2) so that the first loss is close to log V, norms at
        1, projections of embedding and head orthogonal."""
        for name, parameter in self.named_parameters():
            if name in ("embed.weight", "head.weight"):
                parameter.normal_(0.0, 0.02, generator=generator)
            elif name.endswith("_projection.weight"):
                nn.init.orthogonal_(parameter, generator=generator)
            elif parameter.dim() == 2:
                std = parameter.shape[1] ** -0.5
                if name.endswith(("out.weight", "down.weight")):
                    std /= math.sqrt(2 * self.config.layers)
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)

    @property
    def num_params(self) -> int:
        """Number of parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        if T > self.config.context:
            raise ValueError(
                f"{T} positions exceed the model's context of {self.config.context}; shorten the input"
            )
        cos_TR, sin_TR = self.cos_TR[:T], self.sin_TR[:T]
        x_BTD = self.embed_projection(self.embed(tokens_BT))
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TR, sin_TR)
        return self.head(self.head_projection(self.norm(x_BTD)))
