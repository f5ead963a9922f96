"""TinTeM: Teacher in the Middle, faithful distillation without labels (Mannix et al. 2024)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import chunked_sum, cosine, full_precision, normalize
from kd_lightning.models import Features, Network

TEMPERATURES = tuple(number / 100 for number in range(1, 11))
_SELF = 1e8  # taken off a vector's similarity to itself: finite, since -inf gives 0 x inf in the divergence


@full_precision
def sne_loss(
    mapped: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    style: Literal["joint", "half"] = "joint",
) -> Tensor:
    """KL(P of the teacher's vectors || P of the mapped ones), mean over temperatures and over sets.

    P is the von Mises-Fisher SNE distribution over pairs: softmax_j(cos_ij / temperature), j not i, made symmetric and
    divided by 2 M. `half` leaves it a distribution for each vector and takes the mean over vectors. One or two vectors
    have nothing to tell: 0. The authors' released code (see the docstring of TinTeM).

    Args:
        mapped: M,D or B,M,D: one set of M vectors, or B of them.
        teacher: M,E or B,M,E.
        temperatures: above 0.
        style: `joint` is the paper's.
    """
    if mapped.ndim == 2:
        mapped, teacher = mapped[None], teacher[None]
    floats_each = mapped.shape[1] ** 2 * len(temperatures)
    settings = (tuple(temperatures), style)
    return chunked_sum(_divergences, mapped, teacher, floats_each=floats_each, whole=settings) / len(mapped)


def _divergences(mapped: Tensor, teacher: Tensor, temperatures: Sequence[float], style: str) -> Tensor:
    ours, theirs = _similarities(mapped), _similarities(teacher)
    return torch.stack([_divergence(ours / t, theirs / t, style) for t in temperatures]).mean()


def _similarities(vectors: Tensor) -> Tensor:
    vectors = normalize(vectors)
    own = torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device) * _SELF
    return vectors @ vectors.transpose(1, 2) - own


def _divergence(ours: Tensor, theirs: Tensor, style: str) -> Tensor:
    """The sum over sets, of similarities B,M,M."""
    log_q, log_p = (x.log_softmax(dim=2) for x in (ours, theirs))
    size = ours.shape[1]
    if style == "half":
        return (log_p.exp() * (log_p - log_q)).sum() / size
    log_q, log_p = (torch.logaddexp(x, x.transpose(1, 2)) - math.log(2 * size) for x in (log_q, log_p))
    return (log_p.exp() * (log_p - log_q)).sum()


@full_precision
def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - mean cosine of N,... and N,..., each sample flattened to one vector."""
    return 1 - cosine(student.flatten(1), teacher.flatten(1)).mean()


class TinTeM(Distiller):
    """Teacher in the Middle (Mannix et al. 2024, arXiv 2411.15239v1, "Faithful Label-free Knowledge Distillation").

    A head on the teacher's side maps its vectors to the student's width and learns to keep the angles between them
    (SNE); the student learns to point where the mapped teacher does. The two share no gradient: the head learns from
    SNE alone, the student from cosines alone, by one optimizer. Terms: `local`, over each image's tokens; `global`,
    over the batch's first tokens; `token`, the student's first token; `map`, all its tokens as one vector. Where one of
    the networks has no tokens, [inferred], `global` and `token` are of the embeddings and there are no others; the
    student's is then compared after a LayerNorm without parameters (ViTs end in one), since pooled ReLUs are nowhere
    negative and could not point where the map does. The equations are those of the authors' released code, for the
    paper's text could not be had.

    Args:
        form: `tokens` or `pooled`; default: tokens where both networks have them, with one for the image that the
            student's classifier reads, else pooled.
        temperatures: the temperatures that SNE is averaged over.
        style: how SNE's distributions are made; `joint` is the paper's.
        layer_norm: whether the head's linear map, with a bias, follows a LayerNorm (the paper), or is linear alone.
        local_weight: weight of SNE within images.
        global_weight: weight of SNE over the batch.
        token_weight: weight of the first token's, or the embedding's, cosine.
        map_weight: weight of the cosine of all tokens.
        ce_weight: weight of the cross-entropy with the labels; the paper has none.
        **kwargs: teacher, check_teacher, student, optimizer and lr_scheduler, as for every distiller.

    Raises:
        ConfigError: for tokens where there are none, or on another grid than the teacher's.
    """

    reads = frozenset({"tokens", "embedding"})

    def __init__(
        self,
        *,
        form: Literal["tokens", "pooled"] | None = None,
        temperatures: Sequence[float] = TEMPERATURES,
        style: Literal["joint", "half"] = "joint",
        layer_norm: bool = True,
        local_weight: float = 1.0,
        global_weight: float = 1.0,
        token_weight: float = 1.0,
        map_weight: float = 1.0,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        if not temperatures:
            raise ConfigError("temperatures: it is to hold one at least")
        for temperature in temperatures:
            check_positive(temperatures=temperature)
        self.temperatures, self.style = tuple(temperatures), style
        self.weights = {"local": local_weight, "global": global_weight, "token": token_weight, "map": map_weight}
        self.check_weights(**{f"{name}_weight": weight for name, weight in self.weights.items()})
        ours, theirs = (_token_shape(network) for network in (self.student, self.teacher))
        reads_token = getattr(self.student.model, "global_pool", "token") == "token"
        self.form = form or ("tokens" if ours and theirs and reads_token else "pooled")
        if self.form == "pooled":
            self.weights |= {"local": 0.0, "map": 0.0}
            self.least_batch = 3  # two have nothing to tell, and the head would stay as drawn
        if not (token_weight or self.weights["map"] or self.needs_labels):
            raise ConfigError("token_weight, map_weight: where both are 0, the student learns nothing")
        self.also_seen = {"tokens": self.form == "tokens"}
        if self.form == "tokens":
            self._check_grids(ours, theirs)
            narrow, wide = ours[1], theirs[1]
        else:
            narrow, wide = self.student.embedding_width, self.teacher.embedding_width
        self.head = nn.Linear(wide, narrow, bias=layer_norm)
        self.norm: nn.Module = nn.LayerNorm(wide) if layer_norm else nn.Identity()

    def _check_grids(self, ours: tuple[int, int] | None, theirs: tuple[int, int] | None) -> None:
        for network, shape in ((self.student, ours), (self.teacher, theirs)):
            if shape is None:
                raise ConfigError(f"form: {network.name} has no tokens with a first one for the image; choose pooled")
        if ours[0] != theirs[0]:
            raise ConfigError(
                f"form: the student {self.student.name} has {ours[0] - 1} patches and the teacher {self.teacher.name} "
                f"{theirs[0] - 1}; give them the same grid (size, patch_size), or choose pooled"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        wanted = {"embedding": self.form == "pooled", **self.also_seen}
        student = self.student.features(batch.images, **wanted, logits=self.needs_labels)
        ours, theirs = self._vectors(student, self.teach(batch.images, **wanted))
        mapped = self.head(self.norm(theirs))
        target = mapped.detach()
        sne = partial(sne_loss, temperatures=self.temperatures, style=self.style)
        found = {
            "local": lambda: sne(mapped, theirs),
            "global": lambda: sne(*self.gathered(mapped[:, 0], theirs[:, 0])),
            "token": lambda: cosine_loss(ours[:, 0], target[:, 0]),
            "map": lambda: cosine_loss(ours, target),
        }
        self._diagnose(target[:, 0], theirs[:, 0])
        weighted = {name: weight * found[name]() for name, weight in self.weights.items() if weight}
        return {**self.label_loss(student.logits, batch), **weighted}

    def aligned(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        ours, theirs = self._vectors(student, teacher)
        return ours[:, 0], self.head(self.norm(theirs[:, 0]))

    def _vectors(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """N,M,D and N,M,E: the tokens that are compared, or the embedding as the only one."""
        if self.form == "pooled":
            ours = F.layer_norm(student.embedding, student.embedding.shape[1:])
            return ours[:, None], teacher.embedding[:, None]
        return _first_and_patches(self.student, student.tokens), _first_and_patches(self.teacher, teacher.tokens)

    @torch.no_grad()
    def _diagnose(self, mapped: Tensor, teacher: Tensor) -> None:
        """Logs how far the map is from keeping angles: of its weights, and of the batch's pairs."""
        weight = self.head.weight.float()
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        scale = gram.diagonal().mean()
        away = (gram - scale * torch.eye(len(gram), device=gram.device)).norm() / gram.norm()
        ours, theirs = (normalize(x.float()) @ normalize(x.float()).T for x in (mapped, teacher))
        self.log_dict({"head/not_orthogonal": away, "head/cosine_error": (ours - theirs).abs().mean()})


def _first_and_patches(network: Network, tokens: Tensor) -> Tensor:
    """N,1+M,D: the token of the image, then the patches', without registers."""
    prefix = getattr(network.model, "num_prefix_tokens", 0)
    return torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1)


@torch.no_grad()
def _token_shape(network: Network) -> tuple[int, int] | None:
    """How many tokens there are, without registers, and their width; None without a token of the whole image."""
    if getattr(network.model, "cls_token", None) is None:  # registers alone are of no image
        return None
    was_training = network.training
    network.eval()
    side = network.size or 32
    tokens = network.features(torch.zeros(1, 3, side, side, dtype=torch.uint8), tokens=True).tokens
    network.train(was_training)
    return None if tokens is None else tuple(_first_and_patches(network, tokens).shape[1:])
