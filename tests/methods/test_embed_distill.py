"""EmbedDistill: golden values, the gallery of the batch and of a file, and a gallery of another teacher."""

import json
from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, trainer, with_weights
from safetensors.torch import save_file
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined
from kd_lightning.errors import ConfigError
from kd_lightning.methods import EmbedDistill
from kd_lightning.methods.embed_distill import embedding_distance, score_loss
from kd_lightning.models import Features, Network, checkpoints
from kd_lightning.runs.checkpoint_io import check_checkpoint

CHANNELS = {"channels": [4, 4, 8, 16]}


def mapped(student: Tensor) -> Tensor:
    return student @ golden.weight(1, 8, 5).T + golden.bias(1, 8)


def test_golden_values() -> None:
    student, teacher = golden.student(6, 5), golden.teacher(6, 5)
    golden.check(lambda x: embedding_distance(x, teacher), (student,), 2.142916483, 0.40824829)
    cosines = (lambda x: embedding_distance(x, teacher, distance="cosine")), (student,), 0.894244949, 0.2816248
    golden.check(*cosines)
    wide = golden.teacher(6, 8)
    golden.check(lambda x: embedding_distance(mapped(x), wide), (student,), 2.62572259, 0.38402759)
    scores = (lambda x: score_loss(mapped(x), wide, golden.teacher(4, 8))), (student,), 0.7705260036, 0.17273461
    golden.check(*scores)


def test_the_euclidean_distance_is_not_squared_and_flat_at_the_teacher() -> None:
    teacher = golden.teacher(6, 5)
    student = (teacher + 3).requires_grad_()
    assert embedding_distance(student, teacher).item() == pytest.approx(3 * 5**0.5)
    assert embedding_distance(student, teacher, distance="mse").item() == pytest.approx(9)
    same = teacher.clone().requires_grad_()
    embedding_distance(same, teacher).backward()
    assert same.grad.isfinite().all()


def features(rows: int = 4) -> tuple[Features, Features, Batch]:
    student, teacher = (Features(embedding=x.float()) for x in (golden.student(rows, 16), golden.teacher(rows, 64)))
    none = torch.arange(rows)
    return student, teacher, Batch(none, none, none, none)


def write(path: Path, embedding: Tensor, **facts: str) -> str:
    save_file({"embedding": embedding}, path, metadata={name: json.dumps(value) for name, value in facts.items()})
    return str(path)


def test_the_gallery_is_the_batch_or_a_file(tmp_path: Path) -> None:
    student, teacher, batch = features()
    frozen = golden.teacher(9, 64, 20).float()
    path = write(tmp_path / "g.safetensors", frozen, fingerprint=shared_teacher().fingerprint(), network="teacher")
    for arguments, gallery in (({}, teacher.embedding), ({"gallery": path}, frozen)):
        built = method(EmbedDistill, score_weight=2.0, temperature=3.0, **arguments)
        found = built.losses(student, teacher, batch)["score"]
        queries = built.head(student.embedding)
        torch.testing.assert_close(found, 2 * score_loss(queries, teacher.embedding, gallery, temperature=3.0))
    assert "gallery" not in built.state_dict()


def test_the_deployed_network_has_the_map_if_the_widths_differ() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    built = method(EmbedDistill).eval()
    student, deployed, teacher = (
        network.features(images, embedding=True, logits=True)
        for network in (built.student, built.deployed, built.teacher)
    )
    assert torch.equal(deployed.embedding, built.head(student.embedding))
    assert torch.equal(deployed.logits, student.logits)
    assert built.aligned_pair(deployed, teacher) == (deployed.embedding, teacher.embedding)
    pair = built.head(student.embedding), teacher.embedding
    assert built.losses(student, teacher, None)["embedding"] == embedding_distance(*pair)
    own = [network.parameter_count() for network in (built.student, built.deployed)]
    assert own[1] - own[0] == 16 * 64 + 64
    twin = method(EmbedDistill, student=Network("cifar_resnet8"))
    assert twin.deployed is twin.student


