"""TinTeM: Teacher in the Middle, faithful distillation without labels (Mannix et al. 2024)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import SNE_TEMPERATURES, cosine, full_precision, normalize, sne_loss
from kd_lightning.models import Features, Network, Reads


@full_precision
def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - mean cosine of N,... and N,..., each sample flattened to one vector."""
    return 1 - cosine(student.flatten(1), teacher.flatten(1)).mean()


@torch.no_grad()
def orthogonality_error(weight: Tensor) -> Tensor:
    """Return |G - s I| / |G| of a linear map D,E: 0 if it keeps angles: G its Gram matrix, s G's mean diagonal."""
    weight = weight.float()
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    scale = gram.diagonal().mean()
    return (gram - scale * torch.eye(len(gram), device=gram.device)).norm() / gram.norm()


@torch.no_grad()
def cosine_error(mapped: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the cosines of all pairs of N,D and of N,E."""
    mapped, teacher = (normalize(x.float()) @ normalize(x.float()).T for x in (mapped, teacher))
    return (mapped - teacher).abs().mean()


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
        **kwargs: teacher, kd_weight, student, optimizer and lr_scheduler, as for every distiller.

    Raises:
        ConfigError: for tokens where there are none, or on another grid than the teacher's.
    """

    def __init__(
        self,
        *,
        form: Literal["tokens", "pooled"] | None = None,
        temperatures: Sequence[float] = SNE_TEMPERATURES,
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
        self.set_weights(
            local_weight=local_weight, global_weight=global_weight, token_weight=token_weight, map_weight=map_weight
        )
        student_shape, teacher_shape = (_token_shape(network) for network in (self.student, self.teacher))
        reads_token = getattr(self.student.model, "global_pool", "token") == "token"
        self.form = form or ("tokens" if student_shape and teacher_shape and reads_token else "pooled")
        if self.form == "pooled":
            self.set_weights(local_weight=0.0, map_weight=0.0)
        if self.form == "tokens":
            self._check_grids(student_shape, teacher_shape)
            width, teacher_width = student_shape[1], teacher_shape[1]
        else:
            width, teacher_width = self.student.embedding_width, self.teacher.embedding_width
        self.head = nn.Linear(teacher_width, width, bias=layer_norm)
        self.norm: nn.Module = nn.LayerNorm(teacher_width) if layer_norm else nn.Identity()

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if not (self.token_weight or self.map_weight or ce_weight or kd_weight):
            raise ConfigError("token_weight, map_weight: where both are 0, the student learns nothing")
        if not (self.local_weight or self.global_weight):
            raise ConfigError("local_weight, global_weight: where both are 0, the head learns nothing")

    @property
    def reads(self) -> Reads:
        return Reads(tokens=True) if self.form == "tokens" else Reads(embedding=True)

    @property
    def min_batch_size(self) -> int:
        return 1 if self.form == "tokens" else 3  # the divergence of two vectors is 0, and the head would learn nothing

    def _check_grids(self, student: tuple[int, int] | None, teacher: tuple[int, int] | None) -> None:
        for network, shape in ((self.student, student), (self.teacher, teacher)):
            if shape is None:
                raise ConfigError(f"form: {network.name} has no tokens with a first one for the image; choose pooled")
        if student[0] != teacher[0]:
            raise ConfigError(
                f"form: the student {self.student.name} has {student[0] - 1} patches and the teacher "
                f"{self.teacher.name} {teacher[0] - 1}; give them the same grid (size, patch_size), or choose pooled"
            )

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        vectors, teacher_vectors = self._vectors(student, teacher)
        mapped = self.head(self.norm(teacher_vectors))
        target = mapped.detach()
        sne = partial(sne_loss, temperatures=self.temperatures, style=self.style)
        terms = {
            "local": lambda: sne(mapped, teacher_vectors),
            "global": lambda: sne(*self.all_gather(mapped[:, 0], teacher_vectors[:, 0])),
            "token": lambda: cosine_loss(vectors[:, 0], target[:, 0]),
            "map": lambda: cosine_loss(vectors, target),
        }
        self.record("head/not_orthogonal", lambda: orthogonality_error(self.head.weight))
        self.record("head/cosine_error", lambda: cosine_error(target[:, 0], teacher_vectors[:, 0]))
        weights = {name: self.weights[f"{name}_weight"] for name in terms}
        return {name: weight * terms[name]() for name, weight in weights.items() if weight}

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        vectors, teacher_vectors = self._vectors(student, teacher)
        return vectors[:, 0], self.head(self.norm(teacher_vectors[:, 0]))

    def _vectors(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Return N,M,D and N,M,E: the tokens that are compared, or the embedding as the only one."""
        if self.form == "pooled":
            vectors = F.layer_norm(student.embedding, student.embedding.shape[1:])
            return vectors[:, None], teacher.embedding[:, None]
        return _first_and_patches(self.student, student.tokens), _first_and_patches(self.teacher, teacher.tokens)


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
