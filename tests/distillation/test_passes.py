"""Further networks and further passes, which a method declares and the base runs."""

from pathlib import Path

import torch
from helpers.factories import digits, method, student, trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, FurtherNetwork, Inputs, StudentModule
from kd_lightning.functional import kd_loss
from kd_lightning.models import Features, Masked, Network, Reads


class Mutual(StudentModule):
    """Two students that learn from each other; the second one is a further network."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.peer = student()

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    @property
    def further(self) -> dict[str, FurtherNetwork]:
        return {"peer": FurtherNetwork(self.peer, Reads(logits=True))}

    def losses(self, student: Features, batch: Batch, peer: Features) -> dict[str, Tensor]:
        return {
            "student": kd_loss(student.logits, peer.logits.detach(), temperature=1.0),
            "peer": kd_loss(peer.logits, student.logits.detach(), temperature=1.0),
        }


class Crops(Distiller):
    """The student gets views of different sizes, the teacher only the images of the batch."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.set_weights(crop_weight=1.0)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def inputs(self, batch: Batch) -> Inputs:
        return Inputs([batch.images, batch.images[:, :, :6, :6], batch.images[:4]], [batch.images])

    def losses(self, student: list[Features], teacher: list[Features], batch: Batch) -> dict[str, Tensor]:
        self.sizes = [len(seen.embedding) for seen in student], len(teacher)
        return {"crop": sum(seen.embedding.square().mean() for seen in student)}


class Restored(StudentModule):
    """The student learns to see an image with masked patches as it sees the whole image."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(ce_weight=0.0, **kwargs)
        self.set_weights(restored_weight=1.0)
        self.token = self.student.mask_token()

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def inputs(self, batch: Batch) -> list[Tensor | Masked]:
        mask = (torch.arange(4) % 2 == 0).expand(len(batch.images), 4)
        return [batch.images, Masked(batch.images, mask, self.token)]

    def losses(self, student: list[Features], batch: Batch) -> dict[str, Tensor]:
        whole, masked = student
        return {"restored": (masked.embedding - whole.embedding.detach()).square().mean()}


def test_a_pass_of_masked_tokens(tmp_path: Path) -> None:
    small = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}
    built = Restored(student=Network("vit_tiny_patch16_224", model_kwargs=small))
    before = built.token.detach().clone()
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(built, digits())
    assert not torch.equal(built.token, before)
    assert not [name for name in built.student.state_dict() if "token" in name and "cls" not in name]


def test_a_further_network_is_run_trained_and_kept(tmp_path: Path) -> None:
    built = Mutual(student=student())
    before = built.peer.model.fc.weight.detach().clone()
    run = trainer(tmp_path, limit_train_batches=2)
    run.fit(built, digits())
    assert not torch.equal(built.peer.model.fc.weight, before)
    assert {*built.loss_terms} == {"ce", "student", "peer"}
    run.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert "peer.model.fc.weight" in saved


def test_passes_of_unequal_size(tmp_path: Path) -> None:
    built = method(Crops, kd_weight=1.0)
    trainer(tmp_path, limit_train_batches=1).fit(built, digits(batch_size=10))
    assert built.sizes == ([10, 10, 4], 1)
    assert {*built.loss_terms} == {"ce", "crop", "kd"}  # ce and kd use the first pass, the images of the batch
