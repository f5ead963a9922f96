"""A dozen refusals end to end: `python -m kd_lightning` in a process of its own, one line, status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIT = "fit --config configs/digits/kd.yaml --trainer.accelerator=cpu --run.output_dir=HERE/runs"
LIGHT = [
    ("fti", "there is no command 'fti'; nearest: fit"),
    ("compare HERE --tset=t", "tset is not a field; nearest: test"),
    ("compare HERE --test=u", "test: 'u' is not a valid value; choices: t, wilcoxon"),
    ("repeat --seeds=3", "configs is required, but not given"),
    ("repeat --configs HERE/x.yaml", "configs: HERE/x.yaml does not exist"),
    ("list method", "kinds: 'method' is not a valid value; nearest: methods"),
]
HEAVY = [
    (f"{FIT} --trainer.max_epoch=3", "trainer.max_epoch is not a field; nearest: trainer.max_epochs"),
    (f"{FIT} --model.temprature=3", "model.temprature is not an argument of KD; nearest: temperature"),
    (f"{FIT} --model=KDD", "model: there is no class 'KDD'; nearest: KD"),
    (f"{FIT} --trainer.max_epochs=many", "trainer.max_epochs: many is not int"),
    ("fit --model=KD --data=Digits", "model.teacher.name, student.name are required, but not given"),
    (f"{FIT} --model.temperature=0", "temperature: 0.0 is not above 0"),
    (f"{FIT} --data.batch_size=5000", "data.batch_size: 5000"),
    (f"{FIT} --trainer.accelerator=gpuu", "trainer: You selected an invalid accelerator name"),
    (f"{FIT} --ckpt_path=HERE/last.ckpt", "ckpt_path: HERE/last.ckpt does not exist"),
    (f"{FIT} --schema=1", "but this version of kd_lightning reads 3; an older version"),
    (f"{FIT} --weights_only=false", "weights_only: false would let a checkpoint run code"),
    ("test --config configs/digits/kd.yaml", "ckpt_path: test needs a trained student"),
]


@pytest.mark.parametrize(("args", "words"), [*LIGHT, *(pytest.param(*case, marks=pytest.mark.slow) for case in HEAVY)])
def test_one_line_and_status_2(args: str, words: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "kd_lightning", *args.replace("HERE", str(tmp_path)).split()]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert words.replace("HERE", str(tmp_path)) in errors[0]
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.iterdir()]
