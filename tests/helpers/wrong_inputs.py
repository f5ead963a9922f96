"""Wrong command lines of the commands other than `fit`, and the files that wrong inputs name."""

import os
from pathlib import Path

from PIL import Image

TRAINED = "--config HERE/kd.yaml --model.student.name=cifar_resnet20.digits --model.student.pretrained=true"
OTHERS: list[tuple[str, str]] = [
    ("compare", "runs: none are given"),
    ("compare HERE/nowhere", "nowhere: it does not exist"),
    ("compare HERE/ok --out HERE/plain.txt", "plain.txt is a file; give a folder"),
    ("compare HERE/ok --out HERE/ok", "contains files that do not belong to a report"),
    ("compare HERE/ok --test=u", "test: 'u' is not a valid value; choices: t, wilcoxon"),
    ("compare HERE/ok --metrics=test/acc", "metrics is not a field; nearest: metric"),
    ("repeat", "configs"),
    ("repeat --configs HERE/nowhere.yaml", "configs: HERE/nowhere.yaml does not exist"),
    ("repeat --configs HERE", "configs: HERE is not a file"),
    ("repeat --configs HERE/kd.yaml HERE/kd.yaml", "is given twice"),
    ("repeat --configs HERE/kd.yaml --seeds=0", "seeds"),
    ("repeat --configs HERE/kd.yaml --seeds=[1,1]", "seeds"),
    ("repeat --configs HERE/kd.yaml --seeds=-3", "seeds"),
    ("repeat --configs HERE/kd.yaml --max_parallel=0", "max_parallel: 0 is not above 0"),
    ("repeat --configs HERE/kd.yaml --max_paralel 3", "max_paralel is not a field; nearest: max_parallel"),
    ("repeat HERE/kd.yaml", "HERE/kd.yaml is given without the name of a field; choices: --configs, --dry_run"),
    ("export HERE/ok --format=timm", "ckpt_path: HERE/ok contains no checkpoint (best.ckpt or last.ckpt)"),
    ("test HERE/ok", "run: HERE/ok is not a run but images; the first argument is the folder of a run"),
    ("predict HERE/nowhere --data.path HERE/ok", "run: HERE/nowhere does not exist"),
    ("repeat --configs HERE/kd.yaml --run.id=x", "run.id: repeat sets the id of each run"),
    ("show-batch --config HERE/kd.yaml --path=show.jpg", "path: show.jpg does not end in .png"),
    ("show-batch --config HERE/kd.yaml --rows=0", "rows: 0"),
    ("show-batch --config HERE/kd.yaml --rows=100000", "rows: 100000 is more than 100"),
    ("build-neighbors --config HERE/kd.yaml --k=0", "k: 0 is not positive"),
    ("build-neighbors --config HERE/kd.yaml --path=table.pt", "path: table.pt does not end in .safetensors"),
    (
        "build-neighbors --config HERE/kd.yaml --path=HERE/t.safetensors --k=99999",
        "k: 99999 is not between 1 and 1,292",
    ),
    ("test --config HERE/kd.yaml", "ckpt_path: test needs a trained student"),
    ("predict --config HERE/kd.yaml --ckpt_path=HERE/plain.txt", "plain.txt cannot be read"),
    (
        "fit",
        "data, model are required, but not given; give a config (--config configs/quickstart.yaml), or choose from",
    ),
    ("test", "data, model are required, but not given; give the folder of a run, as in `test RUN`"),
    ("show-batch", "data, model are required, but not given; give a config (--config configs/quickstart.yaml)"),
    ("--config HERE/kd.yaml", "no command is given; begin with one of fit, validate, test, predict, for example: fit"),
    ("fit HERE/kd.yaml", "kd.yaml is given without the name of a field; give a config as --config HERE/kd.yaml"),
    (f"test {TRAINED} --trainer.limit_test_batches=0", "trainer.limit_test_batches: with 0, test would read no images"),
    (f"test {TRAINED} --trainer.limit_test_batches=0.001", "limit_test_batches: 0.001 of 2 batches is less than one"),
    (f"validate {TRAINED} --trainer.limit_val_batches=0", "limit_val_batches: with 0, validate would read no images"),
    (f"predict {TRAINED} --trainer.limit_predict_batches=0", "with 0, predict would read no images; omit the field"),
    (f"predict {TRAINED} --trainer.limit_predict_batches=0.001", "0.001 of 2 batches is less than one batch"),
    ("predict --config HERE/kd.yaml --predictions=null", "predictions: null is neither a mapping of fields nor a file"),
    ("test --config HERE/kd.yaml --ckpt_path=last", "ckpt_path: 'last' is not the path of a checkpoint (`last` is a"),
    ("distill --config HERE/kd.yaml", "there is no command 'distill'"),
]
"""Command lines, with HERE for the folder of `write_files`, and a part of the error."""


def write_files(place: Path, config: str) -> Path:
    """Write files and folders that cannot be read, and some that can; return the folder."""
    kinds = {"ok": "RGB", "float": "F", "swap": "RGB", "cut": "RGB", "zero": "RGB", "one": "RGB"}
    kinds |= dict.fromkeys(("sizes", "hollow", "loop", "pipe", "hidden", "void"), "RGB")
    for kind, mode in kinds.items():
        for split in ("train", "test"):
            for name in ("cat",) if kind == "one" else ("cat", "dog"):
                images = place / kind / split / (f"{name}s" if (kind, split) == ("swap", "test") else name)
                images.mkdir(parents=True)
                side = 9 if (kind, split) == ("sizes", "test") else 8
                for number in range(6):
                    Image.new(mode, (side, side), number).save(images / f"{number}.{'tiff' if mode == 'F' else 'png'}")
    for file in (place / "zero").rglob("*.png"):
        file.write_bytes(b"")
    torn = place / "cut" / "train" / "cat" / "0.png"
    torn.write_bytes(torn.read_bytes()[:40])
    for file in (place / "hidden" / "test").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:45])  # the header can be read
    for file in (place / "hollow" / "train" / "dog").iterdir():
        file.unlink()
    (place / "loop" / "train" / "dog" / "self").symlink_to("..")
    (place / "pipe" / "train" / "dog" / "3.png").unlink()
    os.mkfifo(place / "pipe" / "train" / "dog" / "3.png")
    (place / "void" / "test" / "dog" / "3.png").write_bytes(b"")
    (place / "empty").mkdir()
    (place / "plain.txt").write_text("x")
    (place / "cut.tar").write_bytes(bytes(100))
    (place / "cut.zip").write_bytes(b"PK\3\4")
    (place / "binary.yaml").write_bytes(bytes(range(256)))
    (place / "kd.yaml").write_text(config)
    (place / "nowhere_link").symlink_to("nowhere")
    (place / "self_link").symlink_to("self_link")
    (place / "taken").mkdir()
    (place / "taken" / "kd_lightning").touch()
    (place / "past" / "kd_lightning" / "kd-s0" / "a").mkdir(parents=True)
    (place / "past" / "kd_lightning" / "kd-s0" / "a" / "best.ckpt").touch()
    for run, file in (("a", "config.yaml"), ("b", "state.json")):
        (place / "odd" / "kd_lightning" / "kd-s0" / run / file).mkdir(parents=True)
    return place
