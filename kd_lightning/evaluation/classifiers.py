"""Linear classifiers on frozen embeddings, as probes train them."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # scikit-learn takes a second
    from sklearn.pipeline import Pipeline

STRENGTHS = tuple(np.logspace(-4, 2, 7).tolist())


def logistic_scores(
    known: Tensor,
    labels: Tensor,
    asked: Tensor,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    max_iter: int = 200,
) -> Tensor:
    """Log-probabilities N,K of scikit-learn's logistic regression by L-BFGS on standardised embeddings.

    Its C is the one of `strengths` that is best on a fifth of the known images held out, by class; then all are
    trained on. A class that no known image has gets -inf.

    Args:
        known: M,D.
        labels: M int64.
        asked: N,D.
        classes: K.
        strengths: values of C to choose from; one alone is taken as it is.
        max_iter: of L-BFGS.
    """
    vectors, targets = known.cpu().numpy(), labels.cpu().numpy()
    best = strengths[0] if len(strengths) == 1 else _best(vectors, targets, strengths, max_iter)
    fitted = _fitted(vectors, targets, best, max_iter)
    scores = torch.full((len(asked), classes), -torch.inf)
    scores[:, fitted.classes_] = torch.from_numpy(fitted.predict_log_proba(asked.cpu().numpy())).float()
    return scores


def _best(vectors: np.ndarray, labels: np.ndarray, strengths: Sequence[float], max_iter: int) -> float:
    from sklearn.model_selection import train_test_split

    count = np.unique(labels, return_counts=True)[1]
    held = max(len(labels) // 5, len(count))
    alike = labels if count.min() > 1 and len(labels) - held >= len(count) else None
    parts = train_test_split(vectors, labels, test_size=held, stratify=alike, random_state=0)
    fits = {strength: _fitted(parts[0], parts[2], strength, max_iter) for strength in strengths}
    return max(fits, key=lambda strength: fits[strength].score(parts[1], parts[3]))


def _fitted(vectors: np.ndarray, labels: np.ndarray, strength: float, max_iter: int) -> "Pipeline":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=max_iter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the largest C may want more, and is evaluated as it is
        return pipeline.fit(vectors, labels)


def sgd_scores(
    known: Tensor,
    labels: Tensor,
    asked: Tensor,
    *,
    classes: int,
    epochs: int = 100,
    lr: float = 30.0,
    batch_size: int = 256,
) -> Tensor:
    """Logits N,K of a linear layer trained by SGD, on the embeddings' device: CoSS's recipe for ImageNet.

    Weights from normal(0, 0.01), no bias at first, momentum 0.9, no weight decay, the rate divided by 10 after 60 % and
    80 % of the epochs; a rest smaller than a batch is left out. The released code augments the training images and
    keeps the best epoch by validation; here they are not augmented and the last epoch counts. Seeded by 0.

    Args:
        known: M,D.
        labels: M int64.
        asked: N,D.
        classes: K.
        epochs: over the known images.
        lr: learning rate.
        batch_size: images a step, all of them where there are fewer.
    """
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(known.shape[1], classes).to(known.device)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.01)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.6 * epochs), int(0.8 * epochs)])
    size = min(batch_size, len(known))
    with torch.enable_grad(), torch.autocast(known.device.type, enabled=False):
        for _ in range(epochs):
            order = torch.randperm(len(known), generator=generator)[: len(known) // size * size]
            for rows in order.to(known.device).split(size):
                optimizer.zero_grad()
                F.cross_entropy(layer(known[rows]), labels[rows]).backward()
                optimizer.step()
            schedule.step()
    return layer(asked).detach()
