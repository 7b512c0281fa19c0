"""The studies of networks: what they make themselves."""

from outpace.benchmarks.studies.networks import _some


def test_fewer_images_are_as_many_of_each_class_and_all_that_are_held_out(tmp_path):
    data = tmp_path / "data"
    for part in ("train", "test"):
        for name, count in (("cat", 5), ("dog", 3)):
            (data / part / name).mkdir(parents=True)
            for k in range(count):
                (data / part / name / f"{k}.jpg").write_text(f"{part} {name} {k}")
    for _ in range(2):  # a study that was cut short goes on
        some = _some(data, 4, tmp_path / "some")
    found = {path.relative_to(some).as_posix(): path.read_text() for path in some.rglob("*.jpg")}
    assert found == {f"train/{name}/{k}.jpg": f"train {name} {k}" for name in ("cat", "dog") for k in range(2)}
    assert len(list((some / "test").glob("*/*"))) == 8
