"""NeighborOverlap: whether two networks find the same images alike."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from kd_lightning.errors import check_positive
from kd_lightning.metrics.cka import check_pair
from kd_lightning.metrics.cosines import cosine_rows, mask_self
from kd_lightning.metrics.states import gather_rows, joined


class NeighborOverlap(Metric):
    """The share of each image's k nearest others, by cosine, that are the same in two embeddings: 0 to 1.

    The two may have any widths, so that it compares a student with its teacher where nothing maps one to the other
    (as CoSS's evaluation does). Two unrelated embeddings of N images share k / (N - 1) by chance.

    Args:
        k: neighbours; fewer where there are fewer others. Several are answered by one pass, as a dict.
        most: how many images are kept at most, the first ones on each device: all are compared with all.
    """

    higher_is_better = True
    full_state_update = False
    ours: list[Tensor]
    theirs: list[Tensor]

    def __init__(self, *, k: int | Sequence[int] = 10, most: int = 5000) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.k, self.most = k, most
        self.add_state("ours", [], dist_reduce_fx="cat")
        self.add_state("theirs", [], dist_reduce_fx="cat")

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Adds images: N,D and N,E."""
        room = max(0, self.most - sum(map(len, self.ours)))
        self.ours.append(ours[:room].detach().float())
        self.theirs.append(theirs[:room].detach().float())

    def compute(self) -> Tensor | dict[int, Tensor]:
        """The mean over images; 0 for fewer than two, NaN where values are not finite."""
        ours, theirs = joined(self.ours), joined(self.theirs)
        ks = (self.k,) if isinstance(self.k, int) else self.k
        shares = neighbor_overlap(ours, theirs, ks) if len(ours) else dict.fromkeys(ks, 0.0)
        found = {k: torch.tensor(share, device=self.device) for k, share in shares.items()}
        return found[self.k] if isinstance(self.k, int) else found


def neighbor_overlap(ours: Tensor, theirs: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """`NeighborOverlap` for several k in one pass, some rows at a time: 50,000 images need no N x N matrix.

    Args:
        ours: N,D; computed with in float32.
        theirs: N,E.
        ks: each above 0; beyond the N - 1 others it is all of them. 0 for fewer than two images,
            NaN where values are not finite.

    Raises:
        ConfigError: for a k below 1, or different numbers of images.
    """
    for k in ks:
        check_positive(k=k)
    check_pair(ours, theirs)
    most = min(max(ks, default=1), len(ours) - 1)
    if most < 1:
        return dict.fromkeys(ks, 0.0)
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        return dict.fromkeys(ks, math.nan)
    kept = {k: min(k, most) for k in ks}
    shared = dict.fromkeys(kept.values(), 0)
    for (rows, our), (_, their) in zip(cosine_rows(ours, ours), cosine_rows(theirs, theirs), strict=True):
        near, nearest = (mask_self(cosines, rows).topk(most, dim=1).indices for cosines in (our, their))
        same = near[:, :, None] == nearest[:, None, :]
        for k in shared:
            shared[k] += same[:, :k, :k].sum()
    return {k: float(shared[count]) / (count * len(ours)) for k, count in kept.items()}
