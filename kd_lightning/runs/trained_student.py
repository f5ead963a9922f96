"""The module with which `predict` and `embed` run a student without its method and its teacher."""

from kd_lightning.errors import ConfigError
from kd_lightning.methods import Supervised
from kd_lightning.models import Network


class _TrainedStudent(Supervised):
    """A trained student, which is not trained further. It is not a method, so that no list of methods names it.

    Args:
        student: Network with the weights of a run.
        classifier_trained: Whether the run has trained the student's classifier.
    """

    def __init__(self, *, student: Network, classifier_trained: bool) -> None:
        super().__init__(student=student)
        self.classifier_trained = classifier_trained

    def setup(self, stage: str) -> None:
        """Check that the data have the classes of the classifier.

        Raises:
            ConfigError: if the numbers of classes differ.
        """
        super().setup(stage)
        given, known = self.trainer.datamodule.num_classes, self.student.num_classes
        if self.classifier_trained and given not in (0, known):
            raise ConfigError(
                f"data: the data have {given} classes, but the student was trained for {known}; choose data with the "
                "classes of the run, or give only --data.path"
            )

    @property
    def trains_classifier(self) -> bool:
        return self.classifier_trained
