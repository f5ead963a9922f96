"""TinTeM: golden values and invariances of SNE, bounded memory, separate gradients, tokens and pooled forms."""

from pathlib import Path

import pytest
import torch
from helpers.factories import method, trainer
from helpers.golden import student, teacher
from torch import Tensor

from kd_lightning import functional
from kd_lightning.batch import Batch
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.functional import sne_loss
from kd_lightning.methods import TinTeM
from kd_lightning.methods.tintem import cosine_loss
from kd_lightning.models import Network
from kd_lightning.randomness import sample_keys


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-12)


def test_golden_values() -> None:
    mapped, theirs = student(6, 3), teacher(6, 8)
    assert sne_loss(mapped, theirs).item() == near(19.363365169203526)
    assert sne_loss(mapped, theirs, temperatures=[0.1]).item() == near(5.843851291547294)
    assert sne_loss(mapped, theirs, style="half").item() == near(21.545665650231207)
    assert sne_loss(mapped, theirs, temperatures=[0.1], style="half").item() == near(6.229642900229158)
    flat = cosine_loss(student(2, 12).view(2, 3, 4), teacher(2, 12).view(2, 3, 4))
    assert flat.item() == near(1.0677018002728391)  # the mean over tokens would be 0.9669


def reference(mapped: Tensor, theirs: Tensor, temperature: float) -> float:
    """Return KL(P || Q) with P and Q over ordered pairs, computed with loops."""

    def joint(x: Tensor) -> Tensor:
        size = len(x)
        cos = torch.stack([torch.stack([a @ b / a.norm() / b.norm() for b in x]) for a in x])
        rows = [[torch.exp(cos[i, j] / temperature) * (i != j) for j in range(size)] for i in range(size)]
        p = torch.tensor([[value / sum(row) for value in row] for row in rows], dtype=torch.float64)
        return (p + p.T) / (p + p.T).sum()

    p, q = joint(theirs), joint(mapped)
    off = ~torch.eye(len(p), dtype=torch.bool)
    return (p[off] * (p[off] / q[off]).log()).sum().item()


def test_equals_the_definition_and_is_a_mean_over_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn((3, 5, d), dtype=torch.float64, generator=generator) for d in (4, 7))
    expected = [reference(a, b, 0.3) for a, b in zip(ours, theirs, strict=True)]
    assert sne_loss(ours, theirs, temperatures=[0.3]).item() == near(sum(expected) / 3)


def test_angles_alone_count() -> None:
    theirs = teacher(9, 8)
    turned = theirs @ torch.linalg.qr(torch.randn((8, 8), dtype=torch.float64))[0]
    scaled = turned * torch.arange(1, 10)[:, None]
    assert sne_loss(turned, theirs).abs() < 1e-9
    assert sne_loss(scaled, theirs).abs() < 1e-9
    assert sne_loss(turned + 1, theirs) > 1e-3


@pytest.mark.parametrize("size", [1, 2])
def test_one_or_two_vectors_have_nothing_to_tell(size: int) -> None:
    mapped = student(size, 3).requires_grad_()
    loss = sne_loss(mapped, teacher(size, 8))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert mapped.grad.abs().max() < 1e-9


def test_pieces_give_the_same_and_hold_less(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn((16, 40, d), generator=generator) for d in (8, 12))

    def run(floats: int) -> tuple[Tensor, Tensor, int]:
        monkeypatch.setattr(functional, "_FLOATS", floats)
        mapped, held = ours.clone().requires_grad_(), 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = sne_loss(mapped, theirs)
        forward = held
        loss.backward()
        return loss.detach(), mapped.grad, forward

    whole, pieces = run(1 << 30), run(2 * 40 * 40 * 10)
    torch.testing.assert_close(pieces[0], whole[0])
    torch.testing.assert_close(pieces[1], whole[1])
    assert pieces[2] < whole[2] / 50  # between forward and backward, only the inputs are stored


def test_pooled_relus_can_point_anywhere() -> None:
    """Without the LayerNorm, the embedding of a student that ends in ReLU would never be negative."""
    built = method(TinTeM)
    built.student.eval()
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    seen, taught = (network.features(images, embedding=True) for network in (built.student, built.teacher))
    assert seen.embedding.min() >= 0
    ours, mapped = built.aligned_pair(seen, taught)
    embedding = seen.embedding
    expected = (embedding - embedding.mean(1, keepdim=True)) / embedding.var(1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    assert (ours < 0).float().mean() > 0.2
    assert (mapped < 0).float().mean() > 0.2


VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2}


def vit(width: int, **kwargs: object) -> Network:
    return Network("vit_tiny_patch16_224", num_classes=10, model_kwargs={**VIT, "embed_dim": width, **kwargs})


def trained_vit(width: int = 16, **kwargs: object) -> Network:
    network = vit(width, **kwargs)
    network.has_weights = True
    return network


def made(theirs: Network, ours: Network, **kwargs: object) -> TinTeM:
    method = TinTeM(teacher=theirs, student=ours, **kwargs)
    method.log_dict = lambda *args, **kwargs: None
    return method