def test_the_deployed_network_without_a_classifier(tmp_path: Path) -> None:
    built = method(EmbedDistill, student=Network("cifar_resnet8", num_classes=0, model_kwargs=CHANNELS)).eval()
    path = tmp_path / "student.safetensors"
    checkpoints.write(path, built.deployed_state(built.state_dict()), built.deployed.facts())
    again = Network("mapped_embedding", checkpoint=str(path), model_kwargs=built.deployed.model_kwargs).eval()
    images = torch.zeros(2, 3, 8, 8)
    expected = built.head(built.student.features(images, embedding=True).embedding)
    assert again.num_classes == 0
    assert torch.equal(again(images), expected)
    with pytest.raises(ConfigError, match="classifier of this network is a StudentClassifier"):
        _ = method(EmbedDistill).deployed.classifier


def test_the_file_of_the_deployed_network_points_to_its_run(tmp_path: Path) -> None:
    built, path = method(EmbedDistill), tmp_path / "student.safetensors"
    checkpoints.write(path, built.deployed_state(built.state_dict()), built.deployed.facts())
    with pytest.raises(ConfigError, match=r"give a run's \.ckpt, or give this file as model.student.checkpoint, with"):
        check_checkpoint(str(path))
    for name in ("config.yaml", "last.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"further modules; give the folder of its run, {tmp_path}$"):
        check_checkpoint(str(path))


def test_it_is_a_part_of_a_combination_if_the_widths_are_equal() -> None:
    with pytest.raises(ConfigError, match=r"EmbedDistill cannot be a part, .* \(mapped_embedding\)"):
        method(Combined, parts=[EmbedDistill])
    built = method(Combined, parts=[EmbedDistill], student=Network("cifar_resnet8"))
    assert built.deployed is built.student


def test_embed_writes_a_gallery(tmp_path: Path) -> None:
    from kd_lightning.callbacks import SavePredictions
    from kd_lightning.methods import Supervised

    data = digits(predict_split="val")
    file = tmp_path / "gallery.safetensors"
    network = with_weights(tmp_path, "cifar_resnet8")
    run = trainer(tmp_path, SavePredictions(path=str(file), embeddings=True))
    run.predict(Supervised(student=network), data, return_predictions=False)
    teacher = Network("cifar_resnet8", checkpoint=str(tmp_path / "cifar_resnet8.safetensors"))
    built = method(EmbedDistill, teacher, gallery=str(file))
    assert built.gallery.shape == (len(data.datasets["val"]), 64)


@pytest.mark.parametrize(
    ("embedding", "facts", "message"),
    [
        (torch.ones(3, 64), {}, "does not say which network computed it"),
        (
            torch.ones(3, 64),
            {"fingerprint": "f" * 64, "network": "resnet50"},
            r"another network .* \(resnet50, .*ffff;",
        ),
        (torch.ones(3), {}, "contains no embeddings"),
        (torch.ones(0, 64), {"fingerprint": None}, "contains 0 embeddings of 64 numbers"),
        (torch.full((3, 64), torch.nan), {"fingerprint": None}, "finite embeddings of 64 numbers are needed"),
    ],
)
def test_another_gallery_is_refused(
    embedding: Tensor, facts: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    facts = {name: value or shared_teacher().fingerprint() for name, value in facts.items()}
    path = write(tmp_path / "g.safetensors", embedding, **facts)
    with pytest.raises(ConfigError, match=f"model.gallery: {path}.* {message}"):
        method(EmbedDistill, shared_teacher(), gallery=path)


def test_a_missing_or_broken_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.gallery: .*none.safetensors"):
        method(EmbedDistill, shared_teacher(), gallery=str(tmp_path / "none.safetensors"))
    (tmp_path / "g.safetensors").write_text("no tensors")
    with pytest.raises(ConfigError, match=r"model.gallery: .* cannot be read"):
        method(EmbedDistill, shared_teacher(), gallery=str(tmp_path / "g.safetensors"))
