"""Settings that differ between two configs, one by one."""

from typing import Any

from kd_lightning.runs.differences import differences, flat, in_words


def config(*parts: tuple[str, dict[str, Any]], crops: list[Any] | None = None) -> dict[str, Any]:
    listed = [{"class_path": f"kd_lightning.methods.{name}", "init_args": given} for name, given in parts]
    return {"model": {"init_args": {"parts": listed}}, "data": {"crops": crops, "mean": [0.5, 0.5]}, "trainer": {}}


def test_the_one_setting_of_a_part() -> None:
    before, now = (config(("SP", {"layers": 1, "sp_weight": weight}), ("AT", {})) for weight in (3000.0, 1.0))
    changed = differences(before, now)
    assert changed == {"model.init_args.parts.SP.init_args.sp_weight": (3000.0, 1.0)}
    assert in_words(changed) == "model.init_args.parts.SP.init_args.sp_weight was 3000.0, is now 1.0"


def test_another_order_and_another_part() -> None:
    one, two = ("SP", {"layers": 1}), ("AT", {"layers": 3})
    assert differences(config(one, two), config(two, one)) == {
        "model.init_args.parts": (["SP", "AT"], ["AT", "SP"]),
    }
    changed = differences(config(one), config(one, two))
    assert in_words(changed, most=1).startswith("model.init_args.parts was ['SP'], is now ['SP', 'AT']")
    assert changed["model.init_args.parts.AT.init_args.layers"] == (None, 3)


def test_lists_of_numbers_are_values_and_equal_names_are_told_apart() -> None:
    twice = [{"class_path": "RandomCrop", "init_args": {"padding": n}} for n in (2, 4)]
    found = flat(config(crops=["Flip", *twice, {"a": 1}]))
    assert found["data.mean"] == [0.5, 0.5]
    assert found["data.crops.RandomCrop.init_args.padding"] == 2
    assert found["data.crops.RandomCrop-2.init_args.padding"] == 4
    assert found["data.crops.3.a"] == 1
    assert found["data.crops"] == ["Flip", "RandomCrop", "RandomCrop-2", "3"]
    assert found["trainer"] == {}
