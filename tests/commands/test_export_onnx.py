"""export to ONNX, its int8 form, label-free students, ViTs, and the hub."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from helpers.exported_runs import PIXELS, finished, refusal

from kd_lightning.cli import main
from kd_lightning.commands.export import format as formats
from kd_lightning.commands.export.exported_model import ExportedModel
from kd_lightning.commands.export.onnx_graph import Onnx
from kd_lightning.models import Network

QUICK = ["--images=40", "--batch_sizes=[1]", "--repeats=1"]
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
FACTS = {"class_names": [], "mean": [], "std": [], "input": {}, "code": {"export": {"version": "0"}}}
FACTS |= {"architecture": "cifar_resnet8", "data": {"name": "digits"}}
installed = pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnx, onnxruntime or onnxscript is missing")


def said(path: Path, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    import onnxruntime

    ready = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = ready.run(None, {"images": pixels.numpy()})
    return {output.name: torch.from_numpy(each) for output, each in zip(ready.get_outputs(), given, strict=True)}


def props(path: Path) -> dict[str, Any]:
    import onnx

    return {each.key: json.loads(each.value) for each in onnx.load(path).metadata_props}


@installed
def test_onnx_and_int8_give_the_logits_for_any_batch(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run, out = finished(tmp_path), tmp_path / "out"
    main(["export", "--ckpt_path", str(run), "--format=onnx", "--int8", f"--path={out}", "--embedding", *QUICK])
    kwargs = {"channels": [4, 4, 8, 16]}
    network = Network("cifar_resnet8", checkpoint=str(run / "best.ckpt"), model_kwargs=kwargs).eval()
    with torch.no_grad():
        expected = network.features(PIXELS, logits=True, embedding=True)
    for count in (1, 3, 5):
        given = said(out / "student.onnx", PIXELS[:count])
        torch.testing.assert_close(given["logits"], expected.logits[:count], rtol=0, atol=1e-5)
        torch.testing.assert_close(given["embedding"], expected.embedding[:count], rtol=0, atol=1e-5)
    rough = said(out / "student_int8.onnx", PIXELS)["logits"]
    assert 0 < (rough - expected.logits).abs().max() < 0.3 * expected.logits.abs().max()
    assert props(out / "student.onnx")["class_names"] == [str(digit) for digit in range(10)]
    facts = props(out / "student_int8.onnx")["kd_lightning"]
    assert facts["int8"]["images"] == 360
    assert facts["int8"]["calibration_images"] == 256
    printed = capfd.readouterr().out
    assert f"accuracy {facts['int8']['acc']:.2%}, in float32 {facts['int8']['acc_float']:.2%}" in printed
    place = str(Path(formats.__file__).parents[3]).encode()
    assert place not in (out / "student.onnx").read_bytes()


@installed
def test_a_vit_resizes_within_and_takes_floats(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    student = {"name": "vit_tiny_patch16_224", "model_kwargs": VIT}
    run = finished(tmp_path, student)
    main(["export", "--ckpt_path", str(run), "--format", "onnx", "timm", "torch_export", "--input=float32", *QUICK])
    network = Network(student["name"], checkpoint=str(run / "best.ckpt"), model_kwargs=VIT).eval()
    with torch.no_grad():
        expected = network(PIXELS)
    given = said(run / "export/student.onnx", PIXELS.float() / 255)["logits"]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    model = timm.create_model(f"local-dir:{run / 'export/timm'}", pretrained=True)
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 16, 16)
    assert "resize the images to 16" in capfd.readouterr().out


@installed
@pytest.mark.parametrize(
    ("interpolation", "size"), [("bicubic", 16), ("bicubic", 5), ("bilinear", 16), ("bilinear", 5)]
)
def test_the_graph_resizes_as_pytorch_does(interpolation: str, size: int, tmp_path: Path) -> None:
    network = Network("cifar_resnet8", num_classes=3, size=size, model_kwargs={"channels": [4, 4, 8, 16]}).eval()
    network.interpolation = interpolation
    Onnx(ExportedModel(network, ("logits",), 8, "uint8", [])).write(tmp_path / "student.onnx", FACTS)
    with torch.no_grad():
        expected = network(PIXELS)
    torch.testing.assert_close(said(tmp_path / "student.onnx", PIXELS)["logits"], expected, rtol=0, atol=1e-5)


@installed
def test_a_student_without_labels_gives_its_embedding(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    student = {"name": "resnet10t", "model_kwargs": {"stem_width": 8, "channels": [8, 8, 8, 16]}}
    run = finished(tmp_path, student, method="CoSS")
    formats = ["--format", "safetensors", "timm", "torch_export", "onnx", "--int8"]
    main(["export", "--ckpt_path", str(run), *formats, "--calibration=16", *QUICK])
    network = Network("resnet10t", checkpoint=str(run / "best.ckpt"), model_kwargs=student["model_kwargs"]).eval()
    with torch.no_grad():
        expected = network.features(PIXELS, embedding=True).embedding
    given = said(run / "export/student.onnx", PIXELS)
    assert [*given] == ["embedding"]
    torch.testing.assert_close(given["embedding"], expected, rtol=0, atol=1e-5)
    model = timm.create_model(f"local-dir:{run / 'export/timm'}", pretrained=True).eval()
    with torch.no_grad():
        seen = model((PIXELS / 255 - network.mean) / network.std)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    assert "cosine of the embedding" in capfd.readouterr().out
    assert "an embedding; it has no classifier" in (run / "export/timm/README.md").read_text()


def test_a_missing_package_is_named_before_anything_is_read(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else find_spec("json"))
    line = refusal(["--ckpt_path=nowhere", "--format=onnx"], capfd)
    assert "onnx needs onnxscript" in line
    assert "pip install 'kd_lightning[export]'" in line


def test_the_hub_is_reached_by_its_own_library_and_privately(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Any]] = []
    public = False

    class Fake:
        def __init__(self, **kwargs: Any) -> None:
            assert "token" not in kwargs

        def create_repo(self, name: str, **kwargs: Any) -> str:
            done.append((name, kwargs["private"]))
            return f"https://hub/{name}"

        def model_info(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(private=not public)

        def upload_folder(self, repo_id: str, folder_path: Path, **kwargs: Any) -> None:
            done.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Fake)
    args = ["--ckpt_path", str(finished(tmp_path)), "--format=timm", "--push_to_hub=me/net", "--overwrite", *QUICK]
    main(["export", *args])
    assert done == [("me/net", True), ("me/net", ["README.md", "config.json", "model.safetensors"])]
    assert "on the hub: https://hub/me/net" in capfd.readouterr().out
    public = True
    assert "push_to_hub: me/net exists and is public" in refusal(args, capfd, status=1)
    assert len(done) == 3

    def offline(self: Any, name: str, **kwargs: Any) -> str:
        raise huggingface_hub.errors.OfflineModeIsEnabled("no connection\nmore")

    monkeypatch.setattr(Fake, "create_repo", offline)
    assert "push_to_hub: the upload to me/net failed (no connection more); the files" in refusal(args, capfd, status=1)