def batch(count: int = 6) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.arange(count), sample_keys(0, 0, torch.arange(count)))


RESNET = {"name": "cifar_resnet20.digits", "pretrained": True}


@pytest.mark.parametrize(
    ("theirs", "ours", "terms"),
    [
        (lambda: trained_vit(16), lambda: vit(8), {"local", "global", "token", "map"}),
        (lambda: Network(**RESNET), lambda: vit(8), {"global", "token"}),
        (lambda: trained_vit(16), lambda: Network("cifar_resnet8", num_classes=10), {"global", "token"}),
        (lambda: Network(**RESNET), lambda: Network("cifar_resnet8", num_classes=10), {"global", "token"}),
    ],
)
def test_head_and_student_share_no_gradient(theirs: object, ours: object, terms: set[str]) -> None:
    torch.manual_seed(0)
    method = made(theirs(), ours())
    losses = method.training_terms(batch())
    assert {*losses} == terms

    def reached(names: set[str]) -> tuple[bool, bool]:
        method.zero_grad()
        sum(losses[name] for name in names & terms).backward(retain_graph=True)
        parts = (method.student, method.head)
        return tuple(any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters()) for part in parts)

    assert reached({"local", "global"}) == (False, True)
    assert reached({"token", "map"}) == (True, False)
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


@pytest.mark.parametrize("style", ["joint", "half"])
def test_the_terms_are_of_the_right_tokens(style: str) -> None:
    torch.manual_seed(0)
    method = made(trained_vit(16, reg_tokens=2), vit(8), style=style, temperatures=[0.1, 0.5])
    torch.nn.init.normal_(method.norm.weight)
    torch.nn.init.normal_(method.norm.bias)
    images = batch().images
    theirs, ours = (n.features(images, tokens=True).tokens for n in (method.teacher, method.student.eval()))
    theirs = torch.cat([theirs[:, :1], theirs[:, 3:]], dim=1)  # the class token and 4 patches, without the 2 registers
    mapped = (theirs - theirs.mean(-1, keepdim=True)) / (theirs.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    mapped = (mapped * method.norm.weight + method.norm.bias) @ method.head.weight.T + method.head.bias
    sne = {"temperatures": [0.1, 0.5], "style": style}
    expected = {
        "global": sne_loss(mapped[:, 0], theirs[:, 0], **sne),
        "local": torch.stack([sne_loss(a, b, **sne) for a, b in zip(mapped, theirs, strict=True)]).mean(),
        "token": 1 - torch.cosine_similarity(ours[:, 0], mapped[:, 0]).mean(),
        "map": 1 - torch.cosine_similarity(ours.flatten(1), mapped.flatten(1)).mean(),
    }
    torch.testing.assert_close(method.training_terms(batch()), expected, rtol=1e-4, atol=1e-6)


def test_tokens_of_another_grid_and_tokens_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 16 patches and the teacher .* 4; give them the same grid"):
        made(trained_vit(16), vit(8, patch_size=2))
    with pytest.raises(ConfigError, match="cifar_resnet8 has no tokens"):
        made(trained_vit(16), Network("cifar_resnet8", num_classes=10), form="tokens")
    with pytest.raises(ConfigError, match="temperatures"):
        made(trained_vit(16), vit(8), temperatures=[0.1, 0])
    assert made(trained_vit(16), vit(8, patch_size=2), form="pooled").form == "pooled"
    assert made(trained_vit(16), vit(8, class_token=False, reg_tokens=1, global_pool="avg")).form == "pooled"
    assert made(trained_vit(16), vit(8, global_pool="avg")).form == "pooled"
    with pytest.raises(ConfigError, match="token_weight, map_weight"):
        made(trained_vit(16), vit(8), token_weight=0, map_weight=0)
    with pytest.raises(ConfigError, match="2 is too few"):
        made(trained_vit(16), vit(8), form="pooled").check_data(Digits(batch_size=2))
    registers = trained_vit(16, reg_tokens=2)
    assert made(registers, vit(8)).training_terms(batch())["map"].isfinite()


@pytest.mark.e2e
def test_it_learns_and_its_map_keeps_the_angles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [16, 16, 32, 32]})
    method = TinTeM(
        teacher=Network(**RESNET),
        student=ours,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    )
    run = trainer(tmp_path, max_epochs=8, log_every_n_steps=1)
    seen = []
    method.on_train_epoch_end = lambda: seen.append({k: float(v) for k, v in run.callback_metrics.items()})
    run.fit(method, Digits(batch_size=64))
    first, last = seen[0], seen[-1]
    assert last["train/token"] < first["train/token"] * 0.75
    assert last["train/global"] < first["train/global"] / 1.5
    assert last["head/cosine_error"] < first["head/cosine_error"]
    assert 0 <= last["head/not_orthogonal"] < 1


def test_a_head_that_learns_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="local_weight, global_weight: both are 0, so the head learns nothing"):
        method(TinTeM, global_weight=0.0)
