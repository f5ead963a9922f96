"""NeighborOverlap: whether two networks find the same images alike."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class NeighborOverlap(Metric):
    """The share of each image's k nearest others, by cosine, that are the same in two embeddings: 0 to 1.

    The two may have any widths, so that it compares a student with its teacher where nothing maps one to the other
    (as CoSS's evaluation does). Two unrelated embeddings of N images share k / (N - 1) by chance.

    Args:
        k: neighbours; fewer where there are fewer others.
        most: how many images are kept at most, the first ones on each device: all are compared with all.
    """

    higher_is_better = True
    full_state_update = False
    ours: list[Tensor]
    theirs: list[Tensor]

    def __init__(self, *, k: int = 10, most: int = 5000) -> None:
        super().__init__()
        self.k, self.most = k, most
        self.add_state("ours", [], dist_reduce_fx="cat")
        self.add_state("theirs", [], dist_reduce_fx="cat")

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Adds images: N,D and N,E."""
        room = max(0, self.most - sum(map(len, self.ours)))
        self.ours.append(ours[:room].detach().float())
        self.theirs.append(theirs[:room].detach().float())

    def compute(self) -> Tensor:
        """The mean over images; 0 for fewer than two."""
        ours, theirs = (torch.cat(x) if isinstance(x, list) else x for x in (self.ours, self.theirs))
        k = min(self.k, len(ours) - 1)
        if k < 1:
            return torch.zeros((), device=ours.device)
        near, nearest = (_nearest(vectors, k) for vectors in (ours, theirs))
        return (near[:, :, None] == nearest[:, None, :]).sum(dim=(1, 2)).float().mean() / k


def _nearest(vectors: Tensor, k: int) -> Tensor:
    vectors = F.normalize(vectors, dim=1)
    likeness = (vectors @ vectors.T).fill_diagonal_(-2)  # below any cosine: an image is not its own neighbour
    return likeness.topk(k, dim=1).indices
