"""Retrieval: whether the nearest images have the same class."""

from typing import Any, Literal

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator
from kd_lightning.evaluation.network_view import NetworkView
from kd_lightning.metrics import retrieval
from kd_lightning.models.modes import eval_mode


class Retrieval(Evaluator):
    """Logs `test/map` and `test/recall_<k>`: retrieval of images of the same class by cosine.

    Every test image is a query, and the other test images are ranked by their cosine to the query. mAP uses the
    complete ranking. recall@k is the share of queries with an image of the same class among the k nearest images.

    With `gallery: teacher`, the search is asymmetric: the student reads the queries, and the teacher has read the
    gallery, which consists of the training images without augmentation. The values are then `test/map_asymmetric`
    and `test/recall_<k>_asymmetric`. With `teacher`, the teacher also reads the queries, for comparison.

    Args:
        k: Values of k for recall@k. Default: 1, 5 and 10.
        gallery: Images that are ranked. `own`: the other test images, read by the same network. `teacher`: the training
            images, read by the teacher. The method must then map the student's embedding into the teacher's embedding
            space.
        **kwargs: Arguments of every evaluator: teacher, every_n_epochs and data.

    Raises:
        ConfigError: if the gallery is the teacher's, but the method has no such map.
    """

    def __init__(
        self, *, k: list[int] | None = None, gallery: Literal["own", "teacher"] = "own", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.ks, self.gallery = k or [1, 5, 10], gallery
        for number in self.ks:
            check_positive(**{"Retrieval.k": number})

    @property
    def title(self) -> str:
        return super().title + (" in the teacher's gallery" if self.gallery == "teacher" else "")

    def prepare(self, data: ImageData) -> None:
        super().prepare(data)
        method = None if data.trainer is None else data.trainer.lightning_module
        if method is not None and self.gallery == "teacher" and getattr(method, "to_teacher", None) is None:
            raise ConfigError(
                f"Retrieval.gallery: teacher is given, but {type(method).__name__} does not map the student's "
                "embedding into the teacher's embedding space with these arguments; choose own, or a method that does "
                "so: CoSS, CPCL, EmbedDistill, SEED, SimReg"
            )

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        test, ks = view.predictions(), tuple(self.ks)
        if self.gallery == "own":
            return EvaluationResult(retrieval(test.embedding, test.labels, ks=ks))
        queries = test.embedding
        if view.to_teacher is not None:
            with eval_mode(view.to_teacher):
                queries = view.to_teacher(queries.to(next(view.network.parameters()).dtype)).float()
        gallery = (view.teacher or view).predictions("train")
        found = retrieval(queries, test.labels, ks=ks, bank=gallery.embedding, bank_labels=gallery.labels)
        return EvaluationResult({f"{name}_asymmetric": value for name, value in found.items()})
