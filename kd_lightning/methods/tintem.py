"""TinTeM: Teacher in the Middle, faithful distillation without labels (Mannix et al. 2024)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError, check_temperature
from kd_lightning.functional import SNE_TEMPERATURES, cosine, full_precision, normalize, sne_loss
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.modes import eval_mode


@full_precision
def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 minus the mean over N samples of the cosine between student and teacher.

    Each sample is flattened to one vector.

    Args:
        student: Vectors of the student, N,...
        teacher: Vectors of the teacher, mapped to the student's width, with the same shape.
    """
    return 1 - cosine(student.flatten(1), teacher.flatten(1)).mean()


@torch.no_grad()
def orthogonality_error(weight: Tensor) -> Tensor:
    """Return |G - s I| / |G| for the weight D,E of a linear map. The value is 0 if the map preserves angles.

    G is the smaller of the two Gram matrices of the weight (D,D or E,E), and s is the mean of the diagonal of G.
    """
    weight = weight.float()
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    scale = gram.diagonal().mean()
    return (gram - scale * torch.eye(len(gram), device=gram.device)).norm() / gram.norm()


@torch.no_grad()
def cosine_error(mapped: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference between the N,N cosines before and after the map."""
    mapped, teacher = (normalize(x.float()) @ normalize(x.float()).T for x in (mapped, teacher))
    return (mapped - teacher).abs().mean()


class TinTeM(Distiller):
    """Teacher in the Middle (Mannix et al. 2024, arXiv 2411.15239v1, "Faithful Label-free Knowledge Distillation").

    A head maps the teacher's vectors to the student's width. By stochastic neighbour embedding (SNE), the head learns
    to preserve the angles between the teacher's vectors. The student's vectors learn to point in the direction of the
    mapped vectors. The head gets gradients only from SNE, and the student only from the cosines. One optimizer trains
    both.

    There are four terms. `local` is SNE over the tokens of each image. `global` is SNE over the class tokens of the
    batch. `token` uses the cosine between the student's class token and the mapped class token of the teacher. `map`
    flattens all tokens of an image to one vector per network, and uses the cosine between the two vectors.

    In the form `pooled`, `global` and `token` use the embeddings instead of class tokens, and `local` and `map` are
    disabled. A LayerNorm without parameters normalises the student's embedding, because ViTs also end in a LayerNorm.
    Without this LayerNorm, pooled features of ReLUs would have no negative values and could not point in the direction
    of the mapped vectors. The form `pooled` has no source, and was added here. All other equations are those of the
    authors' released code, because the text of the paper was not available.

    Args:
        form: Vectors that are compared. `tokens`: the class token and the tokens of the patches. `pooled`: the
            embeddings. Default: `tokens` if both networks have a class token and the student's classifier reads it,
            otherwise `pooled`.
        temperatures: Temperatures over which SNE is averaged.
        style: Form of SNE. `joint`, the paper's form, has one distribution over all pairs of vectors. `half` has one
            distribution for each vector.
        layer_norm: Whether the head is a LayerNorm and a linear map with bias (the paper's head). If false, the head is
            a linear map without bias.
        local_weight: Weight of SNE over the tokens of each image. It has no effect in the form `pooled`.
        global_weight: Weight of SNE over the batch.
        token_weight: Weight of the cosine between the class tokens, or between the embeddings.
        map_weight: Weight of the cosine between all tokens. It has no effect in the form `pooled`.
        ce_weight: Weight of the cross-entropy with the labels. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if the form is `tokens` and a network has no class token, or the two networks have different
            numbers of patches.
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
            raise ConfigError("temperatures: the list is empty; give one temperature or more")
        for temperature in temperatures:
            check_temperature(temperatures=temperature)
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
            raise ConfigError(
                "token_weight, map_weight: both are 0, so the student learns nothing; give one of them a value above 0 "
                "(form pooled uses only token_weight)"
            )
        if not (self.local_weight or self.global_weight):
            raise ConfigError(
                "local_weight, global_weight: both are 0, so the head learns nothing; give one of them a value above 0 "
                "(form pooled uses only global_weight)"
            )

    @property
    def reads(self) -> Reads:
        return Reads(tokens=True) if self.form == "tokens" else Reads(embedding=True)

    @property
    def min_batch_size(self) -> int:
        return 1 if self.form == "tokens" else 3  # SNE of 1 or 2 vectors is 0: the head would learn nothing

    def _check_grids(self, student: tuple[int, int] | None, teacher: tuple[int, int] | None) -> None:
        for network, shape in ((self.student, student), (self.teacher, teacher)):
            if shape is None:
                raise ConfigError(f"form: {network.name} has no tokens, or no class token; choose pooled")
        if student[0] != teacher[0]:
            raise ConfigError(
                f"form: the student {self.student.name} has {student[0] - 1} patches and the teacher "
                f"{self.teacher.name} has {teacher[0] - 1}; give them the same grid (size, patch_size), or "
                "choose pooled"
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
        """Return the vectors N,M,D and N,M,E that are compared: the tokens, or one embedding (M = 1)."""
        if self.form == "pooled":
            vectors = F.layer_norm(student.embedding, student.embedding.shape[1:])
            return vectors[:, None], teacher.embedding[:, None]
        return _first_and_patches(self.student, student.tokens), _first_and_patches(self.teacher, teacher.tokens)


def _first_and_patches(network: Network, tokens: Tensor) -> Tensor:
    """Return tokens N,1+M,D: the class token, followed by the tokens of the patches, without registers."""
    prefix = getattr(network.model, "num_prefix_tokens", 0)
    return torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1)


@torch.no_grad()
def _token_shape(network: Network) -> tuple[int, int] | None:
    """Return the number of tokens (without registers) and their width, or None if there is no class token."""
    if getattr(network.model, "cls_token", None) is None:  # a register token cannot replace it
        return None
    side = network.size or 32
    with eval_mode(network):
        tokens = network.features(torch.zeros(1, 3, side, side, dtype=torch.uint8), tokens=True).tokens
    return None if tokens is None else tuple(_first_and_patches(network, tokens).shape[1:])
