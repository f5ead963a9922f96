"""LinearProbe: how well a linear classifier tells the classes from a frozen embedding."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from kd_lightning.errors import check_positive
from kd_lightning.evaluation.probe import Embedded, Probe


class LinearProbe(Probe):
    """Logs `test/linear`: the share of test images that a linear classifier on the frozen embedding puts right.

    scikit-learn's logistic regression by L-BFGS on standardised embeddings, trained on the training images, not
    augmented. Its C is the one, of 7 from 1e-4 to 100, that is best on a fifth of them held out; then all are trained
    on (the protocol of CoSS's transfer, with fewer values of C).

    Args:
        max_iter: of L-BFGS.
        **kwargs: teacher, every_n_epochs and data, as for every probe.
    """

    name = "linear"
    strengths = tuple(np.logspace(-4, 2, 7).tolist())

    def __init__(self, *, max_iter: int = 200, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(**{"LinearProbe.max_iter": max_iter})
        self.max_iter = max_iter

    def scores(self, known: Embedded, asked: Tensor, classes: int) -> Tensor:
        vectors, labels = known.vectors.cpu().numpy(), known.labels.cpu().numpy()
        count = np.unique(labels, return_counts=True)[1]
        held = max(len(labels) // 5, len(count))
        alike = labels if count.min() > 1 and len(labels) - held >= len(count) else None
        parts = train_test_split(vectors, labels, test_size=held, stratify=alike, random_state=0)
        fits = {strength: self._fitted(parts[0], parts[2], strength) for strength in self.strengths}
        best = max(fits, key=lambda strength: fits[strength].score(parts[1], parts[3]))
        fitted = self._fitted(vectors, labels, best)
        scores = torch.full((len(asked), classes), -torch.inf)
        scores[:, fitted.classes_] = torch.from_numpy(fitted.predict_log_proba(asked.cpu().numpy())).float()
        return scores

    def _fitted(self, vectors: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=self.max_iter))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the largest C may want more, and is judged as it is
            return pipeline.fit(vectors, labels)
